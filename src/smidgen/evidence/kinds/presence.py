"""Presence: whether a bag holds any image of a class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.data.cells import if_given, truth
from smidgen.errors import InputError
from smidgen.evidence.kind import Columns, Kind, Loss, Row, Said, Words
from smidgen.evidence.values import about_classes

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk
    from smidgen.evidence.view import EvidenceView


class Presence(Kind):
    """Rows (bag, class, whether present).

    Resolved: `presence_bags` (m,) and `presence` (m, classes) int64; 1 present, 0 absent, -1 unknown.
    """

    name = "presence"
    about = "bags"
    forms = (("bag", "label", "present"),)
    cells = {"present": if_given(truth)}  # noqa: RUF012
    subject = 2
    class_at = 1
    words = Words(
        "Classes present in bags",
        "statement is most likely wrong",
        "statements are most likely wrong",
        {"presence": "the presences"},
    )

    def of_bag(self, table: str, bag: str, value: Any) -> Iterator[Row]:
        """Read {class: whether present}."""
        return about_classes(table, bag, value, truth, may_be_missing=True)

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return no statements."""
        return {"presence_bags": np.zeros(0, dtype=np.int64), "presence": np.zeros((0, 0), dtype=np.int64)}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Refuse that a class is both present and absent; drop what the images that are left need not show."""
        rows: dict[int, np.ndarray] = {}
        seen: dict[tuple[int, int], int] = {}
        for i, (name, label, present) in enumerate(walk.evidence.presence):
            bag = walk.bag("presence", i)
            if bag is None or (present and walk.bags.lost[bag]):  # the image that showed it may be the one that is lost
                continue
            row, k = rows.setdefault(bag, np.full(len(walk.names), -1, dtype=np.int64)), walk.number[label]
            j = seen.setdefault((bag, k), i)
            if row[k] not in (-1, int(present)):
                raise InputError(
                    f"{walk.where('presence', i)}: class {label!r} is {'present' if present else 'absent'} in bag"
                    f" {name!r}, but {walk.where('presence', j)} says the opposite; keep one."
                )
            row[k] = present
        order = sorted(rows)
        table = np.stack([rows[bag] for bag in order]) if rows else np.zeros((0, len(walk.names)), np.int64)
        return {"presence_bags": np.array(order, dtype=np.int64), "presence": table}

    def known(self, evidence: Resolved) -> Tensor:
        """Return the bags with statements."""
        return evidence.presence_bags

    def bounds(self, view: EvidenceView, low: np.ndarray, high: np.ndarray) -> None:
        """Take one image at least of a class that is present, none of one that is absent."""
        bags = view.presence_bags
        if not len(bags):
            return
        stated = np.full((len(view.presence), view.n_clusters), -1)
        stated[:, : len(view.names)] = view.presence
        low[bags] = np.maximum(low[bags], stated == 1)
        high[bags] = np.where(stated == 0, 0, high[bags])

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return −Σ log((1 − ε) P(present or absent, as stated) + ε / 2) over the classes of a bag."""
        import torch
        from torch.nn import functional as F

        from smidgen.maths.likelihoods import presence_loss

        present = F.pad(evidence.presence, (0, n_clusters - len(evidence.class_names)), value=-1)

        def chance_loss() -> Tensor:
            offsets = torch.arange(len(present) + 1)  # bags of one image
            frequency = (present == 1).sum(0) / (present >= 0).sum(0).clamp_min(1)
            return presence_loss(frequency.expand(present.shape), offsets, present, epsilon=epsilon)

        return {
            "presence": Loss(
                {"presence": present},
                lambda p, offsets, given: presence_loss(p, offsets, given["presence"], epsilon=epsilon),
                chance_loss,
            )
        }

    def votes(self, evidence: Resolved, p: Tensor, bag_means: Callable[[], Tensor]) -> Tensor | None:
        """Let bags vote with their mean assignment, above the average, where no proportions say more."""
        if len(evidence.proportion_bags):
            return None
        means = bag_means()[evidence.presence_bags]
        stated = (evidence.presence == 1).double() - (evidence.presence == 0).double()
        return (means - means.mean(0)).T @ stated

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return bag, size, label, present, predicted (1 present), probability."""
        from smidgen.evidence.bag_laws import over_bags
        from smidgen.evidence.explaining import BY_BAGS, BY_SHARPNESS, calibrate, probability_wrong, worst_first

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
        how = calibrate(lambda choice: as_given(choice, some, of_some), chance[of_some], BY_BAGS, BY_SHARPNESS)
        given = as_given(how, np.arange(len(bags)), np.arange(len(items)))
        columns = {
            "bag": known.names(bags[items]),
            "size": sizes[items],
            "label": known.classes[classes],
            "present": present.astype(int),
            "predicted": np.where(given > 0.5, present, ~present).astype(int),
            "probability": given,
        }
        return worst_first(columns, given > 0.5, given, probability_wrong(given, chance, how.wrong)), how

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return what is said of the class, and what the model finds."""
        label = columns["label"][i]
        given, seen = (
            f"holds {label}" if float(columns[name][i]) > 0 else f"no {label}" for name in ("present", "predicted")
        )
        return Said(given, seen, bag=columns["bag"][i])


def _log_absent(p: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return log Π_i (1 − p_ik), (bags, clusters)."""
    result: np.ndarray = np.add.reduceat(np.log1p(-np.minimum(p, 1 - 1e-12)), offsets[:-1], axis=0)
    return result


def _both(log_absent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logs of P(absent) and P(present)."""
    return log_absent, np.log(np.maximum(-np.expm1(log_absent), 1e-300))


KIND = Presence()
