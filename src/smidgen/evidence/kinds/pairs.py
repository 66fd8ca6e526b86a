"""Pairs: whether two images are of the same class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.data.cells import if_given, truth
from smidgen.errors import InputError
from smidgen.evidence.findings import number_of
from smidgen.evidence.kind import Columns, Kind, Loss, Row, Said, Words

if TYPE_CHECKING:
    from torch import Tensor

    from smidgen.evidence.bag_laws import Calibration
    from smidgen.evidence.explaining import Known, Table
    from smidgen.evidence.resolved import Resolved
    from smidgen.evidence.resolving import Walk


class Pairs(Kind):
    """Rows (image, image, whether of the same class); resolved: `pairs` (pairs, 2) int64, `same` (pairs,) bool."""

    name = "pairs"
    about = "pairs"
    forms = (("image_a", "image_b", "same"),)
    subject = 2
    cells = {"same": if_given(truth)}  # noqa: RUF012
    words = Words("Pairs", "pair is most likely wrong", "pairs are most likely wrong", {"pairs": "the pairs"})

    def size(self, rows: Sequence[Row]) -> int:
        """Return the number of pairs."""
        return len(rows)

    def nothing(self, n_images: int) -> dict[str, np.ndarray]:
        """Return no pairs."""
        return {"pairs": np.zeros((0, 2), dtype=np.int64), "same": np.zeros(0, dtype=bool)}

    def resolve(self, walk: Walk) -> dict[str, np.ndarray]:
        """Refuse an image paired with itself, and contradictions unless they are to be kept; drop repetitions."""
        statements, n = walk.evidence.pairs, walk.n_images
        ends = [walk.rows("pairs", [pair[side] for pair in statements]) for side in (0, 1)]
        same = np.array([s for _, _, s in statements], dtype=bool)
        numbers = np.flatnonzero((ends[0] >= 0) & (ends[1] >= 0))
        a, b, same = np.minimum(*ends)[numbers], np.maximum(*ends)[numbers], same[numbers]
        if (a == b).any():
            i = int(numbers[np.flatnonzero(a == b)[0]])
            raise InputError(
                f"{walk.where('pairs', i)}: image {statements[i][0]!r} is paired with itself; a pair is two images."
            )
        if not walk.keep_contradictory_pairs:
            _refuse_contradictions(walk, a, b, same, numbers)
        _, first = np.unique(np.stack([a * n + b, same]), axis=1, return_index=True)
        first.sort()
        return {"pairs": np.stack([a, b], 1)[first], "same": same[first]}

    def known(self, evidence: Resolved) -> Tensor:
        """Return the pairs, (pairs, 2)."""
        return evidence.pairs

    def losses(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> dict[str, Loss]:
        """Return −log((1 − ε) P(the answer) + ε / 2)."""
        import torch

        from smidgen.maths.likelihoods import pair_loss

        same = evidence.same

        def chance_loss() -> Tensor:
            together = same.float().mean()
            answer = torch.stack([together, 1 - together]).expand(len(same), 2)
            return pair_loss(answer, torch.tensor([[1.0, 0.0]]), same, epsilon=epsilon)

        return {
            "pairs": Loss(
                {"same": same}, lambda p, given: pair_loss(p[0], p[1], given["same"], epsilon=epsilon), chance_loss
            )
        }

    def explain(self, known: Known) -> tuple[Table, Calibration]:
        """Return image_a, image_b, same, predicted (1 same), probability."""
        from smidgen.evidence.explaining import BY_SHARPNESS, calibrate, probability_wrong, sample, worst_first

        pairs, same = known.evidence.pairs.numpy(), known.evidence.same.numpy()
        chance = np.full(len(pairs), 0.5)

        def together(how: Calibration, some: np.ndarray) -> np.ndarray:
            if known.unseen is not None:
                said = known.unseen.together[some]
                return how.soften(np.stack([said, 1 - said], axis=1))[:, 0]
            return (how.soften(known.p[pairs[some, 0]]) * how.soften(known.p[pairs[some, 1]])).sum(1)

        def probability(how: Calibration, some: np.ndarray) -> np.ndarray:
            found = together(how, some)
            return np.where(same[some], found, 1 - found)

        some = sample(len(pairs))
        how = calibrate(lambda choice: probability(choice, some), chance[some], BY_SHARPNESS)
        found = probability(how, np.arange(len(pairs)))
        columns = {
            "image_a": known.images[pairs[:, 0]],
            "image_b": known.images[pairs[:, 1]],
            "same": same.astype(int),
            "predicted": np.where(found > 0.5, same, ~same).astype(int),
            "probability": found,
        }
        return worst_first(columns, found > 0.5, found, probability_wrong(found, chance, how.wrong)), how

    def row_in_words(self, columns: Columns, i: int) -> Said:
        """Return the two answers."""
        given, seen = ("same" if float(columns[name][i]) > 0 else "different" for name in ("same", "predicted"))
        return Said(given, seen, [columns[name][i] for name in ("image_a", "image_b")])


def _refuse_contradictions(walk: Walk, a: np.ndarray, b: np.ndarray, same: np.ndarray, numbers: np.ndarray) -> None:
    """Raise if a pair is given as different whose images are the same, directly or through others."""
    from scipy.sparse import coo_matrix, csgraph

    n = walk.n_images
    graph = coo_matrix((np.ones(int(same.sum())), (a[same], b[same])), shape=(n, n)).tocsr()
    _, group = csgraph.connected_components(graph, directed=False)
    wrong = np.flatnonzero(~same & (group[a] == group[b]))
    if len(wrong) == 0:
        return
    i = int(wrong[0])
    chain = _shortest_chain(graph, int(a[i]), int(b[i]))
    steps = [{start, end} for start, end in pairwise(chain)]
    said = [int(numbers[j]) for j in np.flatnonzero(same) if {int(a[j]), int(b[j])} in steps]
    places = ", ".join(walk.where("pairs", j) for j in said[:4])
    first, second = str(walk.ids[a[i]]), str(walk.ids[b[i]])
    raise InputError(
        f"{walk.where('pairs', int(numbers[i]))}: {first!r} and {second!r} are given as different, but as the same by"
        f" {places}{' together' if len(said) > 1 else ''} ({number_of(len(wrong), 'such contradiction')} in all);"
        " drop one of them, or keep all with `keep_contradictory_pairs`: the losses bear some errors."
    )


def _shortest_chain(graph: Any, start: int, end: int) -> list[int]:
    from scipy.sparse import csgraph

    _, before = csgraph.breadth_first_order(graph, start, directed=False)
    chain = [end]
    while chain[-1] != start:
        chain.append(int(before[chain[-1]]))
    return chain


KIND = Pairs()
