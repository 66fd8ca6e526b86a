"""Out-of-fold predictions: for images and pairs by models that were not given their labels and answers.

A model learns the evidence, wrong pieces too, and then agrees with all of it. Here small nets learn the model's
assignments of other images, and linear classifiers the evidence of other images and pairs (`FOLDS` folds).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix, csgraph
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import seeded
from smidgen.data.loader import Loader
from smidgen.data.shapes import is_vector
from smidgen.evidence.kinds import LEARNED, kind_of
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import forked_rng
from smidgen.nets.encoders import make_encoder
from smidgen.nets.projection import Projection, one_layer

FOLDS = 5


class NetSize(NamedTuple):
    """Hidden units on embeddings and their dropout, steps at most, images per step."""

    hidden: int
    dropout: float
    steps: int
    batch: int


SMALL = NetSize(hidden=256, dropout=0.2, steps=250, batch=128)
"""On MNIST's images it is then right about as often as the model that it learns from."""

LARGE = NetSize(hidden=512, dropout=0.5, steps=600, batch=256)
"""As sure of images that it has not learned from as nets are that learn from evidence for long (LAB.md)."""

_LEAST_STEPS, _EPOCHS, _IMAGE_EPOCHS = 60, 30, 12  # of few; steps on images take longer than on embeddings
_COMPONENTS = 256
_RATE = 2e-3
_PIXELS = 32  # of a side: larger images are made smaller
_ENOUGH = 0.5  # of the images: if so many are not spoken of, one net learns from these
_BLOCK = 1024  # images looked at together
_OTHERS = 0.005  # of an assignment: for what the net mistakes although it is sure
_TRUST = 0.5  # the power of a net's assignments beside a classifier: around a label, the model was led by it
_PENALTIES = {"labels": 3.0, "pairs": 1.0}  # `C` of the classifiers
_FEWEST = 20  # labels or pairs that a classifier learns from

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Unseen:
    """What is said out of fold.

    assignments: (images, clusters) float64, rows sum to one: out of fold for images of labels and pairs, for all others
    the model's. together: (pairs,) float64, P(the two images are of one class).
    of_others: as `assignments`, by the nets alone, without the classifiers that learn the evidence of other images.
    """

    assignments: np.ndarray
    together: np.ndarray
    of_others: np.ndarray


def out_of_fold(
    images: np.ndarray,
    assignments: np.ndarray,
    evidence: Resolved,
    *,
    seed: int = 0,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Unseen:
    """Return what is said of labelled images and of pairs by nets and classifiers that did not learn from them.

    images: (n, channels, height, width) uint8, or embeddings (n, features) floats, as the method sees them; they
    are used as they come, since what a model has learned to make of them it may have learned from wrong evidence.
    assignments: (n, clusters), the model's. progress: called with (nets trained, nets).
    """
    if len(images) < 2:  # there are no others to learn from, and no pairs
        return Unseen(assignments.astype(np.float64), np.zeros(0), assignments.astype(np.float64))
    folds = _folds(evidence)
    nets = _Nets(images, assignments, seed=seed, device=device or torch.device("cpu"))
    found, features = assignments.astype(np.float64), np.zeros((len(images), nets.features), dtype=np.float32)
    n_folds = int(folds.max(initial=-1)) + 1
    for fold in range(n_folds):
        rows = np.flatnonzero(folds == fold)
        found[rows], features[rows] = nets.of_others(np.flatnonzero(folds != fold), rows, fold)
        if progress is not None:
            progress(fold + 1, n_folds)
    found[folds >= 0] = (1 - _OTHERS) * found[folds >= 0] + _OTHERS / found.shape[1]
    if n_folds > 1 and not nets.shares_features:  # of each net its own
        features = features[:, :0]
    of_others, found = found, _with_labels(found, features, evidence.labels.numpy(), seed)
    return Unseen(found, _together(found, features, evidence, seed), of_others)


def held_out(
    vectors: np.ndarray, labels: np.ndarray, *, n_clusters: int, learned: np.ndarray, asked: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Return assignments (asked, clusters) by a net that learned the labels of other images.

    vectors: (n, features), labels: (n,) of all images; learned, asked: rows.
    """
    targets = np.eye(n_clusters, dtype=np.float32)[labels]
    nets = _Nets(vectors, targets, seed=seed, device=torch.device("cpu"), size=LARGE)
    return nets.of_others(learned, asked, 0)[0]


def _folds(evidence: Resolved) -> np.ndarray:
    """Return the fold of each image that labels, pairs or the like speak of, -1 of others; paired images share theirs.

    One fold where there are enough others to learn from.
    """
    spoken, pairs = np.zeros(evidence.n_images, dtype=bool), evidence.pairs.numpy()
    for kind in map(kind_of, LEARNED):
        if kind.about != "bags":
            spoken[kind.known(evidence).flatten().numpy()] = True
    n, rows = len(spoken), np.flatnonzero(spoken)
    folds = np.full(n, -1)
    if len(rows) <= (1 - _ENOUGH) * n:
        folds[rows] = 0
        return folds
    _, group = csgraph.connected_components(coo_matrix((np.ones(len(pairs)), pairs.T), shape=(n, n)), directed=False)
    sizes = np.bincount(group)
    if sizes.max() > n / FOLDS:  # they hang together: then by images
        group, sizes = np.arange(n), np.ones(n, dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(sizes))
    fold_of_group = np.empty(len(sizes), dtype=np.int64)
    fold_of_group[order] = (np.cumsum(sizes[order]) - 1) * FOLDS // n
    folds[rows] = fold_of_group[group[rows]].astype(np.int64)
    return np.where(folds >= 0, np.searchsorted(np.unique(folds[rows]), folds), -1)


# ---------------------------------------------------------------------------------------------------------- small nets


class _Nets:
    """Small nets that learn a model's assignments of some images and are asked for those of others.

    Of embeddings the features are principal components, the same for all nets; of images those of each net.
    """

    def __init__(
        self, images: np.ndarray, assignments: np.ndarray, *, seed: int, device: torch.device, size: NetSize = SMALL
    ) -> None:
        self.size = size
        self.seed, self.device, self.n_clusters = seed, device, assignments.shape[1]
        self.shares_features = is_vector(images.shape[1:])
        self.targets = torch.from_numpy(assignments).float()
        self.projected = _projected(images).to(self.device) if self.shares_features else torch.zeros(0, 128)
        self.loader = Loader(images, device=self.device)
        self.shape = images.shape[1], *(min(side, _PIXELS) for side in images.shape[2:])
        self.features = self.projected.shape[1]

    def of_others(self, learned: np.ndarray, asked: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return assignments and features of the rows `asked` by a net that learns from the rows `learned`."""
        with forked_rng(self.device):
            torch.manual_seed(seeded(self.seed, "fold", number).initial_seed())
            encoder = self._encoder().to(self.device)
            head = nn.Linear(self.size.hidden if self.shares_features else self.features, self.n_clusters).to(
                self.device
            )
            self._train(encoder, head, torch.from_numpy(learned))
        with torch.no_grad():
            blocks = [self._look(torch.from_numpy(some)) for some in np.split(asked, range(_BLOCK, len(asked), _BLOCK))]
            hidden = [encoder(block) for block in blocks]
            found = torch.cat([head(each).softmax(1) for each in hidden]).double().cpu().numpy()
        features = torch.cat(blocks if self.shares_features else hidden).cpu().numpy()
        return found, features

    def _encoder(self) -> nn.Module:
        if self.shares_features:
            return one_layer(self.features, self.size.hidden, dropout=self.size.dropout)
        return make_encoder("conv", self.shape, mean=(0.5,) * self.shape[0], std=(0.25,) * self.shape[0])

    def _train(self, encoder: nn.Module, head: nn.Module, learned: Tensor) -> None:
        net = nn.Sequential(encoder, head)
        optimiser = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=1e-2)
        batch = max(2, min(self.size.batch, len(learned)))  # batch norm wants two
        epochs = _EPOCHS if self.shares_features else _IMAGE_EPOCHS
        steps = min(self.size.steps, max(_LEAST_STEPS, epochs * len(learned) // batch))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
        for _ in range(steps):
            rows = learned[torch.randint(len(learned), (batch,))]
            loss = F.cross_entropy(net(self._look(rows)), self.targets[rows].to(self.device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        net.eval()

    def _look(self, rows: Tensor) -> Tensor:
        """Return what the nets see of some images, (rows, …)."""
        if self.shares_features:
            return self.projected[rows.to(self.device)]
        images = self.loader.floats(rows)
        return images if images.shape[1:] == self.shape else F.adaptive_avg_pool2d(images, self.shape[1:])


def _projected(vectors: np.ndarray) -> Tensor:
    flat = torch.from_numpy(np.ascontiguousarray(vectors)).float()
    projection = Projection(flat.shape[1], _COMPONENTS)
    projection.fit(flat)
    return torch.cat([projection(block) for block in flat.split(_BLOCK)])


# --------------------------------------------------------------------------------------------------- linear classifiers


def _with_labels(found: np.ndarray, features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return assignments of labelled images together with what a classifier of the other labels says of them."""
    rows = np.flatnonzero(labels >= 0)
    given, n_clusters = labels[rows], found.shape[1]
    if not features.shape[1] or len(rows) < _FEWEST or len(np.unique(given)) < 2:
        return found
    told = _classified(_unit(features[rows]), given, penalty=_PENALTIES["labels"], seed=seed, n_classes=n_clusters)
    found = found.copy()
    found[rows] = found[rows] ** _TRUST * told
    found[rows] /= found[rows].sum(1, keepdims=True)
    return found


def _together(found: np.ndarray, features: np.ndarray, evidence: Resolved, seed: int) -> np.ndarray:
    """Return P(the images of each pair are of one class), by their assignments and by how alike their features are."""
    first, second = evidence.pairs.numpy().T
    same = evidence.same.numpy()
    together = (found[first] * found[second]).sum(1).clip(1e-6, 1 - 1e-6)
    if not features.shape[1] or min(same.sum(), (~same).sum()) < _FEWEST:
        return together
    alike = (_unit(features)[first] * _unit(features)[second]).sum(1)
    odds = np.log(together) - np.log1p(-together)
    inputs = np.column_stack([5 * alike, odds])
    return _classified(inputs, same.astype(np.int64), penalty=_PENALTIES["pairs"], seed=seed, n_classes=2)[:, 1]


def _classified(inputs: np.ndarray, given: np.ndarray, *, penalty: float, seed: int, n_classes: int) -> np.ndarray:
    """Return P(class) of each row, (rows, n_classes), by logistic regressions on the other folds."""
    from sklearn.linear_model import LogisticRegression

    p = np.full((len(given), n_classes), 1e-3)
    fold = np.random.default_rng(seed).permutation(len(given)) % FOLDS
    for k in range(FOLDS):
        own, others = fold == k, given[fold != k]
        if (others == others[0]).all():
            p[own, others[0]] += 1
            continue
        model = LogisticRegression(C=penalty, max_iter=300).fit(inputs[~own], others)
        p[np.ix_(own, model.classes_)] += model.predict_proba(inputs[own])
    return p / p.sum(1, keepdims=True)


def _unit(features: np.ndarray) -> np.ndarray:
    """Return centred rows of length one."""
    centred = features - features.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
