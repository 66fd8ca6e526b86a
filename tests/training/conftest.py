"""A method that uses everything the contract offers, small enough to be trained hundreds of times."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from smidgen.data.batches import Request
from smidgen.data.views import View
from smidgen.evidence.resolved import Resolved
from smidgen.methods.base import Method, Problem, Stage
from smidgen.nets.average import Average
from smidgen.training.callbacks import MetricsLog
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

N_IMAGES = 40


class Killed(BaseException):
    """The process is gone, as far as the code under test can tell."""


class Toy(Method):
    """Dropout, batch norm, a teacher, a queue, neighbours of changing shape, two stages, two kinds of optimiser.

    hook: called with (place, stage, step, method) wherever the loop calls the method; may raise, or break something.
    """

    name = "toy"

    def __init__(self, hook=lambda *where: None):
        super().__init__()
        self.hook = hook
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(
                nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
            )
        self.teacher = Average(self.net, decay=0.9)
        self.register_buffer("queue", torch.zeros(0, 3))
        self.register_buffer("targets", torch.zeros(N_IMAGES, dtype=torch.int32))
        self.register_buffer("ending", torch.zeros(2))

    def stages(self):
        return [Stage("one", 8, begins=(0, 3)), Stage("two", 5, begins=(2,), schedule="cosine")]

    def begin(self, stage, step, embed, generator):
        self.hook("begin", stage, step, self)
        noise = torch.randn(N_IMAGES, 3, generator=generator) + torch.rand(3)  # the global generator counts too
        # Another type than it was registered with, and twice would be wrong.
        self.targets = (self.targets + (embed() + noise).argmax(1)) % 3

    def request(self, stage, step, generator, *, progress):
        self.progress = progress
        self.hook("request", stage, step, self)
        rows = torch.randint(N_IMAGES, (6,), generator=generator)
        return {"weak": Request(rows, View(rotate=20)), "strong": Request(rows, View(rotate=60, brightness=0.5))}

    def loss(self, parts, *, stage, step, progress):
        assert progress == self.progress
        self.hook("loss", stage, step, self)
        targets = self.targets[parts["weak"].indices].long()
        logits = self.net(parts["strong"].images)
        agree = (logits.softmax(1) - self.teacher(parts["weak"].images).softmax(1)).square().mean()
        total = nn.functional.cross_entropy(logits, targets) + agree
        self.queue = torch.cat([self.queue, logits.detach()])[-20:]
        return {"total": total * getattr(self, "factor", 1.0), "agree": agree}

    def optimisers(self, stage):
        if stage == "one":
            body = torch.optim.SGD(self.net[1].parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
            return [body, torch.optim.SGD(self.net[5].parameters(), lr=0.1)]
        return [torch.optim.AdamW(self.net.parameters(), lr=0.01)]

    def before_step(self, stage, step):
        self.hook("before_step", stage, step, self)

    def after_step(self, stage, step):
        self.teacher.update(self.net)
        self.hook("after_step", stage, step, self)

    def finish(self, embed, generator):
        self.ending = torch.cat([torch.rand(1, generator=generator), torch.rand(1)])
        self.hook("finish", "", 0, self)

    def encode(self, images):
        return self.net(images)

    def assign(self, images):
        return self.teacher(images).softmax(1)


@pytest.fixture
def toy():
    """Return the class `Toy`."""
    return Toy


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (N_IMAGES, 1, 4, 4), dtype=np.uint8)


@pytest.fixture
def problem():
    return Problem(N_IMAGES, (1, 4, 4), 3, (0.5,), (0.3,), Resolved.nothing(N_IMAGES))


@pytest.fixture
def make_trainer(images):
    """Return a trainer of a new `Toy` in a folder, which goes on with what the folder holds."""

    def make(
        folder=None,
        *,
        hook=lambda *where: None,
        seed=0,
        every=4,
        callbacks=(),
        method=None,
        max_seconds=None,
        read_every=None,
        **more,
    ):
        log = MetricsLog(None if folder is None else folder / "metrics.jsonl", every=3)
        return Trainer(
            Toy(hook) if method is None else method,
            images,
            Settings(seed=seed, checkpoint_every=every, max_seconds=max_seconds, read_every=read_every),
            callbacks=[*callbacks, log],
            checkpoints=None if folder is None else Checkpoints(folder / "checkpoints"),
            **more,
        )

    return make


@pytest.fixture
def diverge_at():
    """Return a hook that makes the loss NaN whenever training comes to a step, the first `times` times."""

    def make(stage, step, *, times):
        left = [times]

        def hook(place, at_stage, at_step, method):
            if place != "request":
                return
            here = (at_stage, at_step) == (stage, step) and left[0] > 0
            left[0] -= here
            method.factor = float("nan") if here else 1.0

        return hook

    return make


@pytest.fixture
def kill_at():
    """Return a hook that ends the process, as far as the trainer can tell, where training first comes to a place."""

    def make(*where):
        def hook(place, stage, step, method):
            if (place, stage, step) == where:
                raise Killed("killed")

        return hook

    return make


@pytest.fixture
def outcome():
    """Return all that a finished training left: state, newest checkpoint and log, without the seconds."""

    def read(trainer, folder):
        tensors, rest = trainer.checkpoints.newest()
        rest["progress"]["position"].pop("seconds")
        rest["progress"]["callbacks"][-1].pop("bytes")  # the seconds in the log may be longer or shorter
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        state = {**{name: value.clone() for name, value in trainer.method.state_dict().items()}, **tensors}
        return state, rest, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    return read


@pytest.fixture
def same():
    """Return a function that asserts that two outcomes are equal bit for bit."""

    def check(one, other):
        assert one[0].keys() == other[0].keys()
        different = [n for n in one[0] if one[0][n].dtype != other[0][n].dtype or not one[0][n].equal(other[0][n])]
        assert not different
        assert one[1:] == other[1:]

    return check
