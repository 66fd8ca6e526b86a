"""K-means as a method: its clusters are those of `maths.kmeans`, for new images too."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.metrics import adjusted_rand_score

from smidgen.data.resolved import Resolved
from smidgen.errors import InputError
from smidgen.methods.base import Problem
from smidgen.methods.kmeans import KMeans, KMeansConfig
from smidgen.training.loop import make_embed

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.integers(40, 216, (3, 1, 6, 6))
IMAGES = (CENTRES[np.arange(60) % 3] + 20 * RANDOM.normal(size=(60, 1, 6, 6))).clip(0, 255).astype(np.uint8)
FLOATS = torch.from_numpy(IMAGES).float() / 255


def fitted(n_clusters=3, **options):
    torch.manual_seed(0)
    problem = Problem(60, (1, 6, 6), n_clusters, (0.5,), (0.25,), Resolved.nothing(60))
    method = KMeans(KMeansConfig(**options), problem).eval()
    method.finish(make_embed(method, IMAGES, device=torch.device("cpu")), torch.Generator().manual_seed(0))
    return method


@pytest.mark.parametrize("options", [{}, {"features": "pca", "components": 5}, {"spherical": True}])
def test_clusters_are_scikit_learn_s(options):
    labels = fitted(**options).assign(FLOATS).argmax(1)
    reference = Reference(3, n_init=10, random_state=0).fit_predict(FLOATS.flatten(1).numpy())
    assert adjusted_rand_score(labels, reference) == 1


def test_the_nearest_centroid_is_the_most_likely():
    method = fitted()
    distances = (FLOATS.flatten(1)[:, None] - method.centroids).square().sum(2)
    assert method.assign(FLOATS).argmax(1).equal(distances.argmin(1))
    spread = distances.amin(1).mean()
    torch.testing.assert_close(method.assign(FLOATS), (-distances / spread).softmax(1), atol=1e-5, rtol=1e-4)


def test_components_are_capped_by_images_and_pixels():
    assert fitted(features="pca", components=500).encode(FLOATS).shape == (60, 36)


def test_the_encoder_is_used_if_asked_for_and_only_then():
    assert fitted(features="encoder").encode(FLOATS).shape == (60, 128)
    with pytest.raises(InputError, match="--set features=encoder"):
        _ = fitted().backbone


def test_more_clusters_than_images_are_refused():
    with pytest.raises(InputError, match="61 clusters were wanted of 60 images"):
        fitted(61)
