import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from smidgen.errors import InputError
from smidgen.maths import neighbours as module
from smidgen.maths.neighbours import mutual, nearest_neighbours


def points(n: int, features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def slow(x: torch.Tensor, k: int, metric: str = "euclidean") -> tuple[torch.Tensor, torch.Tensor]:
    """One row after the other, in float64, ties by index."""
    x = x.double()
    if metric == "cosine":
        x = torch.nn.functional.normalize(x, dim=1)
        rows = [1 - x @ q for q in x]
    else:
        rows = [(x - q).norm(dim=1) for q in x]
    distances = torch.stack(rows)
    distances.fill_diagonal_(torch.inf)
    values, indices = distances.sort(dim=1, stable=True)
    return indices[:, :k], values[:, :k]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 40), features=st.integers(1, 5), seed=st.integers(0, 99), metric=st.sampled_from(module.METRICS)
)
def test_neighbours_are_those_of_the_slow_loop(n: int, features: int, seed: int, metric: str) -> None:
    x = points(n, features, seed)
    k = min(3, n - 1)
    indices, distances = nearest_neighbours(x, k, metric=metric, block_size=7)
    expected, values = slow(x, k, metric)
    np.testing.assert_allclose(distances, values, atol=2e-6)
    if metric == "euclidean":  # cosines of one feature are all ties
        assert torch.equal(indices, expected)


@pytest.mark.parametrize("metric", module.METRICS)
def test_many_points_go_through_groups_of_tiles_and_agree_with_sklearn(metric: str) -> None:
    x, queries = points(5000, 8), points(100, 8, seed=1)
    theirs = NearestNeighbors(n_neighbors=4, algorithm="brute", metric=metric).fit(x.double().numpy())
    for asked, expected in ((None, theirs.kneighbors()), (queries, theirs.kneighbors(queries.double().numpy()))):
        indices, distances = nearest_neighbours(x, 4, queries=asked, metric=metric)
        assert (indices.numpy() == expected[1]).all()
        np.testing.assert_allclose(distances, expected[0], atol=1e-6)


def test_duplicates_stay_neighbours_and_a_row_is_not_its_own() -> None:
    x = torch.cat([points(20, 3)] * 2)
    indices, distances = nearest_neighbours(x, 1)
    assert torch.equal(indices[:, 0], torch.arange(40).roll(20))
    assert (distances == 0).all()


def test_queries_that_are_points_find_themselves() -> None:
    x = points(30, 3)
    indices, distances = nearest_neighbours(x, 1, queries=x[5:8])
    assert indices.flatten().tolist() == [5, 6, 7]
    assert distances.max() == 0


def test_ties_go_to_the_smaller_index() -> None:
    indices, _ = nearest_neighbours(torch.tensor([[0.0], [1.0], [-1.0], [1.0], [-1.0]]), 4)
    assert indices[0].tolist() == [1, 2, 3, 4]


def test_small_distances_beside_large_norms_are_not_lost() -> None:
    # Two far groups of close points: |q|^2 - 2 q.x + |x|^2 in float32 knows nothing about the order within a group.
    near = points(60, 4).double() * 1e-3
    x = torch.cat([near, near.flip(0) + 100])
    indices, distances = nearest_neighbours(x, 2)
    expected, values = slow(x, 2)
    assert torch.equal(indices, expected)
    np.testing.assert_allclose(distances, values, rtol=1e-5)


def test_an_offset_and_a_scale_change_nothing_but_the_scale() -> None:
    x = points(50, 4).double()
    indices, distances = nearest_neighbours(x, 3)
    moved, scaled = nearest_neighbours(x * 1e30 + 1e32, 3)
    assert torch.equal(indices, moved)
    np.testing.assert_allclose(scaled / 1e30, distances, rtol=1e-5)


@pytest.mark.parametrize("metric", module.METRICS)
def test_equal_points_are_all_at_the_same_distance(metric: str) -> None:
    indices, distances = nearest_neighbours(torch.full((20, 3), 7.0), 2, metric=metric)
    assert (distances == 0).all()
    assert (indices != torch.arange(20)[:, None]).all()


def test_zero_rows_are_at_cosine_distance_one_from_everything() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    _, distances = nearest_neighbours(x, 2, metric="cosine")
    assert (distances == 1).all()


def test_smallest_sizes() -> None:
    assert nearest_neighbours(torch.zeros(2, 1), 1)[0].tolist() == [[1], [0]]
    assert nearest_neighbours(torch.zeros(1, 1), 1, queries=torch.zeros(0, 1))[0].shape == (0, 1)
    for n in (0, 1):
        with pytest.raises(InputError, match="other points"):
            nearest_neighbours(torch.zeros(n, 3), 1)
    with pytest.raises(InputError, match=r"other points \(3\), got 4"):
        nearest_neighbours(points(4, 2), 4)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    x = points(9, 2)
    x[3, 1] = torch.nan
    with pytest.raises(InputError, match="NaN or infinite values in 1 of 9 rows, first in row 3"):
        nearest_neighbours(x, 1)
    with pytest.raises(InputError, match="Did you mean 'cosine'"):
        nearest_neighbours(points(9, 2), 1, metric="cosin")
    with pytest.raises(InputError, match="matrix"):
        nearest_neighbours(torch.zeros(4, 3, 3), 1)
    with pytest.raises(InputError, match="2 features"):
        nearest_neighbours(points(9, 2), 1, queries=points(9, 3))


def test_progress_counts_up_to_the_number_of_queries() -> None:
    seen: list[tuple[int, int]] = []
    nearest_neighbours(points(10, 2), 1, block_size=4, progress=lambda done, total: seen.append((done, total)))
    nearest_neighbours(points(10, 2), 1, queries=points(0, 2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10), (0, 0)]


def test_mutual_is_symmetric_as_a_relation() -> None:
    indices, _ = nearest_neighbours(points(30, 2), 4)
    both = mutual(indices)
    pairs = {(i, int(j)) for i in range(30) for j in indices[i][both[i]]}
    assert pairs == {(j, i) for i, j in pairs}
    assert pairs == {(i, int(j)) for i in range(30) for j in indices[i] if i in indices[j]}
