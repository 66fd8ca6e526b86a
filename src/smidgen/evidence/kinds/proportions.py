"""Proportions: the share, or the number, of the images of a bag that are of each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.data.cells import number, whole_number
from smidgen.data.collection import natural_key
from smidgen.errors import InputError
from smidgen.evidence.findings import Finding, number_of
from smidgen.evidence.kind import Agreement, Columns, Kind, Loss, Row, Said, Words
from smidgen.evidence.values import about_classes

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk
    from smidgen.evidence.statements import Statements
    from smidgen.evidence.view import EvidenceView

CLASS_COUNTS = "class_counts"
"""The table of numbers of images; and the loss of proportions that are such, by their exact law."""

_WHOLE = 0.1  # images: what a share may be off a whole number for having been rounded
_ROUNDED = 0.005  # of shares given in whole percent
_MOST_SHOWN = 4  # classes of a bag in words


class Proportions(Kind):
    """Rows (bag, class, share), or of `class_counts` (bag, class, number of images); classes not named have none.

    Resolved: `proportion_bags` (m,) int64, `proportions` (m, classes) float32, rows sum to one.
    """

    name = "proportions"
    about = "bags"
    forms = (("bag", "label", "share"), ("bag", "label", "count"))
    cells = {"share": number, "count": whole_number}  # noqa: RUF012
    subject = 2
    class_at = 1
    words = Words(
        "Shares in bags",
        "bag most likely holds wrong shares",
        "bags most likely hold wrong shares",
        {"proportions": "the proportions", CLASS_COUNTS: "the class counts"},
    )

    @property
    def tables(self) -> tuple[str, ...]:
        """Shares, and numbers of images."""
        return self.name, CLASS_COUNTS

    # --------------------------------------------------------------------------------------- files and Python values

    def from_file(self, columns: Sequence[str], rows: tuple[Row, ...]) -> tuple[str, tuple[Row, ...]]:
        """Tell shares from numbers by the columns."""
        return self.name if tuple(columns) == self.forms[0] else CLASS_COUNTS, rows

    def to_file(self, evidence: Statements) -> tuple[Sequence[str], Sequence[Row]]:
        """Refuse to write both shares and numbers: they are one file."""
        if evidence.proportions and evidence.class_counts:
            raise InputError("Shares and class counts are both kept in proportions.csv; write them to two folders.")
        return (self.forms[1], evidence.class_counts) if evidence.class_counts else super().to_file(evidence)

    def of_bag(self, table: str, bag: str, value: Any) -> Iterator[Row]:
        """Read {class: share} or {class: number of images}."""
        return about_classes(table, bag, value, number if table == self.name else whole_number)

    # -------------------------------------------------------------------------------------------------------- arrays

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return no proportions."""
        return {"proportion_bags": np.zeros(0, dtype=np.int64), "proportions": np.zeros((0, 0), dtype=np.float32)}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Refuse shares that do not sum to one, and numbers that do not sum to the bag's images."""
        rows: dict[int, np.ndarray] = {}
        for bag, (first, terms, row) in _by_bag(walk, "proportions").items():
            place = f"{walk.where('proportions', first)}: the shares of bag {walk.evidence.proportions[first][0]!r}"
            total = float(row.sum())
            if not abs(total - 1) <= 0.01 + 0.005 * terms:  # shares rounded to whole percent are ordinary
                hint = "; give fractions, not percent" if abs(total - 100) <= 1 + 0.5 * terms else ""
                raise InputError(f"{place} sum to {total:.4g}, not to 1{hint}.")
            rows[bag] = row / total
        for bag, (first, _, row) in _by_bag(walk, CLASS_COUNTS).items():
            name, size = walk.evidence.class_counts[first][0], walk.bags.size_before(bag)
            place = f"{walk.where(CLASS_COUNTS, first)}: the class counts of bag {name!r}"
            if bag in rows:
                raise InputError(f"{place} come on top of its shares; keep one of the two.")
            if round(float(row.sum())) != size:
                raise InputError(f"{place} sum to {row.sum():.0f}, but it has {size} images.")
            rows[bag] = row / size
        order = sorted(rows)
        table = np.stack([rows[bag] for bag in order]) if rows else np.zeros((0, len(walk.names)))
        return {"proportion_bags": np.array(order, dtype=np.int64), "proportions": table.astype(np.float32)}

    def known(self, evidence: Resolved) -> Tensor:
        """Return the bags with proportions."""
        return evidence.proportion_bags

    # ------------------------------------------------------------------------------------------------- what it allows

    def bounds(self, view: EvidenceView, low: np.ndarray, high: np.ndarray) -> None:
        """Take a share for a whole number of images where all of the bag's are, give or take rounding.

        Otherwise it is one of the whole numbers around it. A class without a share, or without a name beside shares,
        is not in the bag. Images of the bag that could not be read may have been of any class.
        """
        bags, given = view.proportion_bags, view.proportions
        if not len(bags):
            return
        lost = view.lost[bags, None]
        sizes = view.sizes[bags, None] + lost
        images = np.zeros((len(given), view.n_clusters))
        images[:, : len(view.names)] = given.astype(np.float64) * sizes
        nearest = np.rint(images)
        is_whole = np.abs(images - nearest) <= _WHOLE + 1e-6 * sizes  # in float32
        whole = is_whole.all(1, keepdims=True) & (nearest.sum(1, keepdims=True) == sizes)
        least = np.where(whole, nearest, np.floor(images - _ROUNDED * sizes))
        most = np.where(whole, nearest, np.ceil(images + _ROUNDED * sizes))
        least, most = (np.where(images > 0, side, 0).clip(0).astype(np.int64) for side in (least - lost, most))
        low[bags], high[bags] = np.maximum(low[bags], least), np.minimum(high[bags], most)

    def findings(self, view: EvidenceView) -> Iterator[Finding]:
        """Yield classes that averages over bags do not tell apart, or that never meet."""
        if len(view.proportion_bags):
            there = np.flatnonzero(view.proportions.any(0))
            yield from _alike(view, there)
            yield from _never_together(view, there)

    # ------------------------------------------------------------------------------------------------------- learning

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return the divergence of mean assignments; and of whole numbers of images −log P, which is for clusters."""
        import torch
        from torch.nn import functional as F

        from smidgen.maths.likelihoods import class_count_loss, proportion_loss

        given = F.pad(evidence.proportions, (0, n_clusters - len(evidence.class_names)))
        numbers = _whole_counts(given, evidence.bag_sizes[evidence.proportion_bags])

        def chance_loss() -> Tensor:
            offsets = torch.arange(len(given) + 1)
            return proportion_loss(given.mean(0).expand_as(given), offsets, given)

        return {
            "proportions": Loss(
                {"proportions": given},
                lambda p, offsets, given: proportion_loss(p, offsets, given["proportions"]),
                chance_loss,
            ),
            CLASS_COUNTS: Loss(
                {CLASS_COUNTS: numbers},
                lambda p, offsets, given: class_count_loss(p, offsets, given[CLASS_COUNTS], epsilon=epsilon),
                which=numbers.sum(1) > 0,
                late=True,
            ),
        }

    def votes(self, evidence: Resolved, p: Tensor, bag_means: Callable[[], Tensor]) -> Tensor | None:
        """Let bags vote with the product of shares and mean assignment, above what independence would give."""
        means, given = bag_means()[evidence.proportion_bags], evidence.proportions.double()
        return (means - means.mean(0)).T @ (given - given.mean(0)) + means.mean(0)[:, None] * given.mean(0)

    # ----------------------------------------------------------------------------------------------------- explaining

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return bag, size, error (the share of images that would have to be of another cluster), given(NAME), …"""
        from smidgen.evidence.bag_laws import Calibration, mean_assignments, over_bags
        from smidgen.evidence.explaining import worst_first

        e = known.evidence
        bags, given = e.proportion_bags.numpy(), e.proportions.numpy().astype(np.float64)
        found = over_bags(mean_assignments, known.p, *known.bags(bags))
        padded = np.pad(given, ((0, 0), (0, found.shape[1] - given.shape[1])))
        error = np.abs(padded - found).sum(1) / 2
        wrong = _probability_wrong(error)
        columns = {"bag": known.names(bags), "size": e.bag_sizes.numpy()[bags], "error": error}
        for k, name in enumerate(e.class_names):
            columns |= {f"given({name})": given[:, k], f"predicted({name})": found[:, k]}
        return worst_first(columns, wrong < 0.5, -error, wrong), Calibration()

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return the largest shares given and predicted."""
        given, seen = (_largest_shares(columns, i, f"{name}(") for name in ("given", "predicted"))
        return Said(given, seen, bag=columns["bag"][i])

    def fit_in_words(self, columns: Columns) -> str:
        """Return how far shares are off."""
        errors = [float(cell) for cell in columns["error"]]
        return f"shares off by {100 * (np.mean(errors) if errors else 0.0):.1f} %"

    def agreement(self, columns: Columns) -> Agreement | None:
        """Return how often a share given in tenths is predicted as which."""
        names = [name[len("given(") : -1] for name in columns if name.startswith("given(")]
        given, seen = (
            np.array([float(cell) for name in names for cell in columns[f"{start}({name})"]])
            for start in ("given", "predicted")
        )
        note = "Shares given (rows) and predicted (columns), to the nearest tenth, of all classes in all bags."
        rows, places = (np.clip(np.rint(10 * values), 0, 10).astype(int) for values in (given, seen))
        return Agreement(rows, places, [f"{10 * i}%" for i in range(11)], note)


def _by_bag(walk: Walk, table: str) -> dict[int, tuple[int, int, np.ndarray]]:
    """Return for each bag the first statement about it, how many there are, and the values by class."""
    found: dict[int, tuple[int, int, np.ndarray]] = {}
    seen: dict[tuple[int, int], int] = {}
    for i, (name, label, value) in enumerate(getattr(walk.evidence, table)):
        bag = walk.bag(table, i)
        if bag is None:
            continue
        if not 0 <= value < np.inf:
            raise InputError(f"{walk.where(table, i)}: bag {name!r} holds {value:g} of {label!r}; 0 or more is wanted.")
        j = seen.setdefault((bag, walk.number[label]), i)
        if j != i:
            raise InputError(
                f"{walk.where(table, i)}: class {label!r} of bag {name!r} was already given at {walk.where(table, j)};"
                " keep one."
            )
        first, terms, row = found.get(bag, (i, 0, np.zeros(len(walk.names))))
        row[walk.number[label]] = value
        found[bag] = (first, terms + 1, row)
    return found


def _whole_counts(proportions: Tensor, sizes: Tensor) -> Tensor:
    """Return how many images of each class a bag holds, (bags, clusters) int64; zeros where no whole numbers are meant.

    >>> import torch
    >>> _whole_counts(torch.tensor([[0.333, 0.667], [0.4, 0.6]]), torch.tensor([3, 3])).tolist()
    [[1, 2], [0, 0]]
    """
    import torch

    images = proportions * sizes[:, None]
    counts = images.round()
    whole = ((images - counts).abs() <= _WHOLE).all(1) & (counts.sum(1) == sizes)
    return torch.where(whole[:, None], counts, 0.0).long()


def _probability_wrong(error: np.ndarray) -> np.ndarray:
    """Return P(the shares are wrong): errors of right ones fall off exponentially, wrong ones have any as likely.

    The mean of the one and the share of the other are learned (expectation–maximisation, from the median).
    """
    from smidgen.evidence.explaining import IMAGINED, probability_wrong

    mean, rate = max(float(np.median(error)) / np.log(2), 0.01), 0.05
    wrong = np.zeros(len(error))
    for _ in range(50):
        wrong = probability_wrong(np.exp(-error / mean) / mean, np.ones(len(error)), rate)
        mean = max(float(((1 - wrong) * error).sum() / max((1 - wrong).sum(), 1e-9)), 0.01)
        rate = float((wrong.sum() + 0.05 * IMAGINED) / (len(error) + IMAGINED))
    return wrong


def _largest_shares(columns: Columns, i: int, start: str) -> str:
    """Return the largest shares in words: "cat: 50 %, dog: 25 %, …"."""
    shares = {name[len(start) : -1]: float(values[i]) for name, values in columns.items() if name.startswith(start)}
    held = [name for name in shares if shares[name] >= 0.005]
    order = sorted(held, key=lambda name: (-shares[name], natural_key(name)))
    words = [f"{name}: {100 * shares[name]:.0f} %" for name in order[:_MOST_SHOWN]]
    return ", ".join(words + (["…"] if len(order) > _MOST_SHOWN else [])) or "none of the classes"


def _alike(view: EvidenceView, there: np.ndarray) -> Iterator[Finding]:
    """Classes that averages over bags do not tell apart, and no labels either."""
    labelled = np.isin(there, view.labels)
    shares = view.proportions[:, there].astype(np.float64)
    scaled = shares / shares.sum(0)
    alike = [
        (a, b)
        for a, b in combinations(range(len(there)), 2)
        if np.allclose(scaled[:, a], scaled[:, b], atol=1e-6) and not (labelled[a] and labelled[b])
    ]
    rank = int(np.linalg.matrix_rank(shares, tol=1e-4))
    if alike:
        names = "; ".join(f"{view.names[there[a]]} and {view.names[there[b]]}" for a, b in alike[:3])
        yield Finding(
            "warning",
            "The shares of these classes go up and down together, and they are not both labelled: averages over bags do"
            f" not tell them apart: {names}.",
            "Add bags that hold one without the other, or label images of both.",
        )
    elif rank < len(there) and not labelled.all():
        yield Finding(
            "warning",
            f"The shares vary in {number_of(rank, 'direction')} only, for {len(there)} classes: averages over bags do"
            " not tell all of them apart.",
            "Add bags of other compositions, or label images of each class.",
        )


def _never_together(view: EvidenceView, there: np.ndarray) -> Iterator[Finding]:
    held = view.proportions[:, there] > 0
    meets = held.T.astype(np.int64) @ held
    pure = held[held.sum(1) == 1].any(0)
    direct = pure | np.isin(there, view.labels)  # something shows the class by itself
    apart = [(i, j) for i, j in combinations(range(len(there)), 2) if meets[i, j] == 0]
    if apart:
        names = "; ".join(f"{view.names[there[a]]} and {view.names[there[b]]}" for a, b in apart[:3])
        more = ", …" if len(apart) > 3 else ""
        unseen = [pair for pair in apart if not (direct[pair[0]] and direct[pair[1]])]
        yield Finding(
            "note",
            f"{number_of(len(apart), 'pair')} of classes never meet in a bag with shares ({names}{more})"
            + (f"; {len(unseen)} of them without a bag of one class or a label for each." if unseen else "."),
        )


KIND = Proportions()
