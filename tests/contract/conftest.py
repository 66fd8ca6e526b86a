"""Easy images, and a short training of any method on them."""

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch

from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.model import Model, Preprocessing
from smidgen.training.callbacks import Callback, MetricsLog
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

N_CLUSTERS, PER_CLASS = 4, 40


class Easy:
    """160 images of 8 × 8 pixels: four patterns of light and dark quarters under noise, every other one labelled."""

    _random = np.random.default_rng(0)
    classes = np.tile(np.arange(N_CLUSTERS), PER_CLASS)
    _quarters = np.array([[[1, 0], [0, 0]], [[0, 1], [1, 0]], [[1, 1], [0, 1]], [[0, 0], [1, 1]]])
    images = (
        (np.kron(_quarters[classes], np.ones((4, 4))) * 140 + 50 + 25 * _random.normal(size=(160, 8, 8)))
        .clip(0, 255)
        .astype(np.uint8)[:, None]
    )
    evidence = Resolved(
        160, labels=torch.from_numpy(np.where(np.arange(160) % 8 < 4, classes, -1)), class_names=("a", "b", "c", "d")
    )
    problem = Problem(160, (1, 8, 8), N_CLUSTERS, (0.5,), (0.25,), evidence)


class Kill(Callback):
    """Ends the process, as far as the trainer can tell, after a number of steps."""

    def __init__(self, after):
        self.after = after

    def after_step(self, moment):
        if moment.total_step == self.after:
            raise KeyboardInterrupt


def small_preset(name):
    """Return the option that takes a method's preset for small images, where it has one."""
    return {"preset": "small"} if "small" in getattr(type(make_config(name)), "PRESETS", {}) else {}


class Short:
    """Trainings of few steps, whatever the method: its `…steps` are cut to 60, its batches to 64 images.

    Methods whose paper's net is large take their preset for small images. Those that learn from bags, whose paper's net
    is slow, get 15 steps a stage of 4 bags of 4 images.
    """

    _memory: ClassVar = {}

    def config(self, name):
        default = dataclasses.asdict(make_config(name, small_preset(name)))
        steps = 15 if "bags" in default else 60
        cut = {field: steps for field in default if field.endswith("steps")}
        smaller = {"batch_size": 64, "bags": 4, "bag_size": 4}
        cut |= small_preset(name)
        return make_config(name, cut | {field: value for field, value in smaller.items() if field in default})

    def trainer(self, name, *, folder=None, seed=0, kill=None):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            method = make_method(name, self.config(name), Easy.problem)
        log = MetricsLog(None if folder is None else folder / "metrics.jsonl", every=1)
        return Trainer(
            method,
            Easy.images,
            Settings(seed=seed, checkpoint_every=25),
            callbacks=[log, Kill(kill)],
            checkpoints=None if folder is None else Checkpoints(folder / "checkpoints"),
        )

    def trained(self, name):
        """Return a method trained once per session with seed 0."""
        if name not in self._memory:
            trainer = self.trainer(name)
            trainer.train()
            self._memory[name] = trainer.method.eval()
        return self._memory[name]

    def model(self, name):
        method = self.trained(name)
        return Model(method, name, Preprocessing(8, 1), tuple(map(str, range(N_CLUSTERS))))


@pytest.fixture(scope="session")
def easy():
    return Easy


@pytest.fixture(scope="session")
def short():
    return Short()
