"""Probes of a trained model's net, stage after stage, beside the same net with random weights and the raw pixels."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.dataset import Dataset
from smidgen.data.loader import Loader
from smidgen.data.shapes import is_vector
from smidgen.errors import InputError
from smidgen.evaluation.probes import KNN_SETTINGS, knn_probes, linear_probe, logistic_probe
from smidgen.hardware import forked_rng, seed_rng
from smidgen.maths.scaling import power_of_two
from smidgen.model import Model, embed
from smidgen.nets.composed import Projected
from smidgen.nets.pretrained import pretrained_encoder, without_weights
from smidgen.nets.stages import MOST_FEATURES, output_of, pooled
from smidgen.training.embed import map_blocks

TRAINED, RANDOM = "trained", "random"
"""The nets that are probed: the run's own, and the same with random weights of the run's seed."""

EMBEDDING = "embedding"
"""The last stage of every net: what the method makes its clusters of."""

IMAGES = 10_000
"""The most images that probes learn from, and the most that they are scored on, unless more are asked for."""

HELD_OUT = 0.2
"""The share of the images that probes are scored on where no test image has a known class."""

Function = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StageScores:
    """How well probes classify the test images by one stage of one net.

    net: `TRAINED`, `RANDOM`, or "pixels" or "vectors", what the nets are given. features: numbers of an image.
    linear, knn: accuracies in [0, 1], the latter for each of `KNN_SETTINGS`, None where there are too few images.
    logistic: that of logistic regression, only on embeddings. seconds: for features and probes. learned_from,
    scored_on: numbers of images.
    """

    net: str
    stage: str
    features: int
    linear: float
    knn: Sequence[float | None]
    logistic: float | None
    seconds: float
    learned_from: int
    scored_on: int


@dataclass(frozen=True)
class Probed:
    """Images whose classes are known: those that probes learn from, and those that they are scored on."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray


def choose_images(datasets: Sequence[Dataset], *, most: int = IMAGES, seed: int) -> Probed:
    """Return images of known class, at most `most` for each purpose, drawn at random.

    datasets: one, of which a fifth is held out, or two, to learn from and to be scored on. Raises InputError where
    classes are not known.
    """
    names = list(dict.fromkeys(name for dataset in datasets for name in dataset.class_names))
    draws = np.random.default_rng(seed)
    parts = [(dataset, draws.permutation(_known_rows(dataset))) for dataset in datasets]
    parts = [(dataset, rows) for dataset, rows in parts if len(rows)]
    if not parts:
        raise InputError(
            "Probes need images of known class, and these have none: give labelled images, `smidgen eval RUN DATA"
            " --probes`."
        )
    if len(parts) == 1:
        dataset, rows = parts[0]
        held_out = max(round(HELD_OUT * len(rows)), 1)
        parts = [(dataset, rows[held_out:]), (dataset, rows[:held_out])]
    (train, train_classes), (test, test_classes) = (_some(d, np.sort(rows[:most]), names) for d, rows in parts)
    if len(np.unique(train_classes)) < 2:
        raise InputError(f"Probes need images of two classes or more, and all {len(train)} here are of one.")
    return Probed(train, train_classes, test, test_classes)


def _known_rows(dataset: Dataset) -> np.ndarray:
    return np.empty(0, dtype=np.int64) if dataset.classes is None else np.flatnonzero(dataset.classes >= 0)


def _some(dataset: Dataset, rows: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return some images and their classes as numbers into `names`."""
    assert dataset.classes is not None
    number = np.array([names.index(name) for name in dataset.class_names])
    return dataset.images[rows], number[dataset.classes[rows]]


def probe_stages(model: Model, images: Probed, *, seed: int, progress: Progress | None = None) -> Iterator[StageScores]:
    """Yield the scores of each stage of the trained net, of the random one, and of the pixels, in this order.

    A net that a method trains has the stages of `Encoder.stages` and its embedding; a frozen encoder is one stage,
    "encoder", before the embedding that the method makes of its features. Features of a stage are pooled to at most
    `MOST_FEATURES` and kept in half precision, one stage at a time. seed: that of the run, for the random net and the
    order of the linear probe's batches.
    """
    sources = [*_of_net(TRAINED, model)]
    if _has_net(model):
        sources += _of_net(RANDOM, randomised(model, seed=seed))
    sources.append(_of_images(model))
    for done, source in enumerate(sources):
        if progress is not None:
            progress(f"probe {source.net} {source.stage}".strip(), done, len(sources))
        yield _probe(source, images, device=model.device, seed=seed)


@dataclass(frozen=True)
class _Source:
    """Where features come from: a function of images, or of a frozen encoder's embeddings of them, of a model."""

    net: str
    stage: str
    function: Function
    model: Model

    def features(self, images: np.ndarray) -> Tensor:
        """Return features (images, features) on the CPU, of a stage in half precision."""
        if self.model.extractor is not None and self.net in (TRAINED, RANDOM):
            images = embed(images, self.model.extractor, device=self.model.device)
        blocks = map_blocks(self.function, Loader(images, device=self.model.device), method=self.model.method)
        kept, unit = None, torch.tensor(1.0)
        for rows, block in blocks:
            if kept is None:  # half precision overflows early: what is largest becomes 1
                unit = power_of_two(block.abs().max())
                kept = torch.empty(len(images), block.shape[1], dtype=torch.float16)
            kept[rows] = (block / unit).cpu().half()
        assert kept is not None
        return kept


def _of_net(net: str, model: Model) -> Iterator[_Source]:
    """Yield the stages of a model's net."""
    method = model.method
    if model.extractor is not None:
        yield _Source(net, "encoder", lambda vectors: vectors, model)
        if net == RANDOM:  # what the method would make of random features says nothing
            return
    for name, stage in stages_of(model).items():
        yield _Source(net, name, _pooled(output_of(stage, method.encode)), model)
    yield _Source(net, EMBEDDING, method.encode, model)


def _pooled(function: Function) -> Function:
    return lambda images: pooled(function(images))


def stages_of(model: Model) -> dict[str, torch.nn.Module]:
    """Return the stages of the net that a model's method has trained, by name; none where it works on vectors."""
    start = model.method.starting_point
    if model.method.problem.holds_vectors or start is None:
        return {}
    return start.net.stages()


def _has_net(model: Model) -> bool:
    """Return whether a model's features are those of a net, and not of fixed equations or principal components."""
    start = model.method.starting_point
    return model.extractor is not None or (start is not None and not isinstance(start.encoder, Projected))


def _of_images(model: Model) -> _Source:
    if is_vector(model.shape):
        return _Source("vectors", "", lambda vectors: vectors, model)
    side = max(math.isqrt(MOST_FEATURES // model.shape[0]), 1)

    def pixels(images: Tensor) -> Tensor:
        smaller = (min(side, images.shape[2]), min(side, images.shape[3]))
        return F.adaptive_avg_pool2d(images, smaller).flatten(1)

    return _Source("pixels", "", pixels, model)


def randomised(model: Model, *, seed: int) -> Model:
    """Return a model with the same net and random weights, as a fit with this seed starts from."""
    method = model.method
    with forked_rng(model.device), without_weights():
        seed_rng(seed, model.device)
        fresh = type(method)(method.config, method.problem).to(model.device).eval()
        extractor = model.extractor
        if extractor is not None:
            extractor = pretrained_encoder(extractor.name, preprocess=extractor.preprocess, pretrained=False)
    return dataclasses.replace(model, method=fresh, extractor=extractor)


def _probe(source: _Source, images: Probed, *, device: torch.device, seed: int) -> StageScores:
    began = time.monotonic()
    train, test = source.features(images.train), source.features(images.test)
    known = train, images.train_classes, test, images.test_classes
    settings = [(k, temperature) for k, temperature in KNN_SETTINGS if k <= len(train)]
    knn = knn_probes(*known, settings=settings, device=device) if settings else []
    return StageScores(
        source.net,
        source.stage,
        train.shape[1],
        linear=linear_probe(*known, seed=seed, device=device),
        knn=[*knn, *[None] * (len(KNN_SETTINGS) - len(knn))],
        logistic=logistic_probe(*known) if source.stage == EMBEDDING else None,
        seconds=time.monotonic() - began,
        learned_from=len(train),
        scored_on=len(test),
    )
