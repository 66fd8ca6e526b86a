"""What a GPU must show, by `make gpu-check`; skipped where there is none.

Agreement with the CPU: in float32, without TF32, the losses of the first steps differ by less than `TOLERANCE`, which
leaves room for sums in another order. Fits that draw numbers on the device, as k-means does, are left out there.
"""

import contextlib
import time

import pytest
import torch

from device_cases import FITS, IMAGES, Kill, as_model, make, state
from smidgen.hardware import repeatable
from smidgen.training.callbacks import Callback
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]

TOLERANCE = 2e-3
"""Relative difference of losses between CUDA and the CPU, over the first three steps of each stage."""

DRAWN_ON_THE_DEVICE = (
    *(fit for fit, (method, *_) in FITS.items() if method in ("kmeans", "fusion-embeddings", "deepcluster")),
    *(fit for fit, (_, images, *_) in FITS.items() if images.ndim == 2),  # their views are dropped out
    "sela by views, one head at a time",
    "mutual-information against an adversary, with labels",
)
"""Fits whose starts, dropout or noise are drawn on the device, where other numbers come than on the CPU."""

CUDA = torch.device("cuda")


class Losses(Callback):
    """Keeps the losses of every step."""

    def __init__(self):
        self.steps = {}

    def after_step(self, moment):
        self.steps[moment.stage.name, moment.step] = dict(moment.losses)


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch):
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def train(fit, device, *, folder=None, kill=None, **settings):
    """Return the trained method of a fit, and its losses."""
    losses = Losses()
    checkpoints = None if folder is None else Checkpoints(folder)
    settings = Settings(device=torch.device(device), checkpoint_every=3, **settings)
    trainer = Trainer(make(fit), FITS[fit][1], settings, callbacks=[losses, Kill(kill)], checkpoints=checkpoints)
    trainer.train()
    return trainer.method.eval(), losses.steps


@pytest.mark.parametrize("fit", FITS)
def test_a_method_fits_saves_and_assigns(fit, tmp_path):
    method, _ = train(fit, CUDA)
    model = as_model(fit, method, CUDA)
    assignments = model.assign(FITS[fit][1])
    torch.testing.assert_close(torch.from_numpy(assignments).sum(1), torch.ones(len(assignments)))
    model.save(tmp_path)
    again = type(model).load(tmp_path, device="cpu").assign(FITS[fit][1])
    torch.testing.assert_close(torch.from_numpy(again), torch.from_numpy(assignments), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fit", [fit for fit in FITS if fit not in DRAWN_ON_THE_DEVICE])
def test_losses_agree_with_those_of_the_cpu(fit):
    found, wanted = train(fit, CUDA)[1], train(fit, "cpu")[1]
    for where in [where for where in wanted if where[1] <= 3]:
        assert found[where]["total"] == pytest.approx(wanted[where]["total"], rel=TOLERANCE, abs=TOLERANCE), where


@pytest.mark.parametrize("fit", FITS)
def test_the_same_seed_gives_the_same_bits_and_a_resumed_training_too(fit, tmp_path):
    with repeatable(CUDA):
        wanted = state(train(fit, CUDA)[0])
        again = state(train(fit, CUDA)[0])
        with contextlib.suppress(KeyboardInterrupt):
            train(fit, CUDA, folder=tmp_path, kill=4)
        resumed = state(train(fit, CUDA, folder=tmp_path)[0])
    assert [name for name in wanted if not again[name].equal(wanted[name])] == []
    assert [name for name in wanted if not resumed[name].equal(wanted[name])] == []


@pytest.mark.parametrize("fit", FITS)
def test_mixed_precision_gives_finite_losses_and_valid_assignments(fit):
    method, losses = train(fit, CUDA, bfloat16=True)
    totals = torch.tensor([step["total"] for step in losses.values()])
    assert bool(totals.isfinite().all())
    assert torch.isfinite(torch.from_numpy(as_model(fit, method, CUDA).assign(FITS[fit][1]))).all()


@pytest.mark.parametrize("fit", [fit for fit in FITS if FITS[fit][0] != "kmeans" and "inside bags" not in fit])
def test_a_step_does_not_wait_for_the_device(fit):
    trainer = Trainer(make(fit), FITS[fit][1], Settings(device=CUDA))
    method = trainer.method
    request, after_step = method.request, method.after_step

    def forbid(stage, step, *args, **kwargs):
        if step == 1:  # at first, buffers are copied to the host
            torch.cuda.set_sync_debug_mode("error")
        return request(stage, step, *args, **kwargs)

    def allow(stage, step):
        after_step(stage, step)
        torch.cuda.set_sync_debug_mode("default")

    method.request, method.after_step = forbid, allow
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("fit", ["fusion-images", "ucc fast"])
def test_images_in_pinned_memory_give_the_same_training_as_images_on_the_device(fit, monkeypatch):
    with repeatable(CUDA):
        wanted = state(train(fit, CUDA)[0])
        monkeypatch.setattr("smidgen.data.loader.fits", lambda size, device: False)
        found = state(train(fit, CUDA)[0])
    assert [name for name in wanted if not found[name].equal(wanted[name])] == []


def test_throughput(capsys):
    """Print steps per second of every method at its default sizes, on small images."""
    rows = []
    for fit in ("supervised", "fusion-images", "fusion-images with counts", "ucc fast", "rcc fast"):
        for device, bfloat16 in (("cpu", False), (CUDA, False), (CUDA, True)):
            larger = {"batch_size": 256} if FITS[fit][0] in ("supervised", "fusion-images") else {"bags": 60}
            trainer = Trainer(
                make(fit, steps=60, **larger), FITS[fit][1], Settings(device=torch.device(device), bfloat16=bfloat16)
            )
            began = time.perf_counter()
            trainer.train()
            speed = trainer.steps / (time.perf_counter() - began)
            rows.append((fit, str(device), "bfloat16" if bfloat16 else "float32", speed))
    with capsys.disabled():
        print(f"\n{len(IMAGES)} images of {IMAGES.shape[1:]}, the first steps included\n")
        print(f"{'fit':20} {'device':6} {'precision':9} {'steps/s':>8}")
        for fit, device, precision, speed in rows:
            print(f"{fit:20} {device:6} {precision:9} {speed:8.1f}")
