"""The 2-D map: places images on a plane so that images with similar embeddings are neighbours."""

from __future__ import annotations

import importlib

import numpy as np

from smidgen.errors import InputError, unknown

LAYOUTS = ("tsne", "umap", "pca")


def map_points(embeddings: np.ndarray, *, layout: str = "tsne", seed: int = 0) -> np.ndarray:
    """Return a place for each image, (n, 2) float32 in [0, 1], the longer side of the cloud filling the range.

    The embeddings are reduced to 50 principal components first, then laid out by t-SNE (van der Maaten & Hinton,
    2008); fewer than ten images, or images that are all the same, are placed by their principal components alone.

    embeddings: (n, features), finite or not; at most a few thousand rows, 2,000 take about five seconds.
    layout: "tsne", "umap" (needs `pip install smidgen[map]`) or "pca".
    Raises InputError for an unknown layout, or if umap-learn is wanted and missing.

    >>> map_points(np.eye(4, dtype=np.float32)).shape
    (4, 2)
    """
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    reduced = _principal_components(embeddings, components=50, seed=seed)
    n, features = reduced.shape
    if layout == "pca" or n < 10 or features < 2 or not np.ptp(reduced, axis=0).all():
        return _fitted(reduced)
    return _fitted(_umap(reduced, seed) if layout == "umap" else _tsne(reduced, seed))


def _principal_components(embeddings: np.ndarray, *, components: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA  # 1 s to import: only where a map is drawn

    flat = np.nan_to_num(np.asarray(embeddings, dtype=np.float64), posinf=0, neginf=0)
    flat = flat / max(np.abs(flat).max(initial=0), 1e-30)  # huge values would overflow in squares
    components = min(components, *flat.shape)
    if len(flat) < 2 or not np.ptp(flat, axis=0).any():
        return np.zeros((len(flat), max(components, 1)))
    reduced = PCA(components, random_state=seed).fit_transform(flat)
    used = reduced.std(axis=0) > 1e-9 * reduced.std()  # n images span n - 1 directions: the rest is rounding
    return reduced[:, used] / reduced[:, 0].std()


def _tsne(reduced: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    perplexity = min(30.0, (len(reduced) - 1) / 3)
    # 500 steps: beyond, a few thousand points hardly move. One thread: a second one saves a second on an idle machine,
    # costs ten on a busy one.
    with threadpool_limits(1):
        return TSNE(init="pca", perplexity=perplexity, max_iter=500, random_state=seed).fit_transform(reduced)


def _umap(reduced: np.ndarray, seed: int) -> np.ndarray:
    try:
        umap = importlib.import_module("umap")
    except ImportError:
        raise InputError("layout 'umap' needs umap-learn: `pip install smidgen[map]`, or use 'tsne'.") from None
    return umap.UMAP(n_neighbors=min(15, len(reduced) - 1), random_state=seed, n_jobs=1).fit_transform(reduced)


def _fitted(places: np.ndarray) -> np.ndarray:
    """Return the first two columns moved and scaled, in proportion, into the unit square, centred."""
    plane = np.zeros((len(places), 2))
    plane[:, : min(2, places.shape[1])] = places[:, :2]
    if not len(plane):
        return plane.astype(np.float32)
    low, high = plane.min(axis=0), plane.max(axis=0)
    span = (high - low).max()
    centred = (plane - (low + high) / 2) / (span if span > 0 else 1)
    return (centred + 0.5).astype(np.float32)
