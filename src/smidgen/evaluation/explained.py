"""How a model's final assignments explain the evidence: each piece beside what the model sees, errors first.

Tables, a row for each piece of evidence; those that contradict the model come first, the clearest at the top, since
they are where annotations most likely are wrong. Labels and pairs are judged by what is said of them out of fold
(`out_of_fold`), since a model that has learned a wrong label by heart agrees with it. `agrees` is 1 where what is given
is found most likely, `probability` is that of what is given under the assignments, and `wrong_probability` that of the
piece being wrong.

Assignments are trained to be sure, so their probabilities are calibrated on the evidence itself: for each kind the
sharpness, the leak, the gathering of bags (`evidence.bag_laws.Calibration`) and the rate w of wrong pieces are chosen
that make Σ log((1 − w) P(given | p') + w · chance) largest. Then P(wrong) = w · chance / ((1 − w) P + w · chance), as
in the losses (`maths.likelihoods`), with numbers that were learned. Whether the image or the label is the odd one no
label can tell: read "wrong" as "wrong, or an image that the model mistakes".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smidgen.evaluation.out_of_fold import Unseen
from smidgen.evidence.bag_laws import (
    Calibration,
    count_log_law,
    gathered,
    mean_assignments,
    over_bags,
    random_count_log_law,
)
from smidgen.evidence.resolved import Resolved

KINDS = ("labels", "counts", "proportions", "presence", "pairs")
"""The kinds of evidence there are tables for."""

_SHARPNESS = (0.5, 2.0, 4.0)
_LEAKS = (1e-5, 1e-3, 1e-2, 0.05, 0.15)
_GATHERINGS = (0.0, 0.25, 0.5, 0.75, 1.0)
_WRONG = np.array([0.001, 0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
_IMAGINED = 10.0  # pieces imagined beside the real ones, a twentieth of them wrong: what few pieces start from
_DEFAULT = Calibration(leak=1e-3)
_MARGIN = 1.0  # nats by which another setting must be better than the first
_SAMPLE, _SAMPLE_IMAGES = 5_000, 6_400  # pieces, and images in bags, that the calibration looks at

Table = dict[str, list[Any]]


@dataclass(frozen=True, eq=False)
class Explained:
    """tables: kind → its table. bags: how the law of the unique count was calibrated, None where no count is known."""

    tables: dict[str, Table]
    bags: Calibration | None = None


def explain(
    assignments: np.ndarray,
    evidence: Resolved,
    *,
    image_ids: Sequence[str] | np.ndarray,
    cluster_names: Sequence[str],
    kinds: Collection[str] = KINDS,
    unseen: Unseen | None = None,
) -> Explained:
    """Return a table for each kind of evidence there is, the pieces that contradict the model first.

    labels: image, label, predicted (a cluster), probability.
    pairs: image_a, image_b, same, predicted (1 same), probability.
    counts: bag, size, ucc (or ucc_min, ucc_max where any is a range), predicted, predicted_probability, probability.
    proportions: bag, size, error (the share of the images that would have to be of another cluster), given(NAME) and
    predicted(NAME). presence: bag, size, label, present, predicted (1 present), probability.
    All have agrees and wrong_probability too; shares agree where they are not likely to be wrong.

    assignments: (images, clusters), rows sum to one. image_ids: (images,). kinds: those to explain.
    cluster_names: of which the first are the evidence's classes, if it names any. unseen: what is said out of fold of
    labels and pairs, None to judge them by the assignments.

    >>> import torch
    >>> evidence = Resolved(3, torch.tensor([0, 1, 1]), ("cat", "dog"))
    >>> p = np.array([[0.99, 0.01], [0.98, 0.02], [0.03, 0.97]])
    >>> table = explain(p, evidence, image_ids=["a", "b", "c"], cluster_names=["cat", "dog"]).tables["labels"]
    >>> table["image"][0], table["label"][0], table["predicted"][0], table["agrees"]
    ('b', 'dog', 'cat', [0, 1, 1])
    """
    images, clusters = (np.asarray(names, dtype=object) for names in (image_ids, cluster_names))
    known = _Known(assignments, evidence, images, clusters, unseen)
    there = [kind for kind in KINDS if kind in evidence.sizes() and kind in kinds]
    tables, calibration = {}, None
    for kind in there:
        if kind == "counts":
            tables[kind], calibration = _counts(known)
        else:
            tables[kind] = _MAKERS[kind](known)
    return Explained(tables, calibration)


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


# --------------------------------------------------------------------------------------------------------- calibration


def _calibrate(
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


def _score(probability: np.ndarray, chance: np.ndarray, calibration: Calibration) -> tuple[float, Calibration]:
    """Return the largest log likelihood of the pieces over the rates of wrong ones, and the calibration with it."""
    mixed = (1 - _WRONG) * probability[:, None] + _WRONG * chance[:, None]
    prior = _IMAGINED * (0.05 * np.log(_WRONG) + 0.95 * np.log(1 - _WRONG))
    scores = np.log(np.maximum(mixed, 1e-300)).sum(0) + prior
    return float(scores.max()), replace(calibration, wrong=float(_WRONG[scores.argmax()]))


def _wrong(probability: np.ndarray, chance: np.ndarray, rate: float) -> np.ndarray:
    """Return P(the piece is wrong), (pieces,)."""
    by_error = rate * chance
    return by_error / np.maximum((1 - rate) * probability + by_error, 1e-300)


def _sample(n: int, size: int = _SAMPLE) -> np.ndarray:
    """Return rows drawn without order, all where there are few; always the same."""
    return np.arange(n) if n <= size else np.random.default_rng(0).choice(n, size, replace=False)


_BY_SHARPNESS = tuple({"sharpness": s} for s in _SHARPNESS)
_BY_BAGS = tuple({"leak": leak, "gathering": gathering} for leak in _LEAKS for gathering in _GATHERINGS)


# -------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class _Known:
    """The assignments (images, clusters), what is known, and the names of images and clusters."""

    p: np.ndarray
    evidence: Resolved
    images: np.ndarray
    clusters: np.ndarray
    unseen: Unseen | None = None

    def bags(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return members and offsets of some bags."""
        offsets, sizes = self.evidence.offsets.numpy(), self.evidence.bag_sizes.numpy()[numbers]
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        places = np.arange(ends[-1]) + np.repeat(offsets[numbers] - ends[:-1], sizes)
        return self.evidence.members.numpy()[places], ends

    def names(self, numbers: np.ndarray) -> list[str]:
        return [self.evidence.bag_names[b] for b in numbers.tolist()]

    def few_bags(self, numbers: np.ndarray) -> np.ndarray:
        """Return places in `numbers` of bags for the calibration: few images in all, a hundred bags where possible."""
        largest = max(int(np.mean(self.evidence.bag_sizes.numpy()[numbers])), 1)
        return _sample(len(numbers), max(_SAMPLE_IMAGES // largest, 100))


def _sorted(columns: Mapping[str, Any], agrees: np.ndarray, likelihood_ratio: np.ndarray, wrong: np.ndarray) -> Table:
    """Return the columns with `agrees` and `wrong_probability`, contradictions first, the least likely at the top."""
    order = np.lexsort((likelihood_ratio, agrees))
    whole = {**columns, "agrees": agrees.astype(int), "wrong_probability": wrong}
    return {name: _cells(np.asarray(values)[order]) for name, values in whole.items()}


def _cells(values: np.ndarray) -> list[Any]:
    cells: list[Any] = (values.round(6) if values.dtype.kind == "f" else values).tolist()
    return cells


def _labels(known: _Known) -> Table:
    labels = known.evidence.labels.numpy()
    rows = np.flatnonzero(labels >= 0)
    given = labels[rows]
    chance = np.full(len(rows), 1 / known.p.shape[1])
    p = (known.p if known.unseen is None else known.unseen.assignments)[rows]

    def probability(calibration: Calibration, some: np.ndarray) -> np.ndarray:
        return calibration.soften(p[some])[np.arange(len(some)), given[some]]

    some = _sample(len(rows))
    calibration = _calibrate(lambda choice: probability(choice, some), chance[some], _BY_SHARPNESS)
    found = probability(calibration, np.arange(len(rows)))
    predicted = p.argmax(1)
    columns = {
        "image": known.images[rows],
        "label": np.asarray(known.evidence.class_names, dtype=object)[given],
        "predicted": known.clusters[predicted],
        "probability": found,
    }
    return _sorted(columns, predicted == given, found, _wrong(found, chance, calibration.wrong))


def _pairs(known: _Known) -> Table:
    pairs, same = known.evidence.pairs.numpy(), known.evidence.same.numpy()
    chance = np.full(len(pairs), 0.5)

    def together(calibration: Calibration, some: np.ndarray) -> np.ndarray:
        if known.unseen is not None:
            told = known.unseen.together[some]
            return calibration.soften(np.stack([told, 1 - told], axis=1))[:, 0]
        return (calibration.soften(known.p[pairs[some, 0]]) * calibration.soften(known.p[pairs[some, 1]])).sum(1)

    def probability(calibration: Calibration, some: np.ndarray) -> np.ndarray:
        found = together(calibration, some)
        return np.where(same[some], found, 1 - found)

    some = _sample(len(pairs))
    calibration = _calibrate(lambda choice: probability(choice, some), chance[some], _BY_SHARPNESS)
    found = probability(calibration, np.arange(len(pairs)))
    columns = {
        "image_a": known.images[pairs[:, 0]],
        "image_b": known.images[pairs[:, 1]],
        "same": same.astype(int),
        "predicted": np.where(found > 0.5, same, ~same).astype(int),
        "probability": found,
    }
    return _sorted(columns, found > 0.5, found, _wrong(found, chance, calibration.wrong))


def _counts(known: _Known) -> tuple[Table, Calibration]:
    e = known.evidence
    bags, least, largest = e.count_bags.numpy(), e.counts_min.numpy(), e.counts_max.numpy()
    sizes = e.bag_sizes.numpy()[bags]
    n_clusters = known.p.shape[1]
    max_count = min(n_clusters, int(sizes.max(initial=1)))
    counts = np.arange(1, max_count + 1)
    in_range = (counts >= least[:, None]) & (counts <= largest[:, None])
    chance = in_range.sum(1) / np.minimum(sizes, max_count)
    frequent = np.log((in_range / in_range.sum(1, keepdims=True)).sum(0) + 1)  # counts as often as they are given
    base = random_count_log_law(sizes, n_clusters=n_clusters, max_count=max_count)

    def bare(how: Calibration, some: np.ndarray) -> np.ndarray:
        return over_bags(
            lambda p, ends: count_log_law(how.soften(p), ends, max_count=max_count), known.p, *known.bags(bags[some])
        )

    def law(how: Calibration, some: np.ndarray, bare_law: np.ndarray) -> np.ndarray:
        return gathered(bare_law + frequent, base[some], gathering=how.gathering)

    some = known.few_bags(bags)
    kept: dict[tuple[float, float], np.ndarray] = {}

    def probability(how: Calibration) -> np.ndarray:
        key = (how.sharpness, how.leak)
        if key not in kept:
            kept[key] = bare(how, some)
        return (law(how, some, kept[key]) * in_range[some]).sum(1)

    calibration = _calibrate(probability, chance[some], _BY_BAGS, _BY_SHARPNESS)
    every = np.arange(len(bags))
    found = law(calibration, every, bare(calibration, every))
    given = (found * in_range).sum(1)
    predicted = found.argmax(1) + 1
    columns = {
        "bag": known.names(bags),
        "size": sizes,
        **({"ucc": least} if (least == largest).all() else {"ucc_min": least, "ucc_max": largest}),
        "predicted": predicted,
        "predicted_probability": found.max(1),
        "probability": given,
    }
    agrees = (predicted >= least) & (predicted <= largest)
    return _sorted(columns, agrees, given / chance, _wrong(given, chance, calibration.wrong)), calibration


def _presence(known: _Known) -> Table:
    e = known.evidence
    items, classes = np.nonzero(e.presence.numpy() >= 0)
    bags, present = e.presence_bags.numpy(), e.presence.numpy()[items, classes] == 1
    sizes = e.bag_sizes.numpy()[bags]
    chance = np.full(len(items), 0.5)

    def as_given(how: Calibration, some: np.ndarray, of_some: np.ndarray) -> np.ndarray:
        """Return the probability of the statements `of_some`, which are about the bags in the rows `some`."""
        absent = over_bags(lambda p, ends: _log_absent(how.soften(p), ends), known.p, *known.bags(bags[some]))
        by_chance = sizes[some, None] * np.log1p(-1 / max(known.p.shape[1], 2))
        odds = [value - how.gathering * base for value, base in
                zip(_both(absent), _both(by_chance), strict=True)]  # fmt: skip
        place = np.searchsorted(some, items[of_some])
        there = 1 / (1 + np.exp(np.clip(odds[0] - odds[1], -700, 700)))[place, classes[of_some]]
        return np.where(present[of_some], there, 1 - there)

    some = np.sort(known.few_bags(bags))
    of_some = np.flatnonzero(np.isin(items, some))
    calibration = _calibrate(lambda choice: as_given(choice, some, of_some), chance[of_some], _BY_BAGS, _BY_SHARPNESS)
    given = as_given(calibration, np.arange(len(bags)), np.arange(len(items)))
    columns = {
        "bag": known.names(bags[items]),
        "size": sizes[items],
        "label": np.asarray(e.class_names, dtype=object)[classes],
        "present": present.astype(int),
        "predicted": np.where(given > 0.5, present, ~present).astype(int),
        "probability": given,
    }
    return _sorted(columns, given > 0.5, given, _wrong(given, chance, calibration.wrong))


def _log_absent(p: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return log Π_i (1 − p_ik), (bags, clusters)."""
    result: np.ndarray = np.add.reduceat(np.log1p(-np.minimum(p, 1 - 1e-12)), offsets[:-1], axis=0)
    return result


def _both(log_absent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logs of P(absent) and P(present)."""
    return log_absent, np.log(np.maximum(-np.expm1(log_absent), 1e-300))


def _proportions(known: _Known) -> Table:
    e = known.evidence
    bags, given = e.proportion_bags.numpy(), e.proportions.numpy().astype(np.float64)
    found = over_bags(mean_assignments, known.p, *known.bags(bags))
    n_classes = given.shape[1]
    padded = np.pad(given, ((0, 0), (0, found.shape[1] - n_classes)))
    error = np.abs(padded - found).sum(1) / 2
    wrong = _wrong_shares(error)
    columns = {"bag": known.names(bags), "size": e.bag_sizes.numpy()[bags], "error": error}
    for k, name in enumerate(e.class_names):
        columns |= {f"given({name})": given[:, k], f"predicted({name})": found[:, k]}
    return _sorted(columns, wrong < 0.5, -error, wrong)


def _wrong_shares(error: np.ndarray) -> np.ndarray:
    """Return P(the shares are wrong): errors of right ones fall off exponentially, wrong ones have any as likely.

    The mean of the one and the share of the other are learned (expectation–maximisation, from the median).
    """
    mean, rate = max(float(np.median(error)) / np.log(2), 0.01), 0.05
    wrong = np.zeros(len(error))
    for _ in range(50):
        wrong = _wrong(np.exp(-error / mean) / mean, np.ones(len(error)), rate)
        mean = max(float(((1 - wrong) * error).sum() / max((1 - wrong).sum(), 1e-9)), 0.01)
        rate = float((wrong.sum() + 0.05 * _IMAGINED) / (len(error) + _IMAGINED))
    return wrong


_MAKERS = {"labels": _labels, "proportions": _proportions, "presence": _presence, "pairs": _pairs}
