"""What the tests of DeepCluster, SeLa and SwAV share: easy images and vectors, and methods made and trained on them."""

import numpy as np
import torch

from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.training.callbacks import Callback
from smidgen.training.embed import make_embed
from smidgen.training.loop import Settings, Trainer

N_CLASSES, N_IMAGES = 4, 120
CLASSES = np.arange(N_IMAGES) % N_CLASSES
_random = np.random.default_rng(0)
_PATTERNS = _random.integers(30, 200, (N_CLASSES, 1, 8, 8))
IMAGES = (_PATTERNS[CLASSES] + _random.integers(0, 40, (N_IMAGES, 1, 8, 8))).astype(np.uint8)
VECTORS = _random.normal(size=(N_IMAGES, 24)).astype(np.float32)
VECTORS[:, :N_CLASSES] += 6 * np.eye(N_CLASSES, dtype=np.float32)[CLASSES]
PHOTOGRAPHS = np.repeat(IMAGES, 3, 1)


def make(name, images=IMAGES, *, n_clusters=N_CLASSES, **options):
    """Return a new method for images, of its preset for small ones, unless `preset` names another."""
    channels = images.shape[1]
    problem = Problem(
        len(images), images.shape[1:], n_clusters, (0.5,) * channels, (0.25,) * channels, Resolved.nothing(len(images))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method(name, make_config(name, {"preset": "small"} | options), problem)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def embed_of(method, images=IMAGES):
    return make_embed(method, images, device=torch.device("cpu"))


def begun(name, images=IMAGES, **options):
    """Return a method whose first relabelling is done."""
    method = make(name, images, **options)
    method.begin("train", 0, embed_of(method, images), seeded())
    return method


class Look(Callback):
    def __init__(self, look):
        self.after_step = look


def train(method, images=IMAGES, *, look=lambda moment: None):
    """Return a method trained with seed 0; `look` is called after every step."""
    Trainer(method, images, Settings(), callbacks=[Look(look)]).train()
    return method.eval()


def floats(images):
    return torch.from_numpy(images).float() / (255 if images.dtype == np.uint8 else 1)
