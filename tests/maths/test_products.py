import pytest
import torch

from smidgen.maths.products import column_of_smallest, product_with


def draw(n: int, features: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_products_are_as_exact_as_float32_is(n: int, dtype: torch.dtype) -> None:
    x, weights = draw(n, 129, dtype=dtype), draw(70, 129, seed=1, dtype=dtype)
    found = product_with(weights)(x)
    assert found.shape == (n, 70)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), x.double() @ weights.double().T, atol=5e-5, rtol=0)


def test_views_strides_and_gradients_are_no_matter() -> None:
    x, weights = draw(12, 10)[::2, 1:6], draw(5, 9, seed=1).T[:, :].requires_grad_()
    found = product_with(weights)(x)
    assert not found.requires_grad
    torch.testing.assert_close(found, x @ weights.detach().T)


def test_the_first_of_equal_columns_is_the_smallest() -> None:
    x = torch.tensor([[2.0, 1.0, 1.0], [0.0, 0.0, 0.0], [torch.inf, torch.inf, -torch.inf]])
    assert column_of_smallest(x).tolist() == [1, 0, 2]
