"""Relabelling over time: pseudo-labels against known classes, and the loss on them in training and on held-out images.

What the plots of DeepCluster's and SeLa's reports need and a method cannot know: it learns without classes, and from
training images only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from smidgen.data.batches import seeded
from smidgen.data.loader import Loader
from smidgen.maths.matching import count_table
from smidgen.methods.base import Method, PseudoLabels, Stage
from smidgen.training.callbacks import Callback, Moment
from smidgen.training.embed import map_blocks

SAMPLE = 2000

COLUMNS = (
    *("nmi_classes", "class_entropy_low", "class_entropy", "class_entropy_high"),
    *("training_loss", "validation_loss"),
)
"""What is recorded at each relabelling; the losses are those of the steps up to the next one."""


class RelabellingMonitor(Callback):
    """Records a row at each `begin` of a method that keeps pseudo-labels; nothing in training depends on it.

    nmi_classes: NMI of the labels with known classes, the mean over heads. class_entropy: of the classes within a
    label, in bits; its median over all labels that hold images of known class, and its quartiles. training_loss: the
    mean total loss until the next relabelling. validation_loss: the cross-entropy of the held-out images at its end,
    with the labels that they would have been given at its beginning; as they are, not as random views.

    classes: of the training images, (n,), -1 where unknown, or None. held_out: images that are not learned from, of
    which at most 2,000 are looked at, or None.
    """

    def __init__(
        self, classes: np.ndarray | None, held_out: np.ndarray | None, *, seed: int, device: torch.device
    ) -> None:
        self._classes = None if classes is None or (classes < 0).all() else classes
        self._loader: Loader | None = None
        if held_out is not None and len(held_out):
            order = torch.randperm(len(held_out), generator=seeded(seed, "held out"))[:SAMPLE].sort().values.numpy()
            self._loader = Loader(held_out[order], device=device, resident=False)
        self.restore({})

    def state(self) -> dict[str, Any]:
        """Return the rows, the labels of the held-out images, and the sum of the losses since the last relabelling."""
        return {"rows": self._rows, "held_labels": self._held_labels, "sum": self._sum, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self._rows: list[dict[str, float]] = [dict(row) for row in state.get("rows", [])]
        self._held_labels: list[list[int]] = state.get("held_labels", [])
        self._sum, self._steps = float(state.get("sum", 0.0)), int(state.get("steps", 0))

    def before_begin(self, method: Method, stage: Stage, step: int) -> None:
        """Complete the last row."""
        self._complete(method)

    def after_begin(self, method: Method, stage: Stage, step: int) -> None:
        """Add a row for the new labels, and label the held-out images."""
        found = method.pseudo_labels()
        if found is None or found.labels is None:
            return
        row = {"step": float(step)}
        if self._classes is not None:
            row |= agreement(found.labels.cpu().numpy(), self._classes, n_labels=found.n_labels)
        self._rows.append(row)
        if self._loader is not None:
            blocks = [labels.long().cpu() for _, labels in map_blocks(found.label, self._loader, method=method)]
            self._held_labels = torch.cat(blocks).tolist()

    def wants_to_see(self, stage: Stage, step: int) -> bool:
        """Return whether the stage ends here."""
        return bool(self._rows) and step == stage.steps

    def after_step(self, moment: Moment) -> None:
        """Add up the loss; complete the last row at the end of the stage."""
        self._sum, self._steps = self._sum + moment.losses.get("total", 0.0), self._steps + 1
        if moment.step == moment.stage.steps:
            self._complete(moment.method)

    def columns(self) -> dict[str, np.ndarray]:
        """Return what was recorded, a row for each relabelling; without the columns that nothing is known of."""
        found = {name: np.array([row.get(name, np.nan) for row in self._rows]) for name in COLUMNS}
        return {name: values for name, values in found.items() if not np.isnan(values).all()}

    def _complete(self, method: Method) -> None:
        if self._rows and self._steps and "training_loss" not in self._rows[-1]:
            self._rows[-1]["training_loss"] = self._sum / self._steps
            found = method.pseudo_labels()
            if self._loader is not None and found is not None:
                self._rows[-1]["validation_loss"] = self._held_out_loss(method, found, self._loader)
        self._sum, self._steps = 0.0, 0

    def _held_out_loss(self, method: Method, found: PseudoLabels, loader: Loader) -> float:
        total, labels = 0.0, torch.tensor(self._held_labels)  # (images, heads)
        for rows, logits in map_blocks(found.predict, loader, method=method):
            total += float(F.cross_entropy(logits.transpose(1, 2), labels[rows].to(logits.device), reduction="sum"))
        return total / labels.numel()


def agreement(labels: np.ndarray, classes: np.ndarray, *, n_labels: int) -> dict[str, float]:
    """Return how labels (heads, n) agree with classes (n,), -1 where unknown: NMI, and entropy as in the class above.

    >>> found = agreement(np.array([[0, 0, 1, 1]]), np.array([0, 1, 2, 2]), n_labels=3)
    >>> found["class_entropy_low"], found["class_entropy"], found["class_entropy_high"]
    (0.25, 0.5, 0.75)
    """
    from sklearn.metrics import normalized_mutual_info_score

    known = classes >= 0
    nmi = [normalized_mutual_info_score(classes[known], own[known]) for own in labels]
    entropies = np.concatenate([_class_entropies(own, classes, n_labels) for own in labels])
    low, median, high = np.quantile(entropies, [0.25, 0.5, 0.75]).tolist()
    found: Sequence[float] = (float(np.mean(nmi)), low, median, high)
    return dict(zip(COLUMNS, found, strict=False))


def _class_entropies(labels: np.ndarray, classes: np.ndarray, n_labels: int) -> np.ndarray:
    """Return the entropy in bits of the classes within each label that holds images of known class."""
    from scipy.stats import entropy

    counts = count_table(labels, classes, n_rows=n_labels, n_columns=int(classes.max()) + 1)
    return np.asarray(entropy(counts[counts.sum(1) > 0], base=2, axis=1))
