"""Every method on a pretend accelerator: nothing mixes devices, and what was trained there can be kept."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pretend_device import DEVICE, pretend_device
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.model import Model, Preprocessing
from smidgen.training.callbacks import Callback
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

N_IMAGES, N_CLUSTERS = 48, 3
CLASSES = torch.arange(N_IMAGES) % N_CLUSTERS
PATTERNS = np.random.default_rng(0).integers(0, 200, (N_CLUSTERS, 1, 8, 8))
NOISE = np.random.default_rng(1).integers(0, 50, (N_IMAGES, 1, 8, 8))
IMAGES = (PATTERNS[CLASSES] + NOISE).astype(np.uint8)
VECTORS = np.random.default_rng(2).normal(size=(N_IMAGES, 20, 1, 1)).astype(np.float32)
VECTORS[:, :N_CLUSTERS, 0, 0] += 3 * np.eye(N_CLUSTERS, dtype=np.float32)[CLASSES]


def bags(members, *, known):
    """Return evidence of bags of four images each, all that is known of them: "counts", "proportions", "presence"."""
    members, names = torch.tensor(members), tuple("abc")
    numbers = torch.arange(len(members))
    held = F.one_hot(CLASSES[members], N_CLUSTERS).sum(1)
    facts = {
        "counts": {"count_bags": numbers, "counts_min": (held > 0).sum(1), "counts_max": (held > 0).sum(1)},
        "proportions": {"proportion_bags": numbers, "proportions": held / held.sum(1, keepdim=True)},
        "presence": {"presence_bags": numbers, "presence": (held > 0).long()},
    }
    return {
        "class_names": names,
        "bag_names": tuple(map(str, numbers.tolist())),
        "members": members.flatten(),
        "offsets": torch.arange(len(members) + 1) * members.shape[1],
    } | {name: value for kind in known for name, value in facts[kind].items()}


MIXED = [[0, 3, 6, 9], [1, 4, 0, 3], [0, 1, 2, 5], [2, 5, 8, 11], [6, 7, 8, 9], [1, 2, 4, 5]]
PURE = [[k + 3 * i + 12 * j for i in range(4)] for k in range(N_CLUSTERS) for j in range(4)]
SOME_LABELS = {"labels": torch.where(torch.arange(N_IMAGES) < 24, CLASSES, -1), "class_names": tuple("abc")}
PAIRS = {"pairs": torch.tensor([[0, 3], [1, 2], [4, 7]]), "same": torch.tensor([True, False, True])}

EVIDENCE = {
    "none": {},
    "labels": SOME_LABELS,
    "counts": bags(MIXED, known=["counts"]),
    "impure": bags(MIXED[1:3] + MIXED[4:], known=["counts"]),
    "proportions": bags(MIXED, known=["proportions"]),
    "all": SOME_LABELS | PAIRS | bags(MIXED, known=["counts", "proportions", "presence"]),
    "pure": bags(PURE, known=["counts"]),
}

SMALL = {"batch_size": 16, "refine_batch_size": 16, "bags": 4, "bag_size": "4", "components": 8, "heads": 3}

FITS = {
    "kmeans": ("kmeans", IMAGES, "none", {"n_init": 2}),
    "kmeans on pca": ("kmeans", IMAGES, "none", {"n_init": 2, "features": "pca"}),
    "kmeans on a net": ("kmeans", IMAGES, "none", {"n_init": 2, "features": "encoder"}),
    "kmeans of directions": ("kmeans", VECTORS, "none", {"n_init": 2, "spherical": True}),
    "supervised": ("supervised", IMAGES, "labels", {}),
    "fusion": ("fusion", IMAGES, "none", {}),
    "fusion with labels": ("fusion", IMAGES, "labels", {}),
    "fusion with counts": ("fusion", IMAGES, "counts", {}),
    "fusion with all evidence": ("fusion", IMAGES, "all", {}),
    "fusion without refinement": ("fusion", IMAGES, "none", {"refine_steps": 0}),
    "fusion-embeddings": ("fusion-embeddings", VECTORS, "none", {}),
    "fusion-embeddings with counts": ("fusion-embeddings", VECTORS, "counts", {}),
    "fusion-embeddings with all evidence": ("fusion-embeddings", VECTORS, "all", {}),
    "fusion-embeddings with pure bags": ("fusion-embeddings", VECTORS, "pure", {}),
    "ucc of fresh bags": ("ucc", IMAGES, "labels", {"encoder": "conv"}),
    "ucc with the paper's net": ("ucc", IMAGES, "labels", {"encoder": "wide-residual"}),
    "ucc of evidence": ("ucc", IMAGES, "counts", {"encoder": "conv", "alpha": 1.0}),
    "ucc with attention": ("ucc", IMAGES, "labels", {"encoder": "conv", "attention": True}),
    "ucc with ssim and warm-up": (
        "ucc",
        IMAGES,
        "labels",
        {"encoder": "conv", "reconstruction": "ssim", "warmup_steps": 3},
    ),
    "ucc on vectors": ("ucc", VECTORS, "labels", {"encoder": "vectors", "alpha": 1.0, "start_bandwidth": 0.3}),
    "ucc with skips": ("ucc", IMAGES, "labels", {"encoder": "unet"}),
    "ucc fast": ("ucc", IMAGES, "labels", {"preset": "fast", "bag_size": "4-6", "bags": 6}),
    "rcc": ("rcc", IMAGES, "labels", {"encoder": "conv", "tie_weight": 0.1}),
    "rcc of evidence": ("rcc", IMAGES, "all", {"encoder": "conv"}),
    "rcc fast": ("rcc", IMAGES, "proportions", {"preset": "fast"}),
    "rcc with labels inside bags": ("rcc", IMAGES, "labels", {"preset": "fast", "assign_in_bags": 0.0}),
}


class Kill(Callback):
    """Ends the process, as far as the trainer can tell, after a number of steps."""

    def __init__(self, after):
        self.after = after

    def after_step(self, moment):
        if moment.total_step == self.after:
            raise KeyboardInterrupt


def make(fit):
    """Return a method of a fit in `FITS`, untrained."""
    name, images, evidence, options = FITS[fit]
    default = dataclasses.asdict(make_config(name))
    small = {key: value for key, value in SMALL.items() if key in default}
    small |= {key: 6 for key in default if key.endswith("steps") and key != "warmup_steps"}
    known = {"labels": torch.full((N_IMAGES,), -1)} | EVIDENCE[evidence]
    mean, std = (0.5,) * images.shape[1], (0.25,) * images.shape[1]
    problem = Problem(N_IMAGES, images.shape[1:], N_CLUSTERS, mean, std, Resolved(N_IMAGES, **known))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method(name, make_config(name, small | options), problem)


def train(fit, device, *, folder=None, kill=None):
    """Return the method of a fit, trained."""
    checkpoints = None if folder is None else Checkpoints(folder)
    settings = Settings(device=torch.device(device), checkpoint_every=5)
    trainer = Trainer(make(fit), FITS[fit][1], settings, callbacks=[Kill(kill)], checkpoints=checkpoints)
    trainer.train()
    return trainer.method.eval()


def as_model(fit, method, device):
    images = FITS[fit][1]
    return Model(
        method, FITS[fit][0], Preprocessing(images.shape[-1], images.shape[1]), tuple("abc"), torch.device(device)
    )


def state(method):
    return {name: value.cpu() for name, value in method.state_dict().items()}


@pytest.mark.parametrize("fit", FITS)
def test_a_method_fits_resumes_saves_and_loads_on_a_device_as_on_the_cpu(fit, tmp_path):
    images, wanted = FITS[fit][1], state(train(fit, "cpu"))
    with pretend_device():
        with contextlib.suppress(KeyboardInterrupt):
            train(fit, DEVICE, folder=tmp_path / "checkpoints", kill=4)
        method = train(fit, DEVICE, folder=tmp_path / "checkpoints")
        assert {value.device for value in method.state_dict().values()} == {DEVICE}
        found, model = state(method), as_model(fit, method, DEVICE)
        assignments, embeddings = model.look(images)
        model.save(tmp_path / "model")
        again = Model.load(tmp_path / "model", device=DEVICE)
        assert (again.assign(images) == assignments).all()
        assert (again.encode(images) == embeddings).all()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert (Model.load(tmp_path / "model").assign(images) == assignments).all()


WAITS = {"rcc with labels inside bags": 2}
"""Waits per step that cannot be saved: the Hungarian method runs on the host."""


@pytest.mark.parametrize("fit", [fit for fit, (method, *_) in FITS.items() if method != "kmeans"])
def test_a_step_does_not_wait_for_the_device(fit):
    with pretend_device() as count:
        trainer = Trainer(make(fit), FITS[fit][1], Settings(device=DEVICE))
        method, began, waits = trainer.method, {}, {}
        request, after_step = method.request, method.after_step

        def note_begin(stage, step, *args, **kwargs):
            began[stage] = count.total_waits
            return request(stage, step, *args, **kwargs)

        def note_end(stage, step):
            after_step(stage, step)
            waits[stage, step] = count.total_waits - began[stage]

        method.request, method.after_step = note_begin, note_end
        trainer.train()
    steady = {where: n for where, n in waits.items() if where[1] == 1}  # at first, buffers are copied to the host
    assert steady
    assert steady == dict.fromkeys(steady, WAITS.get(fit, 0))


def test_losses_are_read_once_per_interval():
    waits = {}
    for every in (1, 3, 6):
        with pretend_device() as count:
            settings = Settings(device=DEVICE, read_every=every, checkpoint_every=100)
            trainer = Trainer(make("supervised"), IMAGES, settings)
            count.clear()
            trainer.train()
        waits[every] = count.total_waits
    assert (waits[1] - waits[6], waits[3] - waits[6]) == (5, 1)  # six steps


# ------------------------------------------------------------------------------------------- the pretend device itself


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ours, theirs: ours + theirs,
        lambda ours, theirs: theirs[ours.long()],
        lambda ours, theirs: ours.numpy(),
        lambda ours, theirs: np.asarray(ours),
        lambda ours, theirs: ours.normal_(generator=torch.Generator()),
        lambda ours, theirs: torch.rand(3, generator=torch.Generator(DEVICE)),
        lambda ours, theirs: torch.stack([ours, theirs]),
        lambda ours, theirs: theirs.to(DEVICE, non_blocking=True),
        lambda ours, theirs: ours.index_put_((theirs.long(),), theirs),
    ],
)
def test_the_pretend_device_refuses_what_an_accelerator_refuses(wrong):
    with pretend_device(), pytest.raises((RuntimeError, TypeError)):
        wrong(torch.ones(3, device=DEVICE), torch.ones(3))


def test_the_pretend_device_computes_as_the_cpu_does():
    with pretend_device() as count:
        ours = torch.tensor([3.0, 1.0, 2.0], device=DEVICE)
        assert (ours.device, count.operators) == (DEVICE, 1)
        assert ours[torch.tensor([0, 2])].sort().values.tolist() == [2, 3]
        noise = torch.rand(3, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(5)).cpu()
        assert noise.equal(torch.rand(3, generator=torch.Generator().manual_seed(5)))
        version = ours._version
        ours.add_(1)
        assert ours._version > version


@pytest.mark.parametrize(
    ("act", "waits"),
    [
        (lambda x: x + 1, 0),
        (lambda x: x[torch.tensor([1])], 1),
        (lambda x: x[torch.tensor([1], device=DEVICE)], 1),
        (lambda x: torch.ones(3).to(x), 1),
        (lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True), 0),
        (lambda x: x[:, None].expand(3, 3).sum(1), 0),
        (lambda x: float(x.sum()), 1),
        (lambda x: bool((x > 0).any()), 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: torch.repeat_interleave(x, x.long()), 1),
        (lambda x: torch.repeat_interleave(x, x.long(), output_size=3), 0),
        (lambda x: torch.equal(x, x), 1),
    ],
)
def test_the_pretend_device_counts_the_waits_of_the_host(act, waits):
    with pretend_device() as count:
        x = torch.ones(3, device=DEVICE)
        count.clear()
        act(x)
        assert count.total_waits == waits
