"""A damaged or forged checkpoint never changes a result: the one before it is taken, and it is said."""

import json

import pytest
import torch
from safetensors.torch import save_file

from smidgen.errors import RunError
from smidgen.tensor_files import read_tensors
from smidgen.training.checkpoint import Checkpoints


def newest(folder):
    return sorted((folder / "checkpoints").glob("*.safetensors"))[-1]


def rewrite(path, change, **metadata):
    """Change what a checkpoint says of the training, in a file without a checksum: a forged one."""
    tensors, text = read_tensors(path)
    state = json.loads(text)
    change(state)
    save_file(tensors, path, metadata={"state": json.dumps(state), **metadata})


def in_position(**values):
    return lambda state: state["progress"]["position"].update(values)


FORGED = [
    in_position(stage=7),
    in_position(stage=-1),
    in_position(stage="one"),
    in_position(stage=None),
    in_position(step=9),
    in_position(step=1.5),
    in_position(done=10**6),
    in_position(seconds=-1),
    in_position(begun=3),
    lambda state: state["progress"].update(position=[]),
    lambda state: state["progress"].update(callbacks=[]),
    lambda state: state["progress"].update(callbacks=3),
    lambda state: state["progress"].pop("position"),
    lambda state: state.pop("progress"),
    lambda state: state.update(optimisers=[]),
    lambda state: state.update(more=1),
]


@pytest.mark.parametrize("change", FORGED)
def test_a_checkpoint_of_the_wrong_form_is_passed_over(change, make_trainer, tmp_path):
    make_trainer(tmp_path).train()
    rewrite(newest(tmp_path), change)
    trainer = make_trainer(tmp_path)
    trainer.checkpoints = Checkpoints(tmp_path / "checkpoints", log=(said := []).append)
    trainer.train()
    assert trainer.steps == 13
    assert len(said) == 1
    assert "it is skipped" in said[0]


def test_the_wrong_checksum_alone_passes_a_checkpoint_over(make_trainer, tmp_path):
    make_trainer(tmp_path).train()
    rewrite(newest(tmp_path), lambda state: None, checksum="0" * 32)
    trainer = make_trainer(tmp_path)
    trainer.checkpoints = Checkpoints(tmp_path / "checkpoints", log=(said := []).append)
    assert trainer.train() > 0
    assert len(said) == 1


def test_a_flipped_bit_in_the_newest_checkpoint_changes_no_result(make_trainer, tmp_path):
    (tmp_path / "other").mkdir()
    whole = make_trainer()
    whole.train()
    make_trainer(tmp_path / "other").train()
    path = newest(tmp_path / "other")
    content = bytearray(path.read_bytes())
    content[-5] ^= 64
    path.write_bytes(content)
    resumed = make_trainer(tmp_path / "other")
    resumed.train()
    other = resumed.method.state_dict()
    assert all(value.equal(other[name]) for name, value in whole.method.state_dict().items())


@pytest.mark.parametrize("slot", ["optimiser.0.99.exp_avg", "optimiser.0.x.exp_avg", "optimiser.0.0.exp_avg"])
def test_the_state_of_another_optimiser_is_refused(slot, make_trainer, tmp_path):
    make_trainer(tmp_path).train()
    for path in (tmp_path / "checkpoints").glob("*.safetensors"):
        tensors, text = read_tensors(path)
        save_file(tensors | {slot: torch.zeros(3, 3, 3)}, path, metadata={"state": text})
    with pytest.raises(RunError, match="fits no parameter of its optimiser"):
        make_trainer(tmp_path).train()
