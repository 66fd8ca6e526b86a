"""Evidence simulated from a labelled dataset: the papers' bags, other compositions, labels, pairs, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_matrix, csgraph

from smidgen.errors import InputError
from smidgen.evidence.drawing import between_cuts, class_tuples, even_numbers
from smidgen.evidence.evidence import Evidence


@dataclass(frozen=True)
class Simulation:
    """What evidence to make.

    n_bags: how many bags, shared evenly among the counts; 0 for none. ucc: least and largest number of classes in a
    bag. bag_size: images in a bag, or (least, largest) to draw from evenly.
    composition: how images are shared among a bag's classes; "even" as in UCC and RCC, or "random", every way of
    sharing them with at least one image of each class as likely.
    disjoint: no image in two bags; otherwise each class is walked in shuffled order, again and again, and bags overlap
    once it has been walked. short: what to do when a class has fewer images than a bag wants; a "smaller" bag, or the
    same image more than once ("replace").
    counts, proportions, class_counts: which statements to write about each bag. presence: for how many classes per bag
    to state whether they are present; half of them are.
    labels_per_class, label_fraction: labelled images, at most one of the two. pairs: how many, half of the same class.
    partial: how many classes are named for an image, the right one among them; 0 for none. partial_fraction: of how
    many of the images.
    wrong: the rate of errors in every kind: a set without the right class, another count, another label, the opposite
    answer, another bag's shares.
    """

    n_bags: int = 0
    ucc: tuple[int, int] = (1, 4)
    bag_size: int | tuple[int, int] = 32
    composition: Literal["even", "random"] = "even"
    disjoint: bool = False
    short: Literal["smaller", "replace"] = "smaller"
    counts: bool = True
    proportions: bool = False
    class_counts: bool = False
    presence: int = 0
    labels_per_class: int = 0
    label_fraction: float = 0.0
    pairs: int = 0
    partial: int = 0
    partial_fraction: float = 1.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        (least, largest), (smallest, _) = self.ucc, self.sizes
        if not 1 <= least <= largest:
            raise InputError(f"`ucc` must be a range like 1-4 that begins at 1 or above, got {least}-{largest}.")
        if not 1 <= smallest <= self.sizes[1]:
            raise InputError(f"`bag_size` must be 1 or above, or a range like 8-40, got {self.bag_size}.")
        if self.n_bags and largest > self.sizes[1]:
            raise InputError(f"A bag of {self.sizes[1]} images cannot hold {largest} classes; make the bags larger.")
        for name in ("wrong", "label_fraction", "partial_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` must lie in 0 … 1, got {getattr(self, name)}.")
        for name in ("n_bags", "presence", "labels_per_class", "pairs", "partial"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` must be 0 or above, got {getattr(self, name)}.")
        if self.labels_per_class and self.label_fraction:
            raise InputError("Give `labels_per_class` or `label_fraction`, not both.")
        if self.proportions and self.class_counts:
            raise InputError("Give `proportions` or `class_counts`, not both: they say the same.")

    @property
    def sizes(self) -> tuple[int, int]:
        """The least and largest bag size."""
        return (self.bag_size, self.bag_size) if isinstance(self.bag_size, int) else self.bag_size


def simulate(
    settings: Simulation,
    classes: np.ndarray,
    *,
    ids: Sequence[str] | np.ndarray,
    class_names: Sequence[str],
    generator: np.random.Generator,
) -> tuple[Evidence, tuple[str, ...]]:
    """Return evidence about images whose classes are known, and sentences about what could not be done as asked.

    classes: (n,) rows of `class_names`, -1 unknown (such images are not used). ids: (n,) image ids.
    Each kind draws from its own stream, so adding pairs does not change the bags. Raises InputError where there are
    too few classes.

    >>> evidence, _ = simulate(Simulation(n_bags=4, ucc=(1, 2), bag_size=3), np.arange(10) % 2, ids=list("abcdefghij"),
    ...     class_names=("even", "odd"), generator=np.random.default_rng(0))
    >>> [least for _, least, _ in evidence.counts].count(1)
    2
    """
    streams = dict(zip(("bags", "statements", "labels", "pairs", "partial"), generator.spawn(5), strict=True))
    classes = np.asarray(classes)
    if not (classes >= 0).any():
        raise InputError("Evidence is simulated from images whose classes are known, and here none is.")
    notes: list[str] = []
    bags = draw_bags(settings, classes, streams["bags"], notes)
    about_bags = _bag_statements(settings, bags, classes, ids, class_names, streams["statements"])
    labels = _labels(settings, classes, ids, class_names, streams["labels"], notes)
    pairs = _pairs(settings, classes, ids, streams["pairs"], notes) if settings.pairs else ()
    sets = _partial(settings, classes, ids, class_names, streams["partial"]) if settings.partial else ()
    return Evidence(**about_bags, labels=labels, pairs=pairs, partial=sets), tuple(notes)


# ----------------------------------------------------------------------------------------------------------------- bags


def draw_bags(
    settings: Simulation, classes: np.ndarray, generator: np.random.Generator, notes: list[str]
) -> list[np.ndarray]:
    """Return the rows of the images of each bag; a sentence is added to `notes` for what could not be done as asked."""
    if not settings.n_bags:
        return []
    shufflers = {
        int(k): _Shuffler(np.flatnonzero(classes == k), settings, generator) for k in np.unique(classes[classes >= 0])
    }
    least, largest = settings.ucc
    if largest > len(shufflers):
        raise InputError(f"Bags of up to {largest} classes were asked for, but there are {len(shufflers)} classes.")
    tuples = {u: _walk_tuples(np.array(sorted(shufflers)), u, generator) for u in range(least, largest + 1)}
    counts = generator.permutation(np.resize(np.arange(least, largest + 1), settings.n_bags))
    bags: list[np.ndarray] = []
    smaller = 0
    for u in counts.tolist():
        size = max(u, int(generator.integers(settings.sizes[0], settings.sizes[1] + 1)))
        wanted = _numbers(u, size, settings, generator)
        drawn = [shufflers[k].draw(n) for k, n in zip(next(tuples[u]), wanted, strict=True)]
        if any(len(rows) == 0 for rows in drawn):
            notes.append(
                f"Only {len(bags):,} of {settings.n_bags:,} bags could be made: the images of a class ran out."
            )
            break
        smaller += sum(map(len, drawn)) < sum(wanted)
        bags.append(generator.permutation(np.concatenate(drawn)))
    repeated = sum(len(np.unique(bag)) < len(bag) for bag in bags)
    if smaller:
        notes.append(f"{smaller:,} bags are smaller than asked for: a class has too few images.")
    if repeated:
        notes.append(f"{repeated:,} bags hold an image more than once: a class has too few images.")
    return bags


class _Shuffler:
    """The images of one class, drawn in shuffled order, without repeats within one draw where possible."""

    def __init__(self, rows: np.ndarray, settings: Simulation, generator: np.random.Generator) -> None:
        self.rows, self.settings, self.generator = rows, settings, generator
        self.left = generator.permutation(rows)

    def draw(self, n: int) -> np.ndarray:
        drawn, self.left = self.left[:n], self.left[n:]
        missing = n - len(drawn)
        if missing == 0 or self.settings.disjoint:
            return drawn
        fresh = self.generator.permutation(np.setdiff1d(self.rows, drawn))  # not drawn yet
        rest, next_round = fresh[:missing], np.concatenate([fresh[missing:], drawn])
        self.left = self.generator.permutation(next_round)
        drawn = np.concatenate([drawn, rest])
        if self.settings.short == "replace" and len(drawn) < n:
            drawn = np.concatenate([drawn, self.generator.choice(self.rows, n - len(drawn))])
        return drawn


def _walk_tuples(classes: np.ndarray, u: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield tuples of u classes without end: all of them in shuffled order, reshuffled for each pass."""
    places = class_tuples(len(classes), u)
    if places is None:
        while True:
            yield generator.permutation(classes)[:u]
    table = classes[places]
    while True:
        for row in generator.permutation(len(table)):
            yield generator.permutation(table[row])  # shuffled too: the first ones get what does not divide evenly


def _numbers(u: int, size: int, settings: Simulation, generator: np.random.Generator) -> list[int]:
    """Return how many images each of u classes gives to a bag."""
    if settings.composition == "even":
        return even_numbers(u, size)
    return between_cuts(np.sort(generator.choice(np.arange(1, size), u - 1, replace=False)).tolist(), size)


def _bag_statements(
    settings: Simulation,
    bags: list[np.ndarray],
    classes: np.ndarray,
    ids: Sequence[str] | np.ndarray,
    class_names: Sequence[str],
    generator: np.random.Generator,
) -> dict[str, Any]:
    """Return the tables of `Evidence` about bags."""
    if not bags:
        return {}
    width = len(str(len(bags) - 1))
    names = [f"bag{b:0{width}d}" for b in range(len(bags))]
    held = np.stack([np.bincount(classes[bag], minlength=len(class_names)) for bag in bags])
    tables: dict[str, Any] = {
        "bags": tuple((name, str(ids[i])) for name, bag in zip(names, bags, strict=True) for i in bag.tolist())
    }
    if settings.counts:
        counts = _wrong_counts((held > 0).sum(1), settings, np.array([len(np.unique(bag)) for bag in bags]), generator)
        tables["counts"] = tuple((name, count, count) for name, count in zip(names, counts.tolist(), strict=True))
    stated = held if not settings.wrong else _wrong_shares(held, settings.wrong, generator)
    rows = [(name, class_names[k], int(stated[b, k]), int(stated[b].sum())) for b, name in enumerate(names)
            for k in np.flatnonzero(stated[b]).tolist()]  # fmt: skip
    if settings.proportions:
        tables["proportions"] = tuple((name, label, round(n / total, 6)) for name, label, n, total in rows)
    if settings.class_counts:
        tables["class_counts"] = tuple((name, label, n) for name, label, n, _ in rows)
    if settings.presence:
        tables["presence"] = tuple(
            (name, class_names[k], bool(held[b, k] > 0) != bool(generator.random() < settings.wrong))
            for b, name in enumerate(names)
            for k in _asked_classes(held[b] > 0, settings.presence, generator).tolist()
        )
    return tables


def _wrong_counts(
    counts: np.ndarray, settings: Simulation, sizes: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Replace counts at the rate of errors by another one of the range, possible for the bag."""
    least, largest = settings.ucc
    result = counts.copy()
    for b in np.flatnonzero(generator.random(len(counts)) < settings.wrong):
        others = np.setdiff1d(np.arange(least, min(largest, sizes[b]) + 1), counts[b])
        if len(others):
            result[b] = generator.choice(others)
    return result


def _wrong_shares(held: np.ndarray, rate: float, generator: np.random.Generator) -> np.ndarray:
    """Shuffle the classes of bags at the rate of errors: the right numbers under wrong names."""
    result = held.copy()
    for b in np.flatnonzero(generator.random(len(held)) < rate):
        result[b] = np.roll(held[b], generator.integers(1, held.shape[1])) if held.shape[1] > 1 else held[b]
    return result


def _asked_classes(present: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return n classes, half of them present where there are enough of both."""
    there, absent = generator.permutation(np.flatnonzero(present)), generator.permutation(np.flatnonzero(~present))
    n_there = min(len(there), max((n + 1) // 2, n - len(absent)))
    return np.concatenate([there[:n_there], absent[: n - n_there]])


# ----------------------------------------------------------------------------------------------------- labels and pairs


def _labels(
    settings: Simulation,
    classes: np.ndarray,
    ids: Sequence[str] | np.ndarray,
    class_names: Sequence[str],
    generator: np.random.Generator,
    notes: list[str],
) -> tuple[tuple[str, str], ...]:
    if not (settings.labels_per_class or settings.label_fraction):
        return ()
    known = generator.permutation(np.flatnonzero(classes >= 0))
    if settings.label_fraction:
        rows = known[: max(1, round(settings.label_fraction * len(known)))]
    else:
        of_class = [known[classes[known] == k] for k in range(len(class_names))]
        poor = [name for name, own in zip(class_names, of_class, strict=True) if len(own) < settings.labels_per_class]
        if poor:
            notes.append(f"Fewer than {settings.labels_per_class} labels were possible for {', '.join(poor[:5])}.")
        rows = np.concatenate([own[: settings.labels_per_class] for own in of_class])
    stated = classes[rows].copy()
    wrong = generator.random(len(rows)) < settings.wrong
    if len(class_names) > 1:
        shift = generator.integers(1, len(class_names), len(rows))
        stated = np.where(wrong, (stated + shift) % len(class_names), stated)
    return tuple((str(ids[i]), class_names[k]) for i, k in zip(rows.tolist(), stated.tolist(), strict=True))


def _partial(
    settings: Simulation,
    classes: np.ndarray,
    ids: Sequence[str] | np.ndarray,
    class_names: Sequence[str],
    generator: np.random.Generator,
) -> tuple[tuple[str, str], ...]:
    """Return for images as many classes as asked for, the right one among them, or in wrong sets not, in any order."""
    n_classes = len(class_names)
    if settings.partial >= n_classes:
        raise InputError(f"Partial labels of {settings.partial} of {n_classes} classes say nothing; ask for fewer.")
    known = np.flatnonzero(classes >= 0)
    rows = np.sort(generator.permutation(known)[: max(1, round(settings.partial_fraction * len(known)))])
    statements = []
    for row in rows.tolist():
        others = generator.permutation(np.delete(np.arange(n_classes), classes[row]))
        wrong = generator.random() < settings.wrong
        own = others[: settings.partial] if wrong else [classes[row], *others[: settings.partial - 1]]
        statements += [(str(ids[row]), class_names[k]) for k in np.sort(own).tolist()]
    return tuple(statements)


def _pairs(
    settings: Simulation,
    classes: np.ndarray,
    ids: Sequence[str] | np.ndarray,
    generator: np.random.Generator,
    notes: list[str],
) -> tuple[tuple[str, str, bool], ...]:
    """Return distinct pairs, half of one class; wrong ones only where no other pair would give them away."""
    known = np.flatnonzero(classes >= 0)
    wanted = {True: (settings.pairs + 1) // 2, False: settings.pairs // 2}
    found: dict[tuple[int, int], bool] = {}
    tries = 0
    while any(wanted.values()) and tries < 200:
        tries += 1
        a = generator.choice(known, 4 * settings.pairs)
        b = np.where(
            generator.random(len(a)) < 0.5, _partners(a, classes, known, generator), generator.choice(known, len(a))
        )
        for i, j in zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True):
            same = bool(classes[i] == classes[j])
            if i != j and wanted[same] and (i, j) not in found:
                found[i, j] = same
                wanted[same] -= 1
    if any(wanted.values()):
        notes.append(f"Only {len(found):,} of {settings.pairs:,} pairs were possible: there are too few images.")
    rows = list(found)
    answers = _wrong_answers(rows, list(found.values()), settings.wrong, generator, len(classes), notes)
    return tuple((str(ids[i]), str(ids[j]), same) for (i, j), same in zip(rows, answers, strict=True))


def _partners(a: np.ndarray, classes: np.ndarray, known: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random image of the same class for each."""
    order = known[np.argsort(classes[known], kind="stable")]
    starts = np.searchsorted(classes[order], classes[a], side="left")
    ends = np.searchsorted(classes[order], classes[a], side="right")
    return order[generator.integers(starts, ends)]


def _wrong_answers(
    rows: list[tuple[int, int]],
    answers: list[bool],
    rate: float,
    generator: np.random.Generator,
    n_images: int,
    notes: list[str],
) -> list[bool]:
    """Flip answers at a rate; flips that would make pairs contradict each other are undone."""
    right = np.array(answers, dtype=bool)
    stated = right ^ (generator.random(len(right)) < rate)
    ends = np.array(rows, dtype=np.int64).reshape(-1, 2)
    while True:
        graph = coo_matrix((np.ones(int(stated.sum())), ends[stated].T), shape=(n_images, n_images))
        _, group = csgraph.connected_components(graph, directed=False)
        contradictory = ~stated & (group[ends[:, 0]] == group[ends[:, 1]])
        if not contradictory.any():
            break
        in_contradictory = np.isin(group[ends[:, 0]], group[ends[contradictory, 0]])
        stated = np.where(in_contradictory, right, stated)
    if (right != stated).mean() < 0.5 * rate:
        notes.append(f"Only {(right != stated).mean():.1%} of the pairs are wrong: more would contradict each other.")
    return stated.tolist()
