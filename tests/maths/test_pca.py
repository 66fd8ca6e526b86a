import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA as SklearnPCA

from smidgen.errors import InputError
from smidgen.maths.pca import fit_pca


def points(n: int, features: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rows", [1797, 50])  # by covariance, by Gram matrix
@pytest.mark.parametrize("whiten", [False, True])
def test_projections_are_scikit_learns_signs_included(rows: int, whiten: bool) -> None:
    x = load_digits().data[:rows]
    theirs = SklearnPCA(10, whiten=whiten, svd_solver="full").fit(x)
    ours = fit_pca(torch.from_numpy(x), 10, whiten=whiten)
    np.testing.assert_allclose(ours.transform(torch.from_numpy(x)), theirs.transform(x), atol=1e-4)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.variances / ours.total_variance, theirs.explained_variance_ratio_, rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 12), features=st.integers(1, 12), seed=st.integers(0, 99))
def test_all_components_are_orthonormal_and_keep_every_distance(n: int, features: int, seed: int) -> None:
    x = points(n, features, seed)
    pca = fit_pca(x, min(n, features))
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(min(n, features), dtype=torch.float64))
    np.testing.assert_allclose(torch.pdist(pca.transform(x).double()), torch.pdist(x), atol=1e-5)
    assert float(pca.variances.sum()) == pytest.approx(pca.total_variance)


def test_hand_computed() -> None:
    pca = fit_pca(torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), 1, whiten=True)
    torch.testing.assert_close(pca.components, torch.tensor([[0.6, 0.8]], dtype=torch.float64))
    assert float(pca.variances) == pytest.approx(25)
    torch.testing.assert_close(pca.transform(torch.tensor([[9.0, 12.0]])), torch.tensor([[2.0]]))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_whitening_gives_unit_variance_and_silences_empty_directions(shape: tuple[int, int]) -> None:
    x = points(shape[0], 3) @ points(3, shape[1], seed=1)  # rank 3
    projected = fit_pca(x, 6, whiten=True).transform(x)
    torch.testing.assert_close(projected[:, :3].T.cov(), torch.eye(3), atol=1e-4, rtol=0)
    assert (projected[:, 3:] == 0).all()


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_equal_rows_project_to_zero(shape: tuple[int, int], whiten: bool) -> None:
    x = torch.full(shape, 0.1)
    pca = fit_pca(x, 3, whiten=whiten, l2=True)
    assert pca.components.isfinite().all()
    assert pca.transform(x).abs().max() < 1e-6


def test_l2_brings_rows_to_length_one() -> None:
    x = points(20, 5)
    torch.testing.assert_close(fit_pca(x, 3, l2=True).transform(x).norm(dim=1), torch.ones(20))


def test_small_differences_beside_a_large_mean_survive_float32() -> None:
    x = (points(200, 3) * torch.tensor([3.0, 2.0, 1.0]) + 1000).float()
    wide = fit_pca(x.double() - 1000, 3)
    torch.testing.assert_close(fit_pca(x, 3).components, wide.components, atol=1e-6, rtol=0)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    for x, n_components, words in (
        (points(0, 3), 1, "at least 2 rows"),
        (points(1, 3), 1, "at least 2 rows"),
        (points(3, 5), 4, "from 1 to 3"),
        (points(5, 3), 0, "from 1 to 3"),
        (points(5, 3) / 0, 1, "finite"),
    ):
        with pytest.raises(InputError, match=words):
            fit_pca(x, n_components)
    with pytest.raises(InputError, match="3 features"):
        fit_pca(points(5, 3), 1).transform(points(5, 4))


@pytest.mark.parametrize("shape", [(40, 6), (5, 12)])
def test_blocks_give_what_the_whole_matrix_gives(shape):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    whole = fit_pca(x, 3, whiten=True)
    blocks = fit_pca(lambda: (block for block in x.split(7)), 3, whiten=True)
    torch.testing.assert_close(blocks.transform(x), whole.transform(x))
    with pytest.raises(InputError, match="x"):
        fit_pca(lambda: [torch.full((4, 2), torch.nan)], 1)
