"""Checkpoints: whole or not there, the newest readable one, and a module filled in place."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from smidgen.errors import RunError
from smidgen.training.checkpoint import Checkpoints, capture, load_state, restore


def snapshot(number):
    return {"x": torch.full((4,), float(number))}, {"progress": {"number": number}, "optimisers": {}}


def number(found):
    return found[1]["progress"]["number"]


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints")


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_there_is_no_newest_of_none(checkpoints):
    assert checkpoints.newest() is None
    assert checkpoints.newest_regular() is None


def test_the_newest_two_are_kept(checkpoints):
    for step in (1, 2, 3, 20):
        checkpoints.save(snapshot(step), step=step)
    assert names(checkpoints) == ["000000003.safetensors", "000000020.safetensors"]
    assert number(checkpoints.newest()) == 20
    assert checkpoints.newest()[0]["x"].tolist() == [20.0] * 4


def test_a_stopped_one_is_newest_but_not_regular_and_goes_with_the_next(checkpoints):
    for step in (1, 2):
        checkpoints.save(snapshot(step), step=step)
    checkpoints.save(snapshot(3), step=3, regular=False)
    assert (number(checkpoints.newest()), number(checkpoints.newest_regular())) == (3, 2)
    checkpoints.save(snapshot(4), step=4, regular=False)
    assert names(checkpoints) == ["000000001.safetensors", "000000002.safetensors", "000000004-stopped.safetensors"]
    checkpoints.save(snapshot(5), step=5)
    assert names(checkpoints) == ["000000002.safetensors", "000000005.safetensors"]


def flipped(whole):
    """Return the bytes with one bit of the last number turned over."""
    return whole[:-3] + bytes([whole[-3] ^ 8]) + whole[-2:]


@pytest.mark.parametrize("damage", [b"", b"rubbish", lambda whole: whole[:-1], lambda whole: whole[:40], flipped])
def test_a_damaged_one_is_passed_over_and_it_is_said(damage, checkpoints):
    checkpoints = Checkpoints(checkpoints.folder, log=(said := []).append)
    for step in (1, 2):
        checkpoints.save(snapshot(step), step=step)
    path = checkpoints.folder / "000000002.safetensors"
    path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
    assert number(checkpoints.newest()) == number(checkpoints.newest_regular()) == 1
    assert len(said) == 1
    assert said[0].startswith(f"The checkpoint {str(path)!r} is damaged (")


def test_weights_that_are_no_checkpoint_are_passed_over(checkpoints):
    from safetensors.torch import save_file

    checkpoints.save(snapshot(1), step=1)
    save_file({"x": torch.zeros(2)}, checkpoints.folder / "000000009.safetensors")
    assert number(checkpoints.newest()) == 1


def test_what_a_killed_writer_left_is_swept_away(checkpoints):
    checkpoints.save(snapshot(1), step=1)
    (checkpoints.folder / ".000000002.safetensors.abc123").write_bytes(b"half")
    assert number(checkpoints.newest()) == 1
    checkpoints.save(snapshot(3), step=3)
    assert names(checkpoints) == ["000000001.safetensors", "000000003.safetensors"]


_FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from smidgen.errors import RunError
from smidgen.training.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
checkpoints.save(({"x": torch.ones(10)}, {"progress": {}, "optimisers": {}}), step=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(({"x": torch.ones(100_000)}, {"progress": {}, "optimisers": {}}), step=2)
except RunError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_one_before(checkpoints):
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, checkpoints.folder], capture_output=True, text=True, check=True
    )
    assert "cannot be written (File too large): make room" in done.stdout
    assert names(checkpoints) == ["000000001.safetensors"]
    assert checkpoints.newest()[0]["x"].tolist() == [1.0] * 10


def test_a_folder_that_cannot_be_written_is_said(checkpoints):
    checkpoints.folder.write_text("a file")
    with pytest.raises(RunError, match=r"The checkpoint .* cannot be written"):
        checkpoints.save(snapshot(1), step=1)


# ------------------------------------------------------------------------------------------------ capture and restore


def trained(optimiser_class, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimiser = optimiser_class(net.parameters(), **options)
    step(net, optimiser)
    return net, optimiser


def step(net, optimiser):
    optimiser.zero_grad()
    net(torch.arange(12.0).view(4, 3)).square().sum().backward()
    optimiser.step()


@pytest.mark.parametrize(
    ("optimiser_class", "options"),
    [
        (torch.optim.SGD, {"lr": 0.01}),
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.RMSprop, {"lr": 0.01, "centered": True}),
        (torch.optim.Adagrad, {"lr": 0.01}),
    ],
)
def test_training_goes_on_from_a_snapshot_as_if_nothing_had_been(optimiser_class, options):
    net, optimiser = trained(optimiser_class, **options)
    taken = capture(net, [optimiser], {"at": 1})
    for _ in range(3):
        step(net, optimiser)
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    other, other_optimiser = trained(optimiser_class, **options)
    for _ in range(2):
        step(other, other_optimiser)  # away from the snapshot
    assert restore(taken, other, [other_optimiser]) == {"at": 1}
    for _ in range(3):
        step(other, other_optimiser)
    assert all(value.equal(whole[name]) for name, value in other.state_dict().items())


def test_a_snapshot_is_a_copy():
    net, optimiser = trained(torch.optim.AdamW, lr=0.01)
    progress = {"at": [1]}
    taken = capture(net, [optimiser], progress)
    before = {name: value.clone() for name, value in taken[0].items()}
    step(net, optimiser)
    progress["at"].append(2)
    restore(taken, net, [optimiser])["at"].append(3)
    step(net, optimiser)
    assert all(value.equal(before[name]) for name, value in taken[0].items())
    assert taken[1]["progress"] == {"at": [1]}


def holder(buffer):
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(2))
    module.register_buffer("kept", buffer)
    return module


def test_parameters_are_filled_in_place_and_buffers_take_shape_and_type():
    module = holder(torch.zeros(0, dtype=torch.int32))
    weight = module.weight
    load_state(module, {"weight": torch.ones(2), "kept": torch.arange(3)})
    assert module.weight is weight
    assert weight.tolist() == [1.0, 1.0]
    assert module.kept.tolist() == [0, 1, 2]
    load_state(module, {"weight": torch.ones(2), "kept": torch.ones(3)})
    assert module.kept.dtype == torch.float32


def test_a_loaded_buffer_is_not_shared():
    module, value = holder(torch.zeros(0)), torch.ones(3)
    load_state(module, {"weight": torch.ones(2), "kept": value})
    module.kept.add_(1)
    assert value.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(2)},
        {"weight": torch.ones(2), "kept": torch.ones(1), "more": torch.ones(1)},
        {"weight": torch.ones(3), "kept": torch.ones(1)},
        {"weight": torch.ones(2, dtype=torch.float64), "kept": torch.ones(1)},
    ],
)
def test_another_model_s_weights_are_refused(tensors):
    with pytest.raises(RunError, match="of another model"):
        load_state(holder(torch.zeros(1)), tensors)


def test_what_only_training_needs_may_be_absent():
    module = holder(torch.zeros(1))
    load_state(module, {"weight": torch.ones(2)}, missing=("ke",))
    assert module.weight.tolist() == [1.0, 1.0]
