"""k-means without the rows farthest out: outliers draw no centroid away."""

import pytest
import torch

from smidgen.errors import InputError
from smidgen.maths.kmeans import kmeans
from smidgen.maths.trimmed_kmeans import trimmed_kmeans


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


GROUPS = torch.arange(90) % 3
MIDDLES = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
POINTS = MIDDLES[GROUPS] + torch.randn(90, 2, generator=seeded())
OUTLIERS = 60 * torch.randn(6, 2, generator=seeded(1)).sign() + torch.randn(6, 2, generator=seeded(2))
ALL = torch.cat([POINTS, OUTLIERS])


def right(labels):
    return all(len(labels[:90][k == GROUPS].unique()) == 1 for k in range(3)) and len(labels[:90].unique()) == 3


@pytest.mark.parametrize("seed", range(3))
def test_outliers_spoil_k_means_and_trimming_cures_it(seed):
    assert not right(kmeans(ALL, 3, generator=seeded(seed)).labels)
    found = trimmed_kmeans(ALL, 3, trim=0.1, generator=seeded(seed))
    assert (found.labels[:90] == kmeans(POINTS, 3, generator=seeded(seed), initial=found.centroids).labels).all()
    distances = torch.cdist(MIDDLES, found.centroids).amin(1)
    assert float(distances.max()) < 0.6
    assert found.labels.shape == (96,)


def test_without_trimming_it_is_k_means():
    plain, trimmed = (
        kmeans(POINTS, 3, generator=seeded()),
        trimmed_kmeans(POINTS, 3, trim=0.0, generator=seeded(), max_iterations=300),
    )
    assert plain.centroids.equal(trimmed.centroids)
    assert plain.labels.equal(trimmed.labels)


def test_its_inertia_is_that_of_the_rows_that_count():
    found = trimmed_kmeans(ALL, 3, trim=0.1, generator=seeded())
    squares = (ALL - found.centroids[found.labels]).square().sum(1)
    assert found.inertia == pytest.approx(float(squares.sort().values[: 96 - 9].sum()), rel=1e-4)


def test_fixed_rows_count_and_keep_their_cluster_however_far_they_are():
    fixed = torch.full((96,), -1)
    fixed[:3], fixed[90] = torch.arange(3), 1
    found = trimmed_kmeans(ALL, 3, trim=0.1, generator=seeded(), fixed=fixed)
    assert found.labels[90] == 1
    assert float((found.centroids[1] - MIDDLES[1]).norm()) > 1.5


def test_seeds_name_the_clusters():
    seeds = torch.where(torch.arange(96) < 6, torch.arange(96) % 3, -1)
    found = trimmed_kmeans(ALL, 3, trim=0.1, generator=seeded(), seeds=seeds)
    assert float((found.centroids - MIDDLES).norm(dim=1).max()) < 0.6


@pytest.mark.parametrize("trim", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(trim):
    with pytest.raises(InputError, match="`trim` must be a share from 0 to below 1"):
        trimmed_kmeans(POINTS, 3, trim=trim, generator=seeded())
