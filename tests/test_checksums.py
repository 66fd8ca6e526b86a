"""Damage to what was written is noticed when it is read again; what is sound is read as it was."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from smidgen.checksums import check_seal, read_array, sealed, write_array
from smidgen.errors import Damaged
from smidgen.tensor_files import read_tensors, write_tensors

ARRAY = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
TENSORS = {
    "net.weight": torch.arange(6.0).view(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, dtype=torch.int64),
    "one": torch.tensor(7),
}


def flips(path):
    """Write versions of a file that differ by one bit, one for each byte."""
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 9):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield bit


def cuts(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        path.write_bytes(whole[:length])
        yield length


def test_an_array_with_its_checksum_is_a_plain_npy_no_longer_than_without(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        write_array(file, ARRAY)
    np.save(tmp_path / "plain.npy", ARRAY)
    assert np.array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), ARRAY)
    assert np.array_equal(read_array(tmp_path / "a.npy"), ARRAY)
    assert (tmp_path / "a.npy").stat().st_size <= (tmp_path / "plain.npy").stat().st_size + 64


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (123_457, 1), (1,) * 20])
def test_arrays_of_any_shape_come_back(shape, tmp_path):
    array = np.full(shape, 3, dtype=np.int16)
    with (tmp_path / "a.npy").open("wb") as file:
        write_array(file, array)
    found = read_array(tmp_path / "a.npy")
    assert found.shape == shape
    assert (found == array).all()


@pytest.mark.parametrize("damage", [flips, cuts])
def test_every_damage_to_an_array_is_noticed_or_harmless(damage, tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        write_array(file, ARRAY)
    for _ in damage(path):
        try:
            found = read_array(path)
        except Damaged:
            continue
        assert damage is flips
        assert found.dtype == ARRAY.dtype
        assert np.array_equal(found, ARRAY)


def test_an_array_without_a_checksum_is_taken_only_if_asked_for(tmp_path):
    np.save(tmp_path / "plain.npy", ARRAY)
    with pytest.raises(Damaged, match="no checksum"):
        read_array(tmp_path / "plain.npy")
    assert np.array_equal(read_array(tmp_path / "plain.npy", unchecked=True), ARRAY)


@pytest.mark.parametrize("damage", [flips, cuts])
def test_every_damage_to_a_tensor_file_is_noticed_or_harmless(damage, tmp_path):
    path = tmp_path / "t.safetensors"
    expected = write_tensors(path, TENSORS, text="état")
    assert read_tensors(path, expected=expected)[1] == "état"
    for _ in damage(path):
        try:
            found, text = read_tensors(path)
        except Damaged:
            continue
        assert damage is flips
        assert text == "état"
        assert found.keys() == TENSORS.keys()
        assert all(value.dtype == TENSORS[name].dtype and value.equal(TENSORS[name]) for name, value in found.items())


def test_the_same_tensors_have_the_same_bytes(tmp_path):
    contents = set()
    for _ in range(8):
        write_tensors(tmp_path / "t.safetensors", TENSORS)
        contents.add((tmp_path / "t.safetensors").read_bytes())
    assert len(contents) == 1


def test_another_file_of_tensors_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    expected = write_tensors(path, TENSORS)
    write_tensors(path, {**TENSORS, "one": torch.tensor(8)})
    with pytest.raises(Damaged, match="checksum"):
        read_tensors(path, expected=expected)
    save_file(TENSORS, path)
    assert read_tensors(path)[0]["one"] == 7  # of someone who writes no checksum


def test_a_sealed_table_is_that_of_its_content_in_any_order():
    table = sealed({"b": (1, 2.5), "a": {3: "ä"}})
    check_seal(dict(reversed(table.items())))
    assert sealed(table) == table
    with pytest.raises(Damaged, match="checksum"):
        check_seal(table | {"b": [1, 2.25]})
