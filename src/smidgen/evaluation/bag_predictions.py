"""Predictions for bags of images: how many different clusters each holds, and in which proportions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.evidence.bag_laws import (
    Calibration,
    Progress,
    count_log_law,
    gathered,
    mean_assignments,
    over_bags,
    random_count_log_law,
)
from smidgen.evidence.resolved import Resolved


@dataclass(frozen=True, eq=False)
class BagPredictions:
    """What was predicted of some bags.

    bag_names: in the order of the rows. sizes: (bags,) int64, images in each.
    law: (bags, counts) float64, P(the bag holds 1, 2, … different clusters); rows sum to one.
    shares: (bags, clusters) float64, the share of each cluster: the mean assignment of the bag's images.
    head: (bags, clusters), P(1, 2, … different clusters) by the method's own head for counts of bags, where it has one
        (ucc, rcc). It was trained on bags of some sizes and counts, and knows no others; `law` holds for any. A row is
        0 where a bag has fewer images than the least count that the head knows.
    head_numbers: (bags, clusters), how many images of each cluster by a head of its own, below 0 at times (rcc).
    """

    bag_names: tuple[str, ...]
    sizes: np.ndarray
    law: np.ndarray
    shares: np.ndarray
    head: np.ndarray | None = None
    head_numbers: np.ndarray | None = None

    @property
    def unique_counts(self) -> np.ndarray:
        """The most likely number of different clusters in each bag, (bags,) int64."""
        return self.law.argmax(1) + 1 if self.law.size else np.zeros(0, dtype=np.int64)

    def columns(self, cluster_names: Sequence[str]) -> dict[str, list[str] | list[int] | list[float]]:
        """Return a table with a row for each bag.

        bag, n_images, ucc and ucc_probability (the most likely number of different clusters); p(ucc=1), p(ucc=2), …;
        share(NAME), how much of the bag each cluster is; images(NAME), how many images that are to be expected;
        head_ucc, head_ucc_probability and head_images(NAME), what heads for bags say, where there are any.
        """
        columns: dict[str, list[str] | list[int] | list[float]] = {
            "bag": list(self.bag_names),
            "n_images": self.sizes.tolist(),
            "ucc": self.unique_counts.tolist(),
            "ucc_probability": _rounded(self.law.max(1, initial=0)),
        }
        columns |= {f"p(ucc={u})": _rounded(p) for u, p in enumerate(self.law.T, start=1)}
        columns |= {f"share({name})": _rounded(s) for name, s in zip(cluster_names, self.shares.T, strict=True)}
        numbers = self.shares * self.sizes[:, None]
        columns |= {f"images({name})": _rounded(n, 3) for name, n in zip(cluster_names, numbers.T, strict=True)}
        if self.head is not None:
            columns["head_ucc"] = (self.head.argmax(1) + 1).tolist() if self.head.size else []
            columns["head_ucc_probability"] = _rounded(self.head.max(1, initial=0))
        if self.head_numbers is not None:
            told = zip(cluster_names, self.head_numbers.T, strict=True)
            columns |= {f"head_images({name})": _rounded(n, 3) for name, n in told}
        return columns


def _rounded(values: np.ndarray, digits: int = 6) -> list[float]:
    return [float(value) for value in values.round(digits)]


def predict_bags(
    assignments: np.ndarray,
    bags: Resolved,
    *,
    calibration: Calibration | None = None,
    progress: Progress | None = None,
) -> BagPredictions:
    """Return how many different clusters each bag holds, and the share of each cluster.

    The law of the count is that of `maths.counts` for images independent given p' (exact for up to 12 clusters and for
    bags of few images, by independent presences otherwise), over that of as many images of random clusters to the
    power `gathering`.

    assignments: (images, clusters), rows sum to one. bags: as `Evidence.from_bags(…).resolve(ids)` gives them; what it
    knows of them is not looked at. calibration: None for the default; `Calibration(leak=0, gathering=0)` for the bare
    law of the assignments. progress: called with (bags done, bags).

    >>> import torch
    >>> pair = Resolved(2, torch.tensor([-1, -1]), (), ("pair",), torch.tensor([0, 1]), torch.tensor([0, 2]))
    >>> found = predict_bags(np.array([[1.0, 0.0], [0.25, 0.75]]), pair, calibration=Calibration(leak=0, gathering=0))
    >>> found.law.round(3).tolist(), found.unique_counts.tolist(), found.shares.tolist()
    ([[0.25, 0.75]], [2], [[0.625, 0.375]])
    """
    how = calibration or Calibration()
    n_clusters, sizes = assignments.shape[1], bags.bag_sizes.numpy()
    max_count = min(n_clusters, int(sizes.max(initial=1)))

    def predict(p: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        law = count_log_law(how.soften(p), offsets, max_count=max_count)
        return np.concatenate([law, mean_assignments(p, offsets)], axis=1)

    found = over_bags(predict, assignments, bags.members.numpy(), bags.offsets.numpy(), progress=progress)
    found = found.reshape(-1, max_count + n_clusters)  # of no bags too
    base = random_count_log_law(sizes, n_clusters=n_clusters, max_count=max_count)
    law = gathered(found[:, :max_count], base, gathering=how.gathering)
    return BagPredictions(bags.bag_names, sizes, law, found[:, max_count:])
