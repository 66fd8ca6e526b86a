"""The 2-D map: neighbours stay neighbours, any input gives finite places, the same input the same."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.metrics import silhouette_score

from smidgen.errors import InputError
from smidgen.reports.map import map_points


def test_map_keeps_groups_apart_and_is_repeatable() -> None:
    x, y = make_blobs(120, n_features=80, centers=4, random_state=0)
    places = map_points(x.astype(np.float32))
    assert silhouette_score(places, y) > 0.6
    assert np.array_equal(places, map_points(x.astype(np.float32)))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("features", [1, 2, 60])
def test_few_images_get_finite_places_in_the_unit_square(n: int, features: int) -> None:
    places = map_points(np.random.default_rng(n).normal(size=(n, features)).astype(np.float32))
    assert places.shape == (n, 2)
    assert ((places >= 0) & (places <= 1)).all()
    if n > 1:
        assert np.ptp(places, axis=0).max() == pytest.approx(1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [np.ones((20, 5)), np.full((20, 5), np.nan), np.eye(20) * 1e38])
def test_strange_embeddings_get_finite_places(values: np.ndarray) -> None:
    places = map_points(values.astype(np.float32))
    assert ((places >= 0) & (places <= 1)).all()


def test_unknown_layout_is_named() -> None:
    with pytest.raises(InputError, match="Did you mean 'tsne'"):
        map_points(np.eye(3), layout="tsnee")


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is installed")
def test_missing_umap_says_how_to_get_it() -> None:
    with pytest.raises(InputError, match=r"smidgen\[map\]"):
        map_points(np.random.default_rng(0).normal(size=(20, 4)), layout="umap")
