"""Every method on a pretend accelerator: nothing mixes devices, and what was trained there can be kept."""

import contextlib

import numpy as np
import pytest
import torch

from device_cases import FITS, IMAGES, WITHOUT_STEPS, Kill, as_model, make, state
from pretend_device import DEVICE, pretend_device
from smidgen.model import Model
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer


def train(fit, device, *, folder=None, kill=None):
    """Return the method of a fit, trained."""
    checkpoints = None if folder is None else Checkpoints(folder)
    settings = Settings(device=torch.device(device), checkpoint_every=5)
    trainer = Trainer(make(fit), FITS[fit][1], settings, callbacks=[Kill(kill)], checkpoints=checkpoints)
    trainer.train()
    return trainer.method.eval()


@pytest.mark.parametrize("fit", FITS)
def test_a_method_fits_resumes_saves_and_loads_on_a_device_as_on_the_cpu(fit, tmp_path):
    images, wanted = FITS[fit][1], state(train(fit, "cpu"))
    with pretend_device():
        with contextlib.suppress(KeyboardInterrupt):
            train(fit, DEVICE, folder=tmp_path / "checkpoints", kill=4)
        method = train(fit, DEVICE, folder=tmp_path / "checkpoints")
        assert {value.device for value in method.state_dict().values()} == {DEVICE}
        found, model = state(method), as_model(fit, method, DEVICE)
        assignments, embeddings = model.assign_and_encode(images)
        model.save(tmp_path / "model")
        again = Model.load(tmp_path / "model", device=DEVICE)
        assert (again.assign(images) == assignments).all()
        assert (again.encode(images) == embeddings).all()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}")
    assert (Model.load(tmp_path / "model").assign(images) == assignments).all()


WAITS = {"rcc with labels inside bags": 2}
"""Waits per step that cannot be saved: the Hungarian method runs on the host."""


@pytest.mark.parametrize("fit", [fit for fit, (method, *_) in FITS.items() if method not in WITHOUT_STEPS])
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
