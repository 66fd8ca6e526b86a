"""Hardware settings: device, precision, threads, determinism and memory, decided here for every command."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from smidgen.errors import InputError, unknown

PRECISIONS = ("auto", "float32", "bfloat16")

Device = torch.device | str


def choose_device(name: Device = "auto") -> str:
    """Return the device to compute on, "auto" being an accelerator if there is one.

    Raises InputError for a device that cannot add two numbers here and give back the sum.

    >>> choose_device("cpu")
    'cpu'
    >>> choose_device("meta")
    Traceback (most recent call last):
    smidgen.errors.InputError: The device 'meta' cannot be used here (Tensor.item() cannot ...): try `--device auto`.
    """
    name = str(name)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of devices that it no longer has
            works = torch.ones(2, device=name).sum().item() == 2
        reason = "it computes nothing"
    except (RuntimeError, AssertionError, ImportError) as error:
        works, reason = False, str(error).splitlines()[0].partition(". ")[0]
    if not works:
        raise InputError(f"The device {name!r} cannot be used here ({reason}): try `--device auto`.")
    return "cpu" if torch.device(name).type == "cpu" else name  # there is but one


def has_fast_bfloat16(device: Device) -> bool:
    """Return whether the device computes with bfloat16 in hardware; where it is emulated float32 is faster."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def fast_dtype(device: Device = "cpu") -> torch.dtype:
    """Return the type to embed in: bfloat16 where the device computes with it in hardware, otherwise float32."""
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def choose_precision(wanted: str, device: Device) -> Literal["float32", "bfloat16"]:
    """Return the precision of training, "auto" being bfloat16 where that is fast; raises InputError for another name.

    >>> choose_precision("bfloat16", "cpu")
    'bfloat16'
    """
    if wanted not in PRECISIONS:
        raise unknown("precision", wanted, PRECISIONS)
    fast = has_fast_bfloat16(device) if wanted == "auto" else wanted == "bfloat16"
    return "bfloat16" if fast else "float32"


@contextlib.contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Let torch use `n` threads in the body, or as many as it does where that is None."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep memory that is freed in blocks of up to 32 MB, from the first call on.

    glibc gives such blocks back to the system and asks for them again, page by page, which costs more time than many
    an operation on them, until it has seen a large one freed: it then keeps all that are not larger. Nothing happens
    in other libraries.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # never written to: it takes no memory


WITH_PINNED_MEMORY = ("cuda",)
"""Devices that copy from pinned memory of the host while the host goes on."""


def to_device(tensor: Tensor, device: Device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor on a device, of another type if one is given, without waiting for what is at work there.

    From the host to CUDA that takes pinned memory; what is copied from other memory without waiting may be overwritten
    before it arrives, and Apple's devices have none.
    """
    tensor = tensor.to(dtype or tensor.dtype)
    if tensor.device.type == "cpu" and torch.device(device).type in WITH_PINNED_MEMORY:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


# ------------------------------------------------------------------------------------------------------ repeatability


@contextlib.contextmanager
def forked_rng(device: Device) -> Iterator[None]:
    """Keep torch's global generators, the CPU's and the device's, as they were before the body.

    Other accelerators are not touched: that alone would take memory on each of them.
    """
    device = torch.device(device)
    indices = []
    if device.type == "cuda":
        indices = [torch.cuda.current_device() if device.index is None else device.index]
    with torch.random.fork_rng(devices=indices):
        yield


def seed_rng(number: int, device: Device) -> None:
    """Seed torch's global generators, the CPU's and the device's, and those of no other accelerator."""
    device = torch.device(device)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
    elif device.type == "mps":
        torch.mps.manual_seed(number)


@contextlib.contextmanager
def repeatable(device: Device) -> Iterator[None]:
    """Have torch choose algorithms that give the same bits every time, in the body.

    Only CUDA has others. Operations that have no such algorithm warn and run.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for this; it is read once per process
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------- memory


def reset_peak_memory(device: Device) -> None:
    """Reset what `peak_memory_mb` measures, where the system can (Linux and CUDA)."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(device: Device) -> float:
    """Return the largest memory of this process since `reset_peak_memory`, in megabytes; of the accelerator if one."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
