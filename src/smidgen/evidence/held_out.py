"""Evidence that fine-tuning does not learn from, to judge it by: one statement in five, or as many as are enough.

The fit on the frozen encoder before it has learned from all of it, and may know it by heart. What is judged is
therefore how well features lead from the other statements to these: before, those of the pretrained net, which no
evidence has shaped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.evidence.kinds import LEARNED, kind_of
from smidgen.evidence.resolved import Resolved

EVERY, LEAST = 5, 5
"""One label of each class in five is held out, where classes have five labels or more on average."""

LEAST_STATEMENTS = 25
"""The number of statements of a kind, about bags or pairs, from which on one in five is held out."""

ENOUGH_LABELS, ENOUGH_STATEMENTS = 500, 200
"""More are not held out, but for one label of each class and one statement in five of few."""


def held_out_labels(labels: Tensor) -> Tensor:
    """Return the rows (m,) of every fifth label of each class, or about 500; none where classes have fewer than five on
    average, or there is one class only: its likelihood is 1 whatever the embeddings.

    labels: (n,) int64, -1 where unknown.

    >>> held_out_labels(torch.tensor([0, 0, -1, 0, 0, 0, 0, 1, 1, 1, 1, 1])).tolist()
    [5, 11]
    """
    classes, n = labels[labels >= 0].unique(), int((labels >= 0).sum())
    if len(classes) < 2 or n < LEAST * len(classes):
        return torch.zeros(0, dtype=torch.int64)
    every = max(EVERY, min(n // ENOUGH_LABELS, n // len(classes)))
    return torch.cat([(labels == k).nonzero().flatten()[every - 1 :: every] for k in classes])


def images_of(evidence: Resolved) -> Tensor:
    """Return which images any evidence is about, (n_images,) bool."""
    found = evidence.labels >= 0
    for kind in map(kind_of, LEARNED):
        if kind.about != "bags":
            found[kind.known(evidence).flatten()] = True
    found[evidence.images_of(evidence.bags_known())[0]] = True
    return found


def without_fifth(evidence: Resolved) -> tuple[Resolved, Resolved]:
    """Return the evidence to learn from, and that to judge by: every fifth statement about bags, pairs and the like.

    Of each kind about 200 are enough. Labels are all learned from, see `held_out_labels`; so are kinds of which there
    are few statements.
    """
    learned, judged = {"labels": evidence.labels}, {"labels": torch.full_like(evidence.labels, -1)}
    for kind in map(kind_of, LEARNED):
        n = len(kind.known(evidence))
        every = max(EVERY, n // ENOUGH_STATEMENTS)
        for name in kind.nothing(0) if kind.name != "labels" else ():
            values = evidence.arrays[name]
            is_judged = torch.arange(n) % every == every - 1 if n >= LEAST_STATEMENTS else torch.zeros(n).bool()
            learned[name], judged[name] = values[~is_judged], values[is_judged]
    return evidence.replaced(**learned), evidence.replaced(**judged)
