"""Unique counts: how many different classes a bag holds, or a range of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.data.cells import count_range, if_given, is_missing, whole_number
from smidgen.errors import InputError
from smidgen.evidence.findings import Finding, number_of
from smidgen.evidence.kind import Agreement, Columns, Kind, Loss, Row, Said, Words
from smidgen.evidence.values import value_of

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk
    from smidgen.evidence.statements import Statements
    from smidgen.evidence.view import EvidenceView

_LARGEST_FIGURE = 24  # counts of a figure


class Counts(Kind):
    """Rows (bag, min, max or None for no limit).

    Resolved: `count_bags`, `counts_min`, `counts_max`, (counts,) int64: numbers of bags, and the range of each.
    """

    name = "counts"
    about = "bags"
    forms = (("bag", "ucc"), ("bag", "ucc_min", "ucc_max"))
    cells = dict.fromkeys(("ucc", "ucc_min", "ucc_max"), if_given(whole_number))
    words = Words(
        "Unique counts of bags",
        "bag most likely holds a wrong count",
        "bags most likely hold wrong counts",
        {"counts": "the unique counts", "ucc": "the unique counts"},
    )

    # --------------------------------------------------------------------------------------- files and Python values

    def from_file(self, columns: Sequence[str], rows: tuple[Row, ...]) -> tuple[str, tuple[Row, ...]]:
        """Make ranges of single counts, and of an empty `ucc_min` 1."""
        if tuple(columns) == self.forms[0]:
            return self.name, tuple((bag, count, count) for bag, count in rows)
        return self.name, tuple((bag, 1 if low is None else low, high) for bag, low, high in rows)

    def to_file(self, evidence: Statements) -> tuple[Sequence[str], Sequence[Row]]:
        """Write ranges only where there are any."""
        if all(low == high for _, low, high in evidence.counts):
            return self.forms[0], [row[:2] for row in evidence.counts]
        return self.forms[1], evidence.counts

    def of_bag(self, table: str, bag: str, value: Any) -> Iterator[Row]:
        """Read a whole number or (min, max)."""
        if isinstance(value, tuple | list) or not is_missing(value):
            yield (bag, *value_of(count_range, value, f"Count of bag {bag!r}"))

    # -------------------------------------------------------------------------------------------------------- arrays

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return no counts."""
        return {name: np.zeros(0, dtype=np.int64) for name in ("count_bags", "counts_min", "counts_max")}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Refuse counts that a bag cannot have, and two of one bag."""
        ranges: dict[int, tuple[int, int]] = {}
        first: dict[int, int] = {}
        statements = walk.evidence.counts
        for i, (name, low, high) in enumerate(statements):
            bag = walk.bag("counts", i)
            if bag is None:
                continue
            here = _possible_range(walk, i, bag)
            if ranges.setdefault(bag, here) != here:
                raise InputError(
                    f"{walk.where('counts', i)}: bag {name!r} has count {_range_words(low, high)}, but"
                    f" {walk.where('counts', first[bag])} gives {_range_words(*statements[first[bag]][1:])}; keep one."
                )
            first.setdefault(bag, i)
        table = np.array([(bag, *ranges[bag]) for bag in sorted(ranges)], dtype=np.int64).reshape(-1, 3)
        return dict(zip(self.nothing(0), table.T.copy(), strict=True))

    def known(self, evidence: Resolved) -> Tensor:
        """Return the bags with a count."""
        return evidence.count_bags

    # ------------------------------------------------------------------------------------------------- what it allows

    def findings(self, view: EvidenceView) -> Iterator[Finding]:
        """Yield counts that say nothing, or the same of all bags, or never that images belong together."""
        if not len(view.count_bags):
            return
        limit = np.minimum(view.distinct[view.count_bags], view.n_clusters)
        empty = (view.counts_min == 1) & (view.counts_max >= limit)
        if empty.any():
            yield Finding(
                "warning",
                f"In {number_of(int(empty.sum()), 'bag')} ({view.listed(view.count_bags[empty])}) any count is allowed:"
                " that carries no information.",
                "Narrow the ranges.",
            )
        if not view.resolved.sizes().keys() - {"bags", "counts"} and not view.pure().any():
            yield Finding(
                "warning",
                "No bag is known to hold a single class, and there are only counts: none of them says that two images"
                " belong together, and clusters may stay merged or split.",
                "Add bags of one class, a few labels, or pairs.",
            )
        known = view.counts_min == view.counts_max
        if len(known) > 1 and known.all() and len(np.unique(view.counts_min)) == 1 and view.counts_min[0] > 1:
            every = "Every bag" if len(view.count_bags) == view.n_bags else "Every bag with a count"
            yield Finding(
                "warning",
                f"{every} holds exactly {view.counts_min[0]} classes: a constant.",
                "Add bags with other counts.",
            )
        yield from _bag_sizes(view)

    # ------------------------------------------------------------------------------------------------------- learning

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return −log((1 − ε) P(count) + ε / counts), P by the law of the unique count; ε may be learned."""
        import torch

        from smidgen.maths.counts import (
            admissible_counts,
            count_frequencies,
            count_loss,
            unique_count_log_probabilities,
        )

        low, high = evidence.counts_min, evidence.counts_max
        sizes = evidence.bag_sizes[evidence.count_bags]
        admissible = admissible_counts(low, high, sizes, n_clusters=n_clusters)
        possible = torch.arange(1, admissible.shape[1] + 1) <= sizes.unsqueeze(1)
        # No digits are lost where all counts are admissible.
        tolerance = math.inf if bool((admissible == possible).all()) else 1e-4

        def loss(p: Tensor, offsets: Tensor, given: dict[str, Tensor]) -> Tensor:
            allowed = given["admissible"]
            law = unique_count_log_probabilities(
                p, offsets, max_count=allowed.shape[1], admissible=allowed, tolerance=tolerance
            )
            ranges = given["counts_min"], given["counts_max"]
            return count_loss(law, *ranges, admissible=allowed, epsilon=given["count_noise"]).float()

        def chance_loss() -> Tensor:
            frequency = count_frequencies(low, high, admissible.any(0))
            law = frequency.clamp_min(1e-9).log().float().expand(admissible.shape)
            return count_loss(law, low, high, admissible=admissible, epsilon=epsilon)

        targets = {"counts_min": low, "counts_max": high, "admissible": admissible}
        learned = {"count_noise": torch.full(low.shape, epsilon), "count_right": torch.full(low.shape, 1 - epsilon)}
        return {"counts": Loss(targets | learned, loss, chance_loss, learned=learned)}

    # ----------------------------------------------------------------------------------------------------- explaining

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return bag, size, ucc (or ucc_min, ucc_max), predicted, predicted_probability, probability."""
        from smidgen.evidence.bag_laws import count_log_law, gathered, over_bags, random_count_log_law
        from smidgen.evidence.explaining import BY_BAGS, BY_SHARPNESS, calibrate, probability_wrong, worst_first

        e = known.evidence
        bags, low, high = e.count_bags.numpy(), e.counts_min.numpy(), e.counts_max.numpy()
        sizes = e.bag_sizes.numpy()[bags]
        n_clusters = known.p.shape[1]
        max_count = min(n_clusters, int(sizes.max(initial=1)))
        counts = np.arange(1, max_count + 1)
        in_range = (counts >= low[:, None]) & (counts <= high[:, None])
        chance = in_range.sum(1) / np.minimum(sizes, max_count)
        frequent = np.log((in_range / in_range.sum(1, keepdims=True)).sum(0) + 1)  # counts as often as they are given
        base = random_count_log_law(sizes, n_clusters=n_clusters, max_count=max_count)

        def bare(how: Calibration, some: np.ndarray) -> np.ndarray:
            return over_bags(
                lambda p, ends: count_log_law(how.soften(p), ends, max_count=max_count),
                known.p,
                *known.bags(bags[some]),
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

        how = calibrate(probability, chance[some], BY_BAGS, BY_SHARPNESS)
        every = np.arange(len(bags))
        found = law(how, every, bare(how, every))
        given, predicted = (found * in_range).sum(1), found.argmax(1) + 1
        columns = {
            "bag": known.names(bags),
            "size": sizes,
            **({"ucc": low} if (low == high).all() else {"ucc_min": low, "ucc_max": high}),
            "predicted": predicted,
            "predicted_probability": found.max(1),
            "probability": given,
        }
        agrees = (predicted >= low) & (predicted <= high)
        return worst_first(columns, agrees, given / chance, probability_wrong(given, chance, how.wrong)), how

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return the count or range, and the count that is found."""
        low, high = (side[i] for side in _ranges(columns))
        return Said(low if low == high else f"{low} to {high}", columns["predicted"][i], bag=columns["bag"][i])

    def agreement(self, columns: Columns) -> Agreement | None:
        """Return counts given and predicted, of the bags whose count is known exactly."""
        low, high = _ranges(columns)
        known = np.array([a == b for a, b in zip(low, high, strict=True)])
        given = np.array([float(cell) for cell in low])[known].astype(int)
        seen = np.array([float(cell) for cell in columns["predicted"]])[known].astype(int)
        top = max(given.max(initial=0), seen.max(initial=0))
        if not 1 < top <= _LARGEST_FIGURE:
            return None
        note = "Bags by the count given (rows) and the one that the model finds most likely (columns)."
        return Agreement(given - 1, seen - 1, [str(u) for u in range(1, top + 1)], note)


def _ranges(columns: Columns) -> tuple[Sequence[str], Sequence[str]]:
    return (columns["ucc"], columns["ucc"]) if "ucc" in columns else (columns["ucc_min"], columns["ucc_max"])


def _possible_range(walk: Walk, i: int, bag: int) -> tuple[int, int]:
    """Return the range that a statement leaves a bag; raises InputError where there is none."""
    name, low, high = walk.evidence.counts[i]
    place = f"{walk.where('counts', i)}: bag {name!r} has count {_range_words(low, high)}"
    if low < 1:
        raise InputError(f"{place}, but a bag of images holds at least 1 class.")
    if high is not None and high < low:
        raise InputError(f"{place}: the least is above the largest; swap them.")
    size, lost = int(walk.bags.distinct[bag]), int(walk.bags.lost[bag])
    if low > size:
        raise InputError(f"{place}, more than its {number_of(size, 'different image')} can show.")
    if walk.n_clusters is not None and low > walk.n_clusters:
        clusters = number_of(walk.n_clusters, "cluster")
        raise InputError(f"{place}, more than the {clusters} asked for; raise the number of clusters.")
    limit = min(size - lost, walk.n_clusters or size)
    # Each image that could not be read may have been the only one of its class.
    return max(1, low - lost), max(1, min(limit if high is None else high, limit))


def _range_words(low: int, high: int | None) -> str:
    return str(low) if low == high else f"{low} to {high}" if high is not None else f"{low} or more"


def _bag_sizes(view: EvidenceView) -> Iterator[Finding]:
    """Compare images per class with the bag size: a bag of one class wants that many images of it."""
    per_class = view.resolved.n_images / view.n_clusters
    largest = int(view.sizes.max())
    if largest > per_class:
        yield Finding(
            "note",
            f"The largest bag has {largest:,} images, and a class has about {per_class:,.0f} if all are as large.",
            "Smaller bags tell more.",
        )


KIND = Counts()
