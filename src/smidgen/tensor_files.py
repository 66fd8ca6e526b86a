"""Safetensors files with a checksum, for models and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from smidgen.checksums import checksum
from smidgen.errors import Damaged
from smidgen.files import atomic_write


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], *, text: str = "") -> str:
    """Write tensors and a text to a file, atomically, and return their checksum, which the file holds too.

    Raises OSError as `atomic_write` does.
    """
    own = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    found = _checksum(own, text)  # the copies share no memory, which safetensors would refuse
    metadata = {"checksum": found} | ({"state": text} if text else {})  # of two, the order varies: a model has one
    with atomic_write(path) as file:
        file.write(save(own, metadata=metadata))
    return found


def read_tensors(path: Path | str, *, expected: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return the tensors and the text in a file that `write_tensors` wrote.

    expected: the checksum that the file must have; without it, a file that carries none is taken as it is.
    Raises Damaged, also if there is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # not a dict: safetensors has no iterator
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise Damaged("it is missing") from None
    except Exception as error:  # safetensors', the system's, torch's: depends on the damage
        raise Damaged(" ".join(str(error).split())[:150]) from None
    text = metadata.get("state", "")
    expected = expected or metadata.get("checksum")
    if expected is not None and expected != _checksum(tensors, text):
        raise Damaged("its checksum does not fit its content")
    return tensors, text


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the checksum over names, types, shapes and values; the order in the file is none of it."""
    parts: list[str | memoryview] = [text]
    for name, value in sorted(tensors.items()):
        parts += [f"\n{name} {value.dtype} {tuple(value.shape)} ", value.flatten().view(torch.uint8).numpy().data]
    return checksum(*parts)
