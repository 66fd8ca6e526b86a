"""Arrays in an .npz: only those that are asked for are read, and none is believed to be larger than its file."""

import io
import zipfile

import numpy as np
import pytest

from smidgen.data import npz
from smidgen.data.arrays import read_npz
from smidgen.data.npz import Npz
from smidgen.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


def header(shape, kind="|u1"):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": kind, "fortran_order": False, "shape": shape})
    return out.getvalue()


def packed(path, **members):
    """Write members of any bytes as a compressed zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_what_is_not_asked_for_may_be_anything(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=IMAGES, labels=np.arange(6), about=np.array({"by": "me"}), version=np.array(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "no array")
        archive.writestr("broken.npy", "no array either")
    parts, _ = read_npz(path)
    assert (parts[""].images == IMAGES).all()
    assert parts[""].classes.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.array(3)}, "'images' is a single value"),
        ({"images": np.array([{}, {}])}, "'images' holds Python objects"),
        ({"images": IMAGES, "labels": np.array(["a", None] * 3)}, "'labels' holds Python objects"),
        ({"images": IMAGES, "labels": np.array(0)}, "'labels' is a single value"),
    ],
)
def test_single_values_and_objects_are_refused_in_words(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=words):
        read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header((10**12, 28, 28)) + bytes(100), "says that it has shape"),
        (header((3,)) + bytes(100), "says that it has shape"),
        (header((-1, 5)) + bytes(100), "says that it has shape|cannot be read"),
        (header((100,), "|O"), "Python objects"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': [[[[[[[" + bytes(9), "cannot be read"),
        (b"\x93NUMPY\x09\x00" + bytes(9), "version 9"),
        (b"", "cannot be read"),
        (b"text", "cannot be read"),
    ],
)
def test_headers_that_claim_what_is_not_there_are_refused_before_memory_is_taken(tmp_path, data, words):
    with pytest.raises(InputError, match=words):
        read_npz(packed(tmp_path / "a.npz", images=data))


def test_a_small_file_that_unpacks_to_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "SMALL", 2**20)
    path = packed(tmp_path / "a.npz", images=header((2**22,)) + bytes(2**22))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(InputError, match=r"unpacks to 4,194,432, more than 200 times as many"):
        Npz(path)


def test_arrays_of_one_value_are_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((50, 64, 64), np.uint8), y=np.repeat([0, 1], 25))
    assert read_npz(tmp_path / "a.npz")[0][""].images.shape == (50, 64, 64)
