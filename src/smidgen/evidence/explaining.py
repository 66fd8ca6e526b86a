"""What the tables of explained evidence share: calibration on the evidence itself, and the order of their rows.

Assignments are trained to be sure, so their probabilities are calibrated on the evidence: for each kind the sharpness,
the leak, the gathering of bags (`bag_laws.Calibration`) and the rate w of wrong pieces are chosen that make
Σ log((1 − w) P(given | p') + w · chance) largest. Then P(wrong) = w · chance / ((1 − w) P + w · chance), as in the
losses (`maths.likelihoods`), with numbers that were learned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from smidgen.evidence.bag_laws import Calibration
from smidgen.evidence.resolved import Resolved

IMAGINED = 10.0
"""Pieces imagined beside the real ones, a twentieth of them wrong: what few pieces start from."""

BY_SHARPNESS = tuple({"sharpness": s} for s in (0.5, 2.0, 4.0))
BY_BAGS = tuple(
    {"leak": leak, "gathering": gathering}
    for leak in (1e-5, 1e-3, 1e-2, 0.05, 0.15)
    for gathering in (0.0, 0.25, 0.5, 0.75, 1.0)
)
"""Changes of a calibration to choose from."""

_WRONG = np.array([0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
_DEFAULT = Calibration(leak=1e-3)
_MARGIN = 1.0  # nats by which another setting must be better than the first
_SAMPLE, _SAMPLE_IMAGES = 5_000, 6_400  # pieces, and images in bags, that the calibration looks at

Table = dict[str, list[Any]]


class Unseen(Protocol):
    """What is said out of fold, see `evaluation.out_of_fold`."""

    @property
    def assignments(self) -> np.ndarray:
        """(images, clusters), rows sum to one."""

    @property
    def together(self) -> np.ndarray:
        """(pairs,), P(the two images are of one class)."""


@dataclass(frozen=True)
class Known:
    """The assignments (images, clusters), what is known, the names of images and clusters, and what is said unseen."""

    p: np.ndarray
    evidence: Resolved
    images: np.ndarray
    clusters: np.ndarray
    unseen: Unseen | None = None

    @property
    def unseen_assignments(self) -> np.ndarray:
        """The assignments of images by those who were not shown what is said of them, where there are such."""
        return self.p if self.unseen is None else self.unseen.assignments

    @property
    def classes(self) -> np.ndarray:
        """The names of the classes."""
        return np.asarray(self.evidence.class_names, dtype=object)

    def bags(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return members and offsets of some bags."""
        offsets, sizes = self.evidence.offsets.numpy(), self.evidence.bag_sizes.numpy()[numbers]
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        places = np.arange(ends[-1]) + np.repeat(offsets[numbers] - ends[:-1], sizes)
        return self.evidence.members.numpy()[places], ends

    def names(self, numbers: np.ndarray) -> list[str]:
        """Return the names of some bags."""
        return [self.evidence.bag_names[b] for b in numbers.tolist()]

    def few_bags(self, numbers: np.ndarray) -> np.ndarray:
        """Return places in `numbers` of bags for the calibration: few images in all, a hundred bags where possible."""
        largest = max(int(np.mean(self.evidence.bag_sizes.numpy()[numbers])), 1)
        return sample(len(numbers), max(_SAMPLE_IMAGES // largest, 100))


def calibrate(
    given: Callable[[Calibration], np.ndarray], chance: np.ndarray, *steps: Sequence[Mapping[str, float]]
) -> Calibration:
    """Return the calibration under which the pieces given are most probable, and the rate of wrong ones.

    given: the probability of each piece, (pieces,). chance: (pieces,), that of a wrong piece saying the same.
    steps: changes to choose from, in turn, beginning with the default.
    """
    most, best = _score(given(_DEFAULT), chance, _DEFAULT)
    for changes in steps:
        choices = [replace(best, **change) for change in changes]
        score, choice = max((_score(given(c), chance, c) for c in choices), key=lambda pair: pair[0])
        if score > most + _MARGIN:
            most, best = score, choice
    return best


def averaged_wrong(
    given: Callable[[Calibration], np.ndarray],
    found: Callable[[Calibration], np.ndarray],
    chance: np.ndarray,
    steps: Sequence[Mapping[str, float]],
) -> np.ndarray:
    """Return P(the piece is wrong), (pieces,), averaged over calibrations and rates by how probable they make all.

    A few pieces leave open whether the assignments are soft or some pieces wrong; the one best calibration would hide
    that. given, steps: as in `calibrate`. found: the same of the pieces asked about. chance: that of a wrong piece.
    """
    choices = [_DEFAULT, *(replace(_DEFAULT, **change) for change in steps)]
    scores = np.stack([_scores(given(choice), chance[:1]) for choice in choices])
    weights = np.exp(scores - scores.max())
    wrong = [
        weight * probability_wrong(found(choice), chance, rate)
        for choice, row in zip(choices, weights, strict=True)
        for rate, weight in zip(_WRONG, row, strict=True)
    ]
    return np.sum(wrong, axis=0) / weights.sum()


def _scores(probability: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return the log likelihood of the pieces under each rate of wrong ones, with what is known of rates beforehand."""
    mixed = (1 - _WRONG) * probability[:, None] + _WRONG * chance[:, None]
    prior = IMAGINED * (0.05 * np.log(_WRONG) + 0.95 * np.log(1 - _WRONG))
    return np.log(np.maximum(mixed, 1e-300)).sum(0) + prior


def _score(probability: np.ndarray, chance: np.ndarray, calibration: Calibration) -> tuple[float, Calibration]:
    """Return the largest log likelihood of the pieces over the rates of wrong ones, and the calibration with it."""
    scores = _scores(probability, chance)
    return float(scores.max()), replace(calibration, wrong=float(_WRONG[scores.argmax()]))


def probability_wrong(probability: np.ndarray, chance: np.ndarray, rate: float) -> np.ndarray:
    """Return P(the piece is wrong), (pieces,)."""
    by_error = rate * chance
    return by_error / np.maximum((1 - rate) * probability + by_error, 1e-300)


def sample(n: int, size: int = _SAMPLE) -> np.ndarray:
    """Return rows drawn without order, all where there are few; always the same."""
    return np.arange(n) if n <= size else np.random.default_rng(0).choice(n, size, replace=False)


def worst_first(
    columns: Mapping[str, Any], agrees: np.ndarray, likelihood_ratio: np.ndarray, wrong: np.ndarray
) -> Table:
    """Return the columns with `agrees` and `wrong_probability`, contradictions first, the least likely at the top."""
    order = np.lexsort((likelihood_ratio, agrees))
    whole = {**columns, "agrees": agrees.astype(int), "wrong_probability": wrong}
    return {name: _cells(np.asarray(values)[order]) for name, values in whole.items()}


def _cells(values: np.ndarray) -> list[Any]:
    cells: list[Any] = (values.round(6) if values.dtype.kind == "f" else values).tolist()
    return cells
