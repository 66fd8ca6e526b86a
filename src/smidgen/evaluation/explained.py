"""How a model's final assignments explain the evidence: each piece next to the prediction, errors first.

Tables, a row for each piece of evidence, made by its kind; those that contradict the model come first, the clearest at
the top, since these annotations are most likely wrong. Kinds about single images and pairs are judged by their
out-of-fold predictions (`out_of_fold`), since a model that has memorised a wrong label agrees with it.
`agrees` is 1 where what is given is found most likely, `probability` is that of what is given under the assignments,
calibrated (`evidence.explaining`), and `wrong_probability` that of the piece being wrong. Labels cannot decide whether
the image or the label is at fault: read "wrong" as "wrong, or an image that the model mistakes".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.evidence.bag_laws import Calibration
from smidgen.evidence.explaining import Known, Table, Unseen
from smidgen.evidence.kinds import LEARNED, kind_of
from smidgen.evidence.resolved import Resolved


@dataclass(frozen=True, eq=False)
class Explained:
    """tables: kind → its table. bags: how the law of the unique count was calibrated, None where no count is known."""

    tables: dict[str, Table]
    bags: Calibration | None = None

    @property
    def wrong_rates(self) -> dict[str, float]:
        """The estimated share of wrong pieces of each kind, as `metrics.json` has them: wrong_counts, …"""
        columns = {kind: table["wrong_probability"] for kind, table in self.tables.items()}
        return {f"wrong_{kind}": round(float(np.mean(wrong)), 6) for kind, wrong in columns.items() if wrong}


def explain(
    assignments: np.ndarray,
    evidence: Resolved,
    *,
    image_ids: Sequence[str] | np.ndarray,
    cluster_names: Sequence[str],
    kinds: Collection[str] = LEARNED,
    unseen: Unseen | None = None,
) -> Explained:
    """Return a table for each kind of evidence there is, the pieces that contradict the model first.

    Their columns are those of `Kind.explain`, then agrees and wrong_probability; proportions agree where they are not
    likely to be wrong.

    assignments: (images, clusters), rows sum to one. image_ids: (images,). kinds: those to explain.
    cluster_names: of which the first are the evidence's classes, if it names any. unseen: what is said out of fold of
    images and pairs, None to judge them by the assignments.

    >>> import torch
    >>> evidence = Resolved(3, torch.tensor([0, 1, 1]), ("cat", "dog"))
    >>> p = np.array([[0.99, 0.01], [0.98, 0.02], [0.03, 0.97]])
    >>> table = explain(p, evidence, image_ids=["a", "b", "c"], cluster_names=["cat", "dog"]).tables["labels"]
    >>> table["image"][0], table["label"][0], table["predicted"][0], table["agrees"]
    ('b', 'dog', 'cat', [0, 1, 1])
    """
    images, clusters = (np.asarray(names, dtype=object) for names in (image_ids, cluster_names))
    known = Known(assignments, evidence, images, clusters, unseen)
    there = [name for name in LEARNED if name in evidence.sizes() and name in kinds]
    found = {name: kind_of(name).explain(known) for name in there}
    calibration = found["counts"][1] if "counts" in found else None
    return Explained({name: table for name, (table, _) in found.items()}, calibration)


def images_of_worst_bags(
    tables: Mapping[str, Table],
    evidence: Resolved,
    *,
    clusters: np.ndarray,
    image_ids: Sequence[str] | np.ndarray,
    bags: int = 10,
    images: int = 40,
) -> Table:
    """Return bag and image of the bags that contradict the model most: the first `bags` of each of the tables.

    clusters: (images,) of all images. images: the most of one bag; of larger ones as many of each cluster as can be.
    """
    number = {name: b for b, name in enumerate(evidence.bag_names)}
    offsets, members = evidence.offsets.numpy(), evidence.members.numpy()
    chosen = dict.fromkeys(
        name
        for table in tables.values()
        for name, agrees in list(zip(table.get("bag", ()), table["agrees"], strict=False))[:bags]
        if not agrees
    )
    rows = {name: members[offsets[number[name]] : offsets[number[name] + 1]] for name in chosen}
    shown = {name: own[_of_each(clusters[own])[:images]] for name, own in rows.items()}
    return {
        "bag": [name for name, own in shown.items() for _ in own],
        "image": [str(image_ids[row]) for own in shown.values() for row in own.tolist()],
    }


def _of_each(clusters: np.ndarray) -> np.ndarray:
    """Return an order that begins with one image of each cluster, then a second of each, …"""
    order = np.argsort(clusters, kind="stable")
    _, starts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    turn = np.arange(len(clusters)) - np.repeat(starts, sizes)
    return order[np.argsort(turn, kind="stable")]
