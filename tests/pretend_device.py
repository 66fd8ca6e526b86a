"""A pretend accelerator: what runs on it without complaint runs on a real one, as far as devices are concerned.

Inside `pretend_device()` the device "meta" has data: its tensors hold a CPU tensor each, and every operator on them is
computed on the CPU. As on CUDA, an operator refuses tensors of two devices, a generator of another device, and a tensor
of the device as a NumPy array. The context counts operators, and the times the host has to wait for the device.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from smidgen import hardware
from smidgen.data import loader

DEVICE = torch.device("meta")

INDEXING = ("aten.index.Tensor", "aten.index_put", "aten._index_put_impl_", "aten._unsafe_index")
"""Operators that take indices on the CPU for a tensor on the device."""

BETWEEN_DEVICES = ("aten.copy_", "aten.set_")
"""Operators whose tensors may be on two devices."""

READS = ("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero")
"""Operators that give a number to the host."""

OF_UNKNOWN_SHAPE = (
    "aten.nonzero",
    "aten.masked_select",
    "aten.masked_scatter_backward",
    "aten._unique2",
    "aten.unique",
    "aten.repeat_interleave.Tensor",
    "aten.bincount",
)
"""Operators whose result has a shape that depends on the data, which the host has to wait for."""


@dataclass
class Count:
    """What happened on the device: operators, and waits of the host by the operator that caused them."""

    operators: int = 0
    waits: Counter = field(default_factory=Counter)

    @property
    def total_waits(self):
        return sum(self.waits.values())

    def clear(self):
        self.operators = 0
        self.waits.clear()


_count = Count()


class PretendTensor(torch.Tensor):
    """A tensor of the pretend device; `data_on_cpu` holds what a device would."""

    @staticmethod
    def __new__(cls, data):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            data.size(),
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=DEVICE,
        )
        tensor.data_on_cpu = data
        return tensor

    def __repr__(self):
        return f"PretendTensor({self.data_on_cpu})"

    def tolist(self):
        _count.waits["tolist"] += 1
        return self.data_on_cpu.detach().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor of the pretend device to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        return _run(operator, args, kwargs or {})


class Generator(torch.Generator):
    """A generator that is said to be of the device it is made for."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.wanted_device = torch.device(device)
        return generator

    def __init__(self, device="cpu"):
        """Do nothing: `device` is none that torch would take."""

    @property
    def device(self):
        return self.wanted_device


class Autocast(torch.autocast):
    """Mixed precision of the pretend device: that of the CPU."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu", *args, **kwargs)


# ------------------------------------------------------------------------------------------------------------ operators


def _run(operator, args, kwargs):
    """Check the devices, compute on the CPU, and bring the result to where it belongs."""
    name, tensors = str(operator), [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    device = kwargs.get("device")
    is_on_device = any(isinstance(tensor, PretendTensor) for tensor in tensors)
    if is_on_device:
        _refuse_two_devices(name, args, tensors)
        _note(name, args, kwargs)
    goes_to_device = is_on_device if device is None else torch.device(device) == DEVICE
    _count.operators += is_on_device or goes_to_device
    if goes_to_device and not is_on_device and name.startswith("aten._to_copy"):
        _note_upload(args[0], kwargs)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = operator(*_on_cpu(args), **_on_cpu(kwargs))
    if name.startswith("aten._local_scalar_dense"):
        return result
    given = _given_results(operator, args, kwargs)
    if given is not None:
        return given
    if not goes_to_device:
        return result
    return tree_map(lambda r: PretendTensor(r) if isinstance(r, torch.Tensor) else r, result)


def _on_cpu(tree):
    return tree_map(lambda leaf: leaf.data_on_cpu if isinstance(leaf, PretendTensor) else leaf, tree)


def _refuse_two_devices(name, args, tensors):
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim() > 0]
    if name.startswith(INDEXING):
        if not isinstance(args[0], PretendTensor):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor: {name}")
        values = args[2] if len(args) > 2 else None
        elsewhere = [values] if any(values is tensor for tensor in elsewhere) else []
    if elsewhere and not name.startswith(BETWEEN_DEVICES):
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}")


def _note(name, args, kwargs):
    """Count a wait of the host, where the operator is one."""
    to_host = name.startswith("aten._to_copy") and kwargs.get("device") == torch.device("cpu")
    to_host |= name.startswith("aten.copy_") and not isinstance(args[0], PretendTensor)
    indices = [index for index in args[1] if index is not None] if name.startswith(INDEXING) else []
    masks = any(not isinstance(index, PretendTensor) or index.dtype == torch.bool for index in indices)  # or an upload
    shaped = name.startswith(OF_UNKNOWN_SHAPE) and kwargs.get("output_size") is None
    if to_host or masks or shaped or name.startswith(READS):
        _count.waits[name] += 1


def _note_upload(tensor, kwargs):
    """Count the wait of a copy to the device, which a copy from pinned memory need not be; refuse an unsafe one."""
    if not kwargs.get("non_blocking"):
        _count.waits["upload"] += 1
    elif not getattr(tensor, "was_pinned", False):
        raise RuntimeError("A tensor that is not in pinned memory may change before it is copied: no non_blocking.")


def _given_results(operator, args, kwargs):
    """Return the tensors that an operator has written into: those that it was given to do so."""
    written = [a.name for a in operator._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if not written:
        return None
    if operator._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    results = tuple(kwargs[name] for name in written if isinstance(kwargs.get(name), torch.Tensor))
    return None if not results else results[0] if len(results) == 1 else results


class _Operators(TorchDispatchMode):
    """Sees operators without tensors of the device too: those that make one."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        return _run(operator, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Sees what operators do not show: the generator's device, pinned memory, and data given to `torch.tensor`."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.was_pinned = True
            return pinned
        if function is torch.tensor and kwargs.get("device") is not None:
            rest = {key: value for key, value in kwargs.items() if key != "device"}
            return function(*args, **rest).to(kwargs["device"])
        generator = kwargs.get("generator")
        if generator is not None:
            _refuse_generator(generator, args, kwargs)
        return function(*args, **kwargs)


def _refuse_generator(generator, args, kwargs):
    on_device = any(isinstance(leaf, PretendTensor) for leaf in tree_leaves((args, kwargs)))
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]) == DEVICE
    if on_device != (generator.device == DEVICE):
        raise RuntimeError(f"Expected another device type for generator than {generator.device.type}")


@contextlib.contextmanager
def pretend_device():
    """Let the device "meta" have data while the body runs; gives the count of what happens there."""
    pinning = (*hardware.WITH_PINNED_MEMORY, DEVICE.type)
    with (
        mock.patch.multiple(torch, Generator=Generator, autocast=Autocast),
        mock.patch.object(hardware, "WITH_PINNED_MEMORY", pinning),
        mock.patch.object(loader, "WITH_PINNED_MEMORY", pinning),
        _Functions(),
        _Operators(),
    ):
        _count.clear()
        yield _count
