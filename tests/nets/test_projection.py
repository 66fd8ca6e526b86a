import pytest
import torch

from smidgen.nets.projection import ProjectedEncoder, Projection, one_layer


def inputs(rows=50, features=20):
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(0)) * torch.arange(1, features + 1)


@pytest.mark.parametrize(("components", "features"), [(5, 16), (16, 16), (20, 32), (99, 32)])
def test_it_has_a_multiple_of_sixteen_features_the_rest_of_them_zero(components, features):
    projection = Projection(20, components)
    projection.fit(inputs())
    found = projection(inputs())
    assert found.shape == (50, features) == (50, projection.features)
    assert (found[:, min(components, 20) :] == 0).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_rows_have_one_length_whatever_the_scale_of_the_data(scale):
    projection = Projection(20, 8)
    projection.fit(inputs() * scale + 3 * scale)
    found = projection(inputs() * scale + 3 * scale)
    assert found.pow(2).sum(1).mean().sqrt() == pytest.approx(38, rel=0.05)
    torch.testing.assert_close(found.mean(0), torch.zeros(16), atol=1e-3, rtol=0)


def test_components_do_not_correlate():
    projection = Projection(20, 8)
    projection.fit(inputs())
    covariance = torch.cov(projection(inputs())[:, :8].T)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-2 * covariance.max()


def test_an_input_that_never_changes_counts_as_nothing():
    x = inputs()
    x[:, 3] = 7.0
    projection = Projection(20, 20)
    projection.fit(x)
    assert (projection.weights[3] == 0).all()
    other = x.clone()
    other[:, 3] = 1e6
    torch.testing.assert_close(projection(other), projection(x))


def test_it_survives_being_saved():
    projection, again = Projection(20, 8), Projection(20, 8)
    projection.fit(inputs())
    again.load_state_dict(projection.state_dict())
    assert (again(inputs()) == projection(inputs())).all()


def test_the_layer_on_it_sees_the_projection_in_float32_whatever_the_precision():
    projection = Projection(20, 8)
    projection.fit(inputs())
    net = ProjectedEncoder(projection, one_layer(projection.features, 7, dropout=0.5)).eval()
    images = inputs()
    plain = net.layer(projection(inputs()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(images)
    assert found.equal(plain)
    assert found.shape == (50, 7) == (50, net.features)
    assert (found >= 0).all()
    assert projection.weights.grad is None
    assert sum(p.numel() for p in net.parameters()) == 7 * 16 + 2 * 7  # the projection does not learn


def test_without_standardising_distances_are_those_of_the_inputs():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 3.0, 1.0, 0.3, 0.1, 0.02])
    projection = Projection(6, 6, standardise=False)
    projection.fit(x)
    distances, wanted = torch.pdist(projection(x)), torch.pdist(x)
    torch.testing.assert_close(distances / distances.mean(), wanted / wanted.mean())
