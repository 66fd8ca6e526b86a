"""Evidence that fine-tuning does not learn from, to judge it by: some labels, or some statements of other kinds.

The fit on the frozen encoder before it has learned from all of it, and may know it by heart. What is judged is
therefore how well features lead from the rest of the evidence to this. What that fit says of other images still owes
a little to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.evidence.kind import Kind
from smidgen.evidence.kinds import LEARNED, kind_of
from smidgen.evidence.resolved import Resolved

EVERY, LEAST = 5, 5
"""One label of each class in five is held out, where classes have five labels or more on average."""

LEAST_STATEMENTS = 25
"""The number of statements of a kind, about bags or pairs, from which on one in five is held out."""

ENOUGH_LABELS, ENOUGH_STATEMENTS = 500, 200
"""About as many are enough: of more evidence a smaller share is held out, but for one label of each class."""

MOST_IMAGES, MOST_SHARE = 10_000, 0.25
"""Statements are held out as long as all images that they are about are no more, and no larger a share."""


def held_out_labels(labels: Tensor) -> Tensor:
    """Return the rows (m,) of every fifth label of each class, or of fewer if these are enough.

    None where classes have fewer than five labels on average, or there is one class only: its likelihood is 1 whatever
    the embeddings. labels: (n,) int64, -1 where unknown.

    >>> held_out_labels(torch.tensor([0, 0, -1, 0, 0, 0, 0, 1, 1, 1, 1, 1])).tolist()
    [5, 11]
    """
    classes, n = labels[labels >= 0].unique(), int((labels >= 0).sum())
    if len(classes) < 2 or n < LEAST * len(classes):
        return torch.zeros(0, dtype=torch.int64)
    of_class = [(labels == k).nonzero().flatten() for k in classes]
    every = [max(EVERY, min(n // ENOUGH_LABELS, len(rows))) for rows in of_class]
    return torch.cat([rows[k - 1 :: k] for rows, k in zip(of_class, every, strict=True)])


def without_held_out(evidence: Resolved) -> tuple[Resolved, Resolved]:
    """Return the evidence to learn from, and that to judge by: every fifth statement about bags, pairs and the like.

    Of each kind about 200 are enough, and fewer where these are about many images. Labels are all learned from, see
    `held_out_labels`; so are kinds of which there are few statements.
    """
    learned, judged = {"labels": evidence.labels}, {"labels": torch.full_like(evidence.labels, -1)}
    taken = torch.zeros(len(evidence.labels), dtype=torch.bool)
    for kind in map(kind_of, LEARNED):
        is_judged = _held_out(evidence, kind, taken)
        for name in kind.nothing(0) if kind.name != "labels" else ():
            learned[name], judged[name] = evidence.arrays[name][~is_judged], evidence.arrays[name][is_judged]
    return evidence.replaced(**learned), evidence.replaced(**judged)


def _held_out(evidence: Resolved, kind: Kind, taken: Tensor) -> Tensor:
    """Return which statements of a kind are held out, (statements,) bool; their images are added to `taken`."""
    known = kind.known(evidence)
    is_judged = torch.zeros(len(known), dtype=torch.bool)
    if len(known) < LEAST_STATEMENTS:
        return is_judged
    most, every = min(MOST_IMAGES, int(MOST_SHARE * len(taken))), max(EVERY, len(known) // ENOUGH_STATEMENTS)
    for row in range(every - 1, len(known), every):
        images = evidence.images_of(known[row : row + 1])[0] if kind.about == "bags" else known[row]
        new = images[~taken[images]].unique()
        if int(taken.sum()) + len(new) <= most:
            is_judged[row] = True
            taken[new] = True
    return is_judged


def images_of(evidence: Resolved) -> Tensor:
    """Return which images any evidence is about, (n_images,) bool."""
    found = evidence.labels >= 0
    for kind in map(kind_of, LEARNED):
        if kind.about != "bags":
            found[kind.known(evidence).flatten()] = True
    found[evidence.images_of(evidence.bags_known())[0]] = True
    return found
