"""Scores of methods that describe bags by densities of features (UCC, RCC), most on images whose classes are known.

Classes are used here for scores only: test bags of every count are drawn from them, and each class has a density. What
the features tell the decoder needs none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from smidgen.data.batches import seeded
from smidgen.data.datasets import Dataset
from smidgen.data.loader import Loader
from smidgen.evaluation.bag_predictions import BagPredictions, predict_bags
from smidgen.evaluation.bag_scores import (
    balanced_bags,
    class_count_accuracy,
    class_densities,
    proportion_error,
    report_class_count_accuracy,
    spectral_accuracy,
    ucc_accuracy,
)
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.bag_laws import Calibration, over_bags
from smidgen.evidence.resolved import Resolved
from smidgen.maths.divergence import js_divergences, least_divergence
from smidgen.maths.kmeans import kmeans
from smidgen.methods.bag_tables import as_columns
from smidgen.methods.base import BagHeads
from smidgen.model import Model

N_BAGS = 4000
"""Balanced test bags: one in a thousand wrong is seen. The paper had 20,160."""

BAG_IMAGES = 256_000
"""The most images that these bags hold together: of larger bags there are fewer, so that scoring takes no longer."""

CAP = 10_000
"""The most images that are scored: the test set of the paper."""

PAPER_SIZE = 32
"""Images in a bag of the UCC paper."""

REBUILT = 2000
"""The most images that are decoded."""

_DECODED = 100  # images decoded at once

Table = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]
Outputs = tuple[np.ndarray, np.ndarray]
ClassCounts = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class BagScores:
    """metrics: as in `metrics.json`, each with its split before it. tables: "js_divergences" and "class_densities"."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


def score_bags(
    model: Model,
    datasets: Sequence[Dataset],
    outputs: Sequence[Outputs],
    *,
    seed: int,
    n_bags: int = N_BAGS,
    decode: bool = True,
    progress: Progress | None = None,
) -> BagScores:
    """Return the scores of a model on the datasets whose classes are known; none where its method has none.

    Where no class is known there are only `reconstruction_errors`, of the last dataset.

    ucc_accuracy: the share of right unique counts among n_bags bags of the sizes that the model was trained on, as many
    of each count that it knows, drawn from the classes as in the paper, and ucc_loss, their mean cross-entropy; of
    fewer bags where so many would hold more than `BAG_IMAGES` images;
    paper_ucc_accuracy: of bags of 32, to be held against the paper and among models trained on other sizes.
    Of methods that tell class counts also proportion_error, class_count_accuracy, count_loss (the mean squared error of
    class counts) and, as the RCC report defines it (`bag_scores`), report_class_count_accuracy.

    Only of the last of these datasets: kmeans_accuracy, spectral_accuracy, of both clusterings of the split's own
    features, as the paper has them, the latter of spectral_images images; min_js, the least divergence of two classes'
    densities, in bits, and on the report's scale report_min_js.

    datasets: what the model sees; decode: whether to decode it, which is all that pixels are needed for. outputs: those
    of `model.assign_and_encode` for each. Of at most `CAP` images, drawn at random. progress: called with (bags scored,
    bags) of each dataset in turn.
    """
    heads = model.method.bag_heads()
    if heads is None:
        return BagScores()
    parts = list(zip(datasets, outputs, strict=True))
    known = [part for part in parts if part[0].classes is not None and (part[0].classes >= 0).any()]
    scores = BagScores()
    for dataset, (assignments, features) in known or parts[-1:]:
        found = reconstruction_errors(heads, dataset.images, features, seed=seed) if decode else {}
        if known:
            scored = _Scored(model, heads, dataset, assignments, features, seed)
            found |= scored.counts(n_bags, progress)
            if dataset is known[-1][0]:
                found |= scored.clusterings() | scored.divergences(scores.tables)
        scores.metrics.update({f"{dataset.split}_{name}": value for name, value in found.items()})
    return scores


def predict_bags_of(
    model: Model, outputs: Outputs, bags: Resolved, *, progress: Callable[[int, int], None] | None = None
) -> BagPredictions:
    """Return what a model predicts of bags of new images: by its assignments, and by heads for bags where it has them.

    outputs: those of `model.assign_and_encode` for the images. bags, progress: as `predict_bags` takes them.
    """
    found = predict_bags(outputs[0], bags, calibration=Calibration(**model.bag_calibration), progress=progress)
    heads = model.method.bag_heads()
    if heads is None:
        return found
    class_counts = heads.class_counts if heads.counts_by_head else None
    law, numbers = _predicted(heads, outputs, bags.members.numpy(), bags.offsets.numpy(), class_counts=class_counts)
    law = np.where(np.arange(1, law.shape[1] + 1) <= found.sizes[:, None], law, 0.0)
    law = law / np.maximum(law.sum(1, keepdims=True), 1e-30)
    return dataclasses.replace(found, head=law, head_numbers=numbers if heads.counts_by_head else None)


def _predicted(
    heads: BagHeads,
    outputs: Outputs,
    rows: np.ndarray,
    offsets: np.ndarray,
    *,
    class_counts: ClassCounts | None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what heads predict of bags: P(count), and numbers of images of each class; (bags, clusters) both.

    The second is empty without `class_counts`. rows, offsets: images of all bags one after the other, as in `Resolved`.
    """
    device, n_clusters = heads.points.device, outputs[0].shape[1]

    @torch.no_grad()
    def predict(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(values).to(device)
        assignments, features = given[:, :n_clusters], given[:, n_clusters:]
        places = torch.from_numpy(inside).to(device)
        found = [heads.count_probabilities(features, places)]
        found += [] if class_counts is None else [class_counts(features, assignments, places)]
        return torch.cat(found, 1).cpu().numpy()

    found = over_bags(predict, np.concatenate(outputs, axis=1), rows, offsets, progress=progress)
    found = found.reshape(len(offsets) - 1, n_clusters * (1 + (class_counts is not None)))  # of no bags too
    return found[:, :n_clusters], found[:, n_clusters:]


@torch.no_grad()
def reconstruction_errors(heads: BagHeads, images: np.ndarray, features: np.ndarray, *, seed: int) -> dict[str, float]:
    """Return how far decoded images are from the images, and how far if each is given another one's features.

    reconstruction_error, reconstruction_error_shuffled: mean squared errors on standardised images, so that 1 is no
    better than an even grey. What lies between the two comes from the features; where they are equal, the image came
    by another way, as by a U-Net's skips, or not at all. Empty without a decoder or a second image.

    images: (n, channels, height, width) as the model sees them, with their features (n, J); at most `REBUILT` are
    used, drawn at random.
    """
    if heads.reconstruction_error is None or len(images) < 2:
        return {}
    order = np.random.default_rng(seed).permutation(len(images))[:REBUILT]
    shown, own = images[order], torch.from_numpy(features[order])
    device = heads.points.device
    loader = Loader(shown, device=device, resident=False)
    errors = {"reconstruction_error": 0.0, "reconstruction_error_shuffled": 0.0}
    # Rolled by one in a random order, no image keeps its own features.
    for name, given in zip(errors, (own, own.roll(1, 0)), strict=True):
        for first in range(0, len(shown), _DECODED):
            rows = slice(first, first + _DECODED)
            block = loader.floats(rows)
            error = heads.reconstruction_error(given[rows].to(device), block)
            errors[name] += float(error) * len(block) / len(shown)
    return errors


class _Scored:
    """One split seen by one model, or `CAP` of its images whose class is known."""

    def __init__(
        self,
        model: Model,
        heads: BagHeads,
        dataset: Dataset,
        assignments: np.ndarray,
        features: np.ndarray,
        seed: int,
    ) -> None:
        assert dataset.classes is not None
        rows = np.flatnonzero(dataset.classes >= 0)
        if len(rows) > CAP:
            rows = np.sort(np.random.default_rng(seed).choice(rows, CAP, replace=False))
        self.heads, problem = heads, model.method.problem
        self.classes, self.class_names, self.seed = dataset.classes[rows], dataset.class_names, seed
        self.features, self.assignments = features[rows], assignments[rows]
        # Classes are told apart only where the evidence names all that are there.
        self.n_clusters, names = problem.n_clusters, problem.evidence.class_names
        self.columns = [names.index(name) for name in self.class_names if name in names]
        has_all = len(self.columns) == len(self.class_names) > 0
        self.class_counts = heads.class_counts if has_all else None

    def counts(self, n_bags: int, progress: Progress | None) -> dict[str, float]:
        """Return the scores of balanced bags of the sizes that the model was trained on, and of the paper's."""
        trained, paper = self.heads.sizes, (PAPER_SIZE, PAPER_SIZE)
        found = self._counts_of(trained, n_bags, progress, class_counts=self.class_counts)
        again = found if trained == paper else self._counts_of(paper, n_bags, progress, class_counts=None)
        return found | {f"paper_{name}": value for name, value in again.items() if name == "ucc_accuracy"}

    def _counts_of(
        self, sizes: tuple[int, int], n_bags: int, progress: Progress | None, *, class_counts: ClassCounts | None
    ) -> dict[str, float]:
        """Return the scores of balanced bags of some sizes, those of class counts too if asked for."""
        counts = self.heads.counts
        most = min(counts[-1], len(np.unique(self.classes)), sizes[1])
        if most < counts[0]:
            return {}
        few = max(BAG_IMAGES // sizes[1], most - counts[0] + 1)  # one of each count at least
        n_bags, generator = min(n_bags, few), np.random.default_rng(self.seed)
        rows, offsets, truth = balanced_bags(
            self.classes, ucc=(counts[0], most), bag_size=sizes, n_bags=n_bags, generator=generator
        )
        outputs = self.assignments, self.features
        law, numbers = _predicted(self.heads, outputs, rows, offsets, class_counts=class_counts, progress=progress)
        stated = np.maximum(law[np.arange(len(law)), truth - 1], 1e-12)
        found = {
            "ucc_accuracy": ucc_accuracy(truth, law.argmax(1) + 1),
            "ucc_loss": float(-np.log(stated).mean()),
        }
        if class_counts is None:
            return found
        return found | self._class_scores(numbers[:, self.columns], rows, offsets)

    def _class_scores(self, predicted: np.ndarray, rows: np.ndarray, offsets: np.ndarray) -> dict[str, float]:
        """Return the scores of predicted class counts, whose columns are in the dataset's order of classes."""
        sizes = np.diff(offsets)
        truth = np.zeros((len(sizes), len(self.class_names)), dtype=np.int64)
        np.add.at(truth, (np.repeat(np.arange(len(sizes)), sizes), self.classes[rows]), 1)
        shares = truth / sizes[:, None]
        return {
            "proportion_error": proportion_error(shares, predicted / sizes[:, None]),
            "class_count_accuracy": class_count_accuracy(truth, predicted),
            "count_loss": float(np.square(truth - predicted).mean()),
            "report_class_count_accuracy": report_class_count_accuracy(truth, predicted),
        }

    def clusterings(self) -> dict[str, float]:
        """Return the accuracies of k-means and spectral clustering on the features."""
        n_clusters = self.n_clusters
        if len(self.classes) < max(2, n_clusters):
            return {}
        found = kmeans(torch.from_numpy(self.features), n_clusters, n_init=10, generator=seeded(self.seed, "score"))
        spectral, n_images = spectral_accuracy(
            self.features, self.classes, n_clusters=n_clusters, sample=CAP, seed=self.seed
        )
        return {
            "kmeans_accuracy": float(clustering_accuracy(self.classes, found.labels.numpy())),
            "spectral_accuracy": float(spectral),
            "spectral_images": n_images,
        }

    def divergences(self, tables: dict[str, Table]) -> dict[str, float]:
        """Return how far the two nearest classes are apart, and add the tables of divergences and densities."""
        found = class_densities(
            self.features,
            self.classes,
            n_classes=len(self.class_names),
            points=self.heads.points.cpu().numpy(),
            bandwidth=self.heads.bandwidth,
        )
        divergences, names = js_divergences(found), np.array(self.class_names, dtype=object)
        by_pair = as_columns(("class", "other"), "bits", divergences)
        by_feature = as_columns(("class", "feature", "point"), "density", found)
        for table, columns in ((by_pair, ("class", "other")), (by_feature, ("class",))):
            table |= {column: names[table[column]] for column in columns}
        tables |= {"js_divergences": by_pair, "class_densities": by_feature}
        least = least_divergence(divergences)
        if math.isnan(least):  # of a single class
            return {}
        return {"min_js": least, "report_min_js": least * self.features.shape[1]}
