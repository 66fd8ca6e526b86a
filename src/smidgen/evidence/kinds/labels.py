"""Labels: the class of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from smidgen.errors import InputError
from smidgen.evidence.findings import Finding
from smidgen.evidence.kind import Columns, Kind, Loss, Row, Said, Words

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk
    from smidgen.evidence.view import EvidenceView

_UNEVEN = 10  # times as many labels of one class as of another


class Labels(Kind):
    """Rows (image, class); resolved: `labels` (n_images,) int64, -1 unknown."""

    name = "labels"
    about = "images"
    forms = (("image", "label"),)
    class_at = 1
    words = Words("Labels", "label is most likely wrong", "labels are most likely wrong", {"labels": "the labels"})

    def size(self, rows: Sequence[Row]) -> int:
        """Return the number of labels."""
        return len(rows)

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return -1 for each image."""
        return {"labels": np.full(n_images, -1, dtype=np.int64)}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Refuse an image with two labels."""
        statements = walk.evidence.labels
        rows = walk.rows("labels", [image for image, _ in statements])
        classes = np.array([walk.number[label] for _, label in statements], dtype=np.int64)
        result = self.nothing(walk.n_images)["labels"]
        result[rows[rows >= 0][::-1]] = classes[rows >= 0][::-1]  # the first statement about an image stays
        known = np.flatnonzero(rows >= 0)
        wrong = known[result[rows[known]] != classes[known]]
        if len(wrong):
            i = int(wrong[0])
            j = int(np.flatnonzero((rows == rows[i]) & (classes == result[rows[i]]))[0])
            raise InputError(
                f"{walk.where('labels', i)}: image {statements[i][0]!r} is labelled {statements[i][1]!r},"
                f" but {walk.where('labels', j)} labels it {statements[j][1]!r}; keep one."
            )
        return {"labels": result}

    def known(self, evidence: Resolved) -> Tensor:
        """Return the labelled images, (labels, 1)."""
        return (evidence.labels >= 0).nonzero()

    def may_be(self, view: EvidenceView, rows: np.ndarray) -> np.ndarray | None:
        """Rule out all classes but that of the label."""
        labels = view.labels[rows, None]
        return (labels < 0) | (labels == np.arange(view.n_clusters))

    def bounds(self, view: EvidenceView, low: np.ndarray, high: np.ndarray) -> None:
        """Count the labelled images of a bag, which are of no other class."""
        np.maximum(low, view.labelled, out=low)
        others = view.labelled.sum(1, keepdims=True) - view.labelled
        np.minimum(high, view.sizes[:, None] - others, out=high)

    def findings(self, view: EvidenceView) -> Iterator[Finding]:
        """Yield classes without a label, and labels that are uneven."""
        labelled = view.labels[view.labels >= 0]
        if not len(labelled):
            return
        per_class = np.bincount(labelled, minlength=len(view.names))
        few = np.flatnonzero(per_class == 0)
        if len(few) and not len(view.resolved.proportion_bags):
            yield Finding(
                "warning", f"No image is labelled {view.classes(few)}.", "Label at least one image of each class."
            )
        rare, common = int(per_class[per_class > 0].min()), int(per_class.max())
        if common > _UNEVEN * max(1, rare):
            yield Finding(
                "note",
                f"Labels are uneven: {view.names[int(per_class.argmax())]} has {common:,},"
                f" another class only {rare:,}.",
                "Label more images of the rare classes.",
            )

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return −log((1 − ε) p_label + ε / clusters)."""
        import torch

        from smidgen.maths.likelihoods import label_loss

        labels = evidence.labels[evidence.labels >= 0]

        def chance_loss() -> Tensor:
            frequency = torch.bincount(labels, minlength=n_clusters) / len(labels)
            return label_loss(frequency.expand(len(labels), -1), labels, epsilon=epsilon)

        def loss(p: Sequence[Tensor], given: Mapping[str, Tensor]) -> Tensor:
            return label_loss(p[0], given["labels"], epsilon=epsilon)

        return {"labels": Loss({"labels": labels}, loss, chance_loss)}

    def votes(self, evidence: Resolved, p: Tensor, bag_means: Callable[[], Tensor]) -> Tensor | None:
        """Let labelled images vote with their assignment."""
        import torch

        labelled = self.known(evidence).flatten()
        votes = torch.zeros(p.shape[1], len(evidence.class_names), dtype=p.dtype)
        return votes.index_add_(1, evidence.labels[labelled], p[labelled].T)

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return image, label, predicted (a cluster), probability."""
        from smidgen.evidence.explaining import BY_SHARPNESS, averaged_wrong, calibrate, sample, worst_first

        labels = known.evidence.labels.numpy()
        rows = np.flatnonzero(labels >= 0)
        given, p = labels[rows], known.unseen_assignments[rows]
        chance = np.full(len(rows), 1 / p.shape[1])

        def probability(how: Calibration, some: np.ndarray) -> np.ndarray:
            return how.soften(p[some])[np.arange(len(some)), given[some]]

        some = sample(len(rows))
        how = calibrate(lambda choice: probability(choice, some), chance[some], BY_SHARPNESS)
        found = probability(how, np.arange(len(rows)))
        wrong = averaged_wrong(
            lambda choice: probability(choice, some),
            lambda choice: probability(choice, np.arange(len(rows))),
            chance,
            BY_SHARPNESS,
        )
        predicted = p.argmax(1)
        columns = {
            "image": known.images[rows],
            "label": known.classes[given],
            "predicted": known.clusters[predicted],
            "probability": found,
        }
        return worst_first(columns, predicted == given, found, wrong), how

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return the label and the cluster that is found."""
        return Said(columns["label"][i], columns["predicted"][i], [columns["image"][i]])


KIND = Labels()
