import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from smidgen.errors import InputError
from smidgen.maths.kmeans import EMPTY, KMeansResult, assign, kmeans


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(per_cluster: int = 30, n_clusters: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Well separated clusters around 10 x the unit vectors."""
    centres = 10 * torch.eye(n_clusters).repeat_interleave(per_cluster, 0)
    labels = torch.arange(n_clusters).repeat_interleave(per_cluster)
    return centres + torch.randn(centres.shape, generator=seeded(seed)), labels


def check_consistent(x: torch.Tensor, result: KMeansResult) -> None:
    squares = torch.cdist(x.double(), result.centroids.double()).square()
    mine = squares[torch.arange(len(x)), result.labels]
    assert (mine <= squares.min(1).values + 1e-4).all()
    assert result.inertia == pytest.approx(float(mine.sum()), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("n_clusters", [3, 40])
def test_same_start_gives_scikit_learns_centroids_and_inertia(n_clusters: int) -> None:
    x = load_digits().data[:300]
    theirs = KMeans(n_clusters, init=x[:n_clusters], n_init=1, tol=0).fit(x)
    data = torch.from_numpy(x)
    ours = kmeans(data, n_clusters, initial=data[:n_clusters], tolerance=0, generator=seeded())
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-9)
    assert (ours.labels.numpy() == theirs.labels_).all()
    assert ours.inertia == pytest.approx(theirs.inertia_)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_tolerance_stops_where_scikit_learn_stops(tolerance: float) -> None:
    x = load_digits().data[:400]
    theirs = KMeans(10, init=x[:10], n_init=1, tol=tolerance).fit(x)
    data = torch.from_numpy(x)
    ours = kmeans(data, 10, initial=data[:10], tolerance=tolerance, generator=seeded())
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=1e-9)


def test_ten_starts_are_as_good_as_scikit_learns() -> None:
    x = load_digits().data[:300].astype(np.float32)
    theirs = KMeans(10, n_init=10, random_state=0).fit(x)
    ours = kmeans(torch.from_numpy(x), 10, generator=seeded())
    assert ours.inertia <= theirs.inertia_ * 1.005
    check_consistent(torch.from_numpy(x), ours)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 30), k=st.integers(1, 6), seed=st.integers(0, 99), empty=st.sampled_from(EMPTY))
def test_labels_are_the_nearest_centroids(n: int, k: int, seed: int, empty: str) -> None:
    x = torch.randn(n, 2, generator=seeded(seed))
    result = kmeans(x, min(k, n), n_init=2, generator=seeded(seed), empty=empty)
    check_consistent(x, result)
    assert torch.equal(assign(x, result.centroids), result.labels)


def test_hand_computed() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0]])
    result = kmeans(x, 2, initial=torch.tensor([[0.0], [1.0]]), generator=seeded())
    assert result.centroids.flatten().tolist() == [0.5, 10.0]
    assert result.labels.tolist() == [0, 0, 1]
    assert result.inertia == 0.5


def test_same_seed_same_result() -> None:
    x = torch.randn(200, 3, generator=seeded())
    first, second, other = (kmeans(x, 8, n_init=1, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, other.centroids)


def test_greedy_starts_find_separated_clusters_at_once() -> None:
    x, labels = blobs(n_clusters=12)
    result = kmeans(x, 12, n_init=1, generator=seeded())
    assert all(len(result.labels[labels == k].unique()) == 1 for k in range(12))
    assert len(result.labels.unique()) == 12


def test_seeds_give_clusters_their_numbers_and_may_be_overruled() -> None:
    x, labels = blobs()
    seeds = torch.full_like(labels, -1)
    seeds[labels == 2] = 0  # cluster 0 starts at blob 2; the others are found
    seeds[0] = 0  # a wrong label
    result = kmeans(x, 4, seeds=seeds, generator=seeded())
    assert (result.labels[labels == 2] == 0).all()
    assert result.labels[0] != 0
    assert len(result.labels.unique()) == 4


def test_fixed_rows_keep_their_cluster_and_pull_its_centroid() -> None:
    x, labels = blobs()
    fixed = torch.where(torch.arange(len(x)) % 30 < 2, labels, -1)
    fixed[0] = 3
    result = kmeans(x, 4, fixed=fixed, generator=seeded())
    assert result.labels[0] == 3
    assert torch.equal(result.labels[1:], labels[1:])
    torch.testing.assert_close(result.centroids[3], x[result.labels == 3].mean(0))


def test_weights_count_as_repetitions() -> None:
    x = torch.randn(40, 2, generator=seeded(), dtype=torch.float64)
    weights = torch.randint(0, 4, (40,), generator=seeded())
    weights[:3] = 1
    weighted = kmeans(x, 3, weights=weights, initial=x[:3], tolerance=0, generator=seeded())
    repeated = kmeans(x.repeat_interleave(weights, 0), 3, initial=x[:3], tolerance=0, generator=seeded())
    torch.testing.assert_close(weighted.centroids, repeated.centroids)
    assert weighted.inertia == pytest.approx(repeated.inertia)


def test_fractional_weights_agree_with_scikit_learn() -> None:
    x = load_digits().data[:300]
    weights = np.random.default_rng(0).random(300)
    theirs = KMeans(5, init=x[:5], n_init=1, tol=0).fit(x, sample_weight=weights)
    data = torch.from_numpy(x)
    ours = kmeans(data, 5, initial=data[:5], tolerance=0, weights=torch.from_numpy(weights), generator=seeded())
    assert ours.inertia == pytest.approx(theirs.inertia_)


def test_spherical_sees_directions_only() -> None:
    x, labels = blobs()
    lengths = torch.logspace(-6, 6, len(x))[torch.randperm(len(x), generator=seeded())]
    result = kmeans(x * lengths[:, None], 4, spherical=True, seeds=labels, generator=seeded())
    assert torch.equal(result.labels, labels)
    torch.testing.assert_close(result.centroids.norm(dim=1), torch.ones(4))
    unit = torch.nn.functional.normalize(x, dim=1)
    assert result.inertia == pytest.approx(float(2 * (1 - (unit @ result.centroids.T).amax(1)).sum()), rel=1e-4)
    assert torch.equal(assign(x, result.centroids * 5, spherical=True), labels)


@pytest.mark.parametrize(("empty", "used"), [("farthest", 4), ("split", 4), ("keep", 1)])
def test_empty_clusters_are_repaired_by_the_rule(empty: str, used: int) -> None:
    x, _ = blobs()
    initial = torch.cat([x.mean(0, keepdim=True), torch.full((3, 4), 1e4)])  # three centroids far from every row
    result = kmeans(x, 4, initial=initial, empty=empty, generator=seeded())
    assert len(result.labels.unique()) == used
    check_consistent(x, result)


def test_split_repairs_thousands_of_empty_clusters() -> None:
    x = torch.rand(3000, 2, generator=seeded())
    initial = torch.cat([torch.rand(100, 2, generator=seeded(1)), torch.full((400, 2), 1e3)])
    result = kmeans(x, 500, initial=initial, empty="split", max_iterations=20, generator=seeded())
    assert len(result.labels.unique()) > 450


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("x", [torch.full((7, 3), 2.5), torch.zeros(3, 2), torch.eye(2).repeat(4, 1)])
def test_fewer_different_rows_than_clusters_is_valid(x: torch.Tensor, spherical: bool, empty: str) -> None:
    result = kmeans(x, 3, spherical=spherical, empty=empty, max_iterations=20, generator=seeded())
    assert result.centroids.isfinite().all()
    assert ((result.labels >= 0) & (result.labels < 3)).all()
    assert result.inertia == pytest.approx(0, abs=1e-4)


def test_smallest_sizes() -> None:
    assert kmeans(torch.tensor([[3.0]]), 1, generator=seeded()).centroids.tolist() == [[3.0]]
    assert sorted(kmeans(torch.tensor([[0.0], [5.0], [9.0]]), 3, generator=seeded()).labels.tolist()) == [0, 1, 2]
    for n, n_clusters in ((0, 1), (1, 2), (3, 4), (3, 0)):
        with pytest.raises(InputError, match="n_clusters must be from 1"):
            kmeans(torch.zeros(n, 2), n_clusters, generator=seeded())


def test_a_large_offset_does_not_hurt_the_clusters() -> None:
    x, labels = blobs()
    result = kmeans(x.double() + 1e6, 4, seeds=labels, generator=seeded())
    assert torch.equal(result.labels, labels)
    assert torch.equal(assign(x.double() + 1e6, result.centroids), labels)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    x = torch.randn(6, 2, generator=seeded())
    for wrong, words in (
        ({"initial": torch.zeros(3, 2)}, "initial must be 2 centroids"),
        ({"seeds": torch.tensor([0, 1, 2, -1, -1, -1])}, "seeds must be from 0 to 1"),
        ({"fixed": torch.zeros(5, dtype=torch.int64)}, "fixed must be 6 integers"),
        ({"weights": -torch.ones(6)}, "weights must be 6"),
        ({"empty": "splitt"}, "Did you mean 'split'"),
        ({"n_init": 0}, "n_init"),
    ):
        with pytest.raises(InputError, match=words):
            kmeans(x, 2, generator=seeded(), **wrong)
    with pytest.raises(InputError, match="x must be finite"):
        kmeans(x / 0, 2, generator=seeded())
    with pytest.raises(InputError, match="centroids must be"):
        assign(x, torch.zeros(2, 3))


def test_runs_are_reported_and_a_given_start_needs_one() -> None:
    x, labels = blobs()
    seen: list[tuple[int, int]] = []
    kmeans(x, 4, n_init=3, generator=seeded(), progress=lambda done, total: seen.append((done, total)))
    kmeans(x, 4, n_init=3, seeds=labels, generator=seeded(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3), (1, 1)]


def test_many_centroids_are_drawn_in_rounds_and_are_as_good_as_scikit_learns() -> None:
    x, _ = blobs(per_cluster=12, n_clusters=300)
    ours = kmeans(x, 300, generator=seeded(), n_init=1)
    theirs = KMeans(300, n_init=1, random_state=0).fit(x.numpy())
    check_consistent(x, ours)
    assert ours.inertia <= theirs.inertia_ * 1.05
    assert len(ours.labels.unique()) == 300


def test_rounds_start_around_seeds_and_end_where_rows_are_used_up() -> None:
    x = torch.arange(150.0)[:, None].repeat(2, 1)
    seeds = torch.full((300,), -1)
    seeds[[7, 3]] = torch.tensor([0, 5])
    result = kmeans(x, 200, generator=seeded(), seeds=seeds)
    assert result.inertia == pytest.approx(0, abs=1e-4)
    assert result.labels[[7, 3]].tolist() == [0, 5]
