"""Scale is no property of points: what is found does not depend on it, to the last bit where it is a power of two."""

import pytest
import torch

from smidgen.errors import InputError
from smidgen.maths.kmeans import assign, kmeans
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.pca import fit_pca
from smidgen.maths.scaling import power_of_two, unit_rows
from smidgen.maths.soft_clusters import assignments_by_distance, calibrated_spread
from smidgen.nets.projection import Projection

CLUSTERS = torch.arange(90) % 3
POINTS = torch.eye(3).repeat(1, 150)[CLUSTERS] + 0.3 * torch.randn(90, 450, generator=torch.Generator().manual_seed(0))
SCALES = [2.0**-90, 2.0**-40, 2.0**60, 2.0**95]


def found(x, **options):
    return kmeans(x, 3, generator=torch.Generator().manual_seed(0), n_init=2, **options)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_kmeans_gives_the_same_at_every_scale(scale, spherical):
    plain, scaled = (found(x, spherical=spherical) for x in (POINTS, POINTS * scale))
    assert scaled.labels.equal(plain.labels)
    assert len(set(zip(plain.labels.tolist(), CLUSTERS.tolist(), strict=True))) == 3
    if spherical:
        torch.testing.assert_close(scaled.centroids, plain.centroids)
    else:
        assert scaled.centroids.equal(plain.centroids * scale)
        assert scaled.inertia == pytest.approx(plain.inertia * scale**2, rel=1e-12)
    assert assign(POINTS * scale, scaled.centroids, spherical=spherical).equal(plain.labels)


@pytest.mark.parametrize("scale", SCALES)
def test_soft_assignments_are_the_same_at_every_scale(scale):
    def soft(x):
        result = found(x)
        spread = calibrated_spread(x, result.centroids, result.labels, generator=torch.Generator().manual_seed(0))
        return assignments_by_distance(x, result.centroids, spread)

    torch.testing.assert_close(soft(POINTS * scale), soft(POINTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_and_components_are_the_same_at_every_scale(scale, metric):
    plain, scaled = (nearest_neighbours(x, 5, metric=metric)[0] for x in (POINTS, POINTS * scale))
    assert scaled.equal(plain)
    plain, scaled = (fit_pca(x, 4, l2=True).transform(x) for x in (POINTS, POINTS * scale))
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-5)
    assert scaled.norm(dim=1) == pytest.approx(torch.ones(90), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, *SCALES])
def test_a_projection_is_of_one_scale_also_beside_an_offset_and_a_huge_feature(scale):
    def projected(x):
        projection = Projection(x.shape[1], 8)
        projection.fit(x)
        return projection(x)

    plain = projected(POINTS)
    torch.testing.assert_close(projected(POINTS * scale), plain)
    mixed = POINTS.clone()
    mixed[:, 0] *= 1e20
    mixed[:, 1] /= 1e20
    torch.testing.assert_close(projected(mixed), plain, rtol=1e-3, atol=1e-3)
    shifted = projected((POINTS + 2e5) * scale)  # with differences of about ten steps of float32
    assert float((shifted * plain).sum() / (shifted.norm() * plain.norm())) > 0.98


def test_constant_features_say_nothing_however_large():
    large = torch.cat([POINTS, torch.full((90, 1), 1e20), torch.full((90, 1), 0.3)], dim=1)
    assert found(large).labels.equal(found(POINTS).labels)
    assert assign(large, found(large).centroids).equal(found(POINTS).labels)
    assert nearest_neighbours(large, 5)[0].equal(nearest_neighbours(POINTS, 5)[0])


def test_a_large_offset_hides_nothing():
    assert found(POINTS + 1e6).labels.equal(found(POINTS).labels)
    assert found(POINTS.double() + 1e12).labels.equal(found(POINTS).labels)


def test_a_row_that_hides_the_others_is_refused():
    far = POINTS.clone()
    far[7, 2] = 1e12
    with pytest.raises(InputError, match="Row 7 lies 6e\\+11 times as far"):
        found(far)
    with pytest.raises(InputError, match="Row 7 lies 6e\\+11 times as far"):
        Projection(far.shape[1], 8).fit(far)
    far[7, 2] = 1e4
    assert (found(far).labels == found(far).labels[7]).sum() == 1


def test_powers_of_two_and_unit_rows():
    sizes = torch.tensor([1e-38, 0.5, 1.0, 1.5, 3e38])
    powers = power_of_two(sizes)
    assert ((powers <= sizes) & (sizes / 2 < powers)).all()
    assert (torch.frexp(powers).mantissa == 0.5).all()
    assert unit_rows(POINTS).equal(torch.nn.functional.normalize(POINTS, dim=1))
