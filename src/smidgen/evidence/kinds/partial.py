"""Partial labels: an image is of one of a set of classes, and it is not known which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from smidgen.evidence.findings import Finding, number_of
from smidgen.evidence.kind import Columns, Kind, Loss, Said, Words

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk
    from smidgen.evidence.view import EvidenceView

OR = " or "  # between the classes of a set in words


class Partial(Kind):
    """Rows (image, class), one for each class of the image's set.

    Resolved: `partial_images` (m,) int64, in order, and `partial_sets` (m, classes) bool, one class at least each.
    """

    name = "partial"
    about = "images"
    forms = (("image", "label"),)
    class_at = 1
    words = Words(
        "Partial labels",
        "set of classes most likely lacks the right one",
        "sets of classes most likely lack the right one",
        {"partial": "the partial labels"},
        noun="partial labels",
    )

    # -------------------------------------------------------------------------------------------------------- arrays

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return no sets."""
        return {"partial_images": np.zeros(0, dtype=np.int64), "partial_sets": np.zeros((0, 0), dtype=bool)}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Gather the classes of each image; one that is given twice is there once."""
        statements = walk.evidence.partial
        rows = walk.rows("partial", [image for image, _ in statements])
        classes = np.array([walk.number[label] for _, label in statements], dtype=np.int64)
        images, place = np.unique(rows[rows >= 0], return_inverse=True)
        sets = np.zeros((len(images), len(walk.names)), dtype=bool)
        sets[place, classes[rows >= 0]] = True
        return {"partial_images": images.astype(np.int64), "partial_sets": sets}

    def known(self, evidence: Resolved) -> Tensor:
        """Return the images with a set, (m, 1)."""
        return evidence.partial_images[:, None]

    # ------------------------------------------------------------------------------------------------- what it allows

    def may_be(self, view: EvidenceView, rows: np.ndarray) -> np.ndarray | None:
        """Rule out all classes that are not in the set."""
        images = view.partial_images
        if not len(images):
            return None
        place = np.searchsorted(images, rows).clip(max=len(images) - 1)
        there = images[place] == rows
        allowed = np.ones((len(rows), view.n_clusters), dtype=bool)
        allowed[there, len(view.names) :] = False
        allowed[there, : len(view.names)] = view.partial_sets[place[there]]
        return allowed

    def bounds(self, view: EvidenceView, low: np.ndarray, high: np.ndarray) -> None:
        """Count the images of a bag that must be, and that may be, of each class."""
        allowed = self.may_be(view, view.members)
        if allowed is None:
            return
        must, may = np.zeros_like(low), np.zeros_like(high)
        np.add.at(may, view.bag, allowed)
        np.add.at(must, view.bag, allowed & (allowed.sum(1, keepdims=True) == 1))
        np.maximum(low, must, out=low)
        np.minimum(high, may, out=high)

    def findings(self, view: EvidenceView) -> Iterator[Finding]:
        """Yield sets of all classes, classes that are always named together, and labels outside a set."""
        sets = view.partial_sets
        if not len(sets):
            return
        all_of_them = sets.sum(1) == view.n_clusters
        if all_of_them.any():
            yield Finding(
                "warning",
                f"The partial labels of {number_of(int(all_of_them.sum()), 'image')} name all {view.n_clusters}"
                " classes: that carries no information.",
                "Leave out classes that the images cannot be of.",
            )
        labels = view.labels[view.partial_images]
        against = (labels >= 0) & ~sets[np.arange(len(sets)), labels.clip(0)]
        if against.any():
            row = int(view.partial_images[against][0])
            yield Finding(
                "problem",
                f"{number_of(int(against.sum()), 'label')} against partial labels (first: the image in row {row},"
                f" labelled {view.names[view.labels[row]]}, which is not in its set).",
                "Correct the label or the set.",
            )
        yield from _never_apart(view)

    # ------------------------------------------------------------------------------------------------------- learning

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return −log((1 − ε) Σ_{k in the set} p_k + ε |set| / clusters): a wrong set is one drawn without looking."""
        from torch.nn import functional as F

        sets = F.pad(evidence.partial_sets, (0, n_clusters - len(evidence.class_names)))

        def of(p: Tensor, given: Tensor) -> Tensor:
            mass = (1 - epsilon) * (p * given).sum(1) + epsilon * given.sum(1) / n_clusters
            return -mass.clamp_min(1e-6).log()

        def loss(p: Sequence[Tensor], given: Mapping[str, Tensor]) -> Tensor:
            return of(p[0], given["partial_sets"])

        def chance_loss() -> Tensor:
            frequency = (sets / sets.sum(1, keepdim=True)).mean(0)
            return of(frequency.expand(sets.shape), sets)

        return {"partial": Loss({"partial_sets": sets}, loss, chance_loss)}

    def votes(self, evidence: Resolved, p: Tensor, bag_means: Callable[[], Tensor]) -> Tensor | None:
        """Let images vote with their assignment, in equal parts for the classes of their set."""
        sets = evidence.partial_sets.to(p)
        return p[evidence.partial_images].T @ (sets / sets.sum(1, keepdim=True))

    # ----------------------------------------------------------------------------------------------------- explaining

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return image, label (the set in words), predicted (a cluster), probability."""
        from smidgen.evidence.explaining import BY_SHARPNESS, calibrate, probability_wrong, sample, worst_first

        e = known.evidence
        rows, p = e.partial_images.numpy(), known.unseen_assignments[e.partial_images.numpy()]
        sets = np.pad(e.partial_sets.numpy(), ((0, 0), (0, p.shape[1] - len(e.class_names))))
        chance = sets.mean(1)

        def probability(how: Calibration, some: np.ndarray) -> np.ndarray:
            return (how.soften(p[some]) * sets[some]).sum(1)

        some = sample(len(rows))
        how = calibrate(lambda choice: probability(choice, some), chance[some], BY_SHARPNESS)
        found, predicted = probability(how, np.arange(len(rows))), p.argmax(1)
        columns = {
            "image": known.images[rows],
            "label": np.array([OR.join(known.classes[own]) for own in e.partial_sets.numpy()], dtype=object),
            "predicted": known.clusters[predicted],
            "probability": found,
        }
        agrees = sets[np.arange(len(rows)), predicted]
        return worst_first(columns, agrees, found / chance, probability_wrong(found, chance, how.wrong)), how

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return the set and the cluster that is found."""
        return Said(columns["label"][i], columns["predicted"][i], [columns["image"][i]])


def _never_apart(view: EvidenceView) -> Iterator[Finding]:
    """Yield classes that partial labels and labels alone would never tell from each other."""
    if view.resolved.sizes().keys() - {"partial"}:
        return
    groups: dict[bytes, list[int]] = {}
    for k, column in enumerate(view.partial_sets.T):
        groups.setdefault(column.tobytes(), []).append(k)
    together = [group for group in groups.values() if len(group) > 1]
    if together:
        names = "; ".join(" and ".join(view.names[k] for k in group) for group in together[:3])
        yield Finding(
            "warning",
            f"These classes are in the same sets always: partial labels do not tell them apart: {names}.",
            "Add sets that hold one without the other, or label images of each.",
        )


KIND = Partial()
