"""Checkpoints: the whole state of a training as one safetensors file, tensors plus JSON; no pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from smidgen.errors import RunError
from smidgen.runs import atomic_write

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and everything else as JSON values."""


def capture(method: nn.Module, optimisers: Sequence[torch.optim.Optimizer], progress: dict[str, Any]) -> Snapshot:
    """Return a copy of the state of a training: net, buffers, optimisers and `progress` (JSON values)."""
    tensors = {f"method.{name}": value for name, value in method.state_dict().items()}
    numbers: dict[str, Any] = {}
    for o, optimiser in enumerate(optimisers):
        for p, slots in optimiser.state_dict()["state"].items():
            for slot, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{o}.{p}.{slot}"] = value
                else:
                    numbers[f"{o}.{p}.{slot}"] = value
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    return copies, {"progress": json.loads(json.dumps(progress)), "optimisers": numbers}


def restore(snapshot: Snapshot, method: nn.Module, optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Put a snapshot back into a method and its optimisers, and return its `progress`."""
    tensors, rest = snapshot
    load_state(method, {name[7:]: value for name, value in tensors.items() if name.startswith("method.")})
    for o, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Any]] = {}
        for name, value in [*tensors.items(), *(("optimiser." + k, v) for k, v in rest["optimisers"].items())]:
            if name.startswith(f"optimiser.{o}."):
                p, slot = name.split(".", 3)[2:]
                state.setdefault(int(p), {})[slot] = value.clone() if isinstance(value, Tensor) else value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return json.loads(json.dumps(rest["progress"]))


@torch.no_grad()
def load_state(module: nn.Module, tensors: dict[str, Tensor], *, missing: tuple[str, ...] = ()) -> None:
    """Copy tensors into a module's parameters and buffers of the same names.

    Parameters are filled in place, because optimisers hold them; a buffer takes the shape and type of what is loaded
    (its length may depend on the training set). missing: prefixes of names that may be absent. Raises RunError if
    another name is absent, unknown or a parameter of another shape or type.
    """
    own = module.state_dict()
    absent = [name for name in own if name not in tensors and not name.startswith(missing)]
    strange = [name for name in tensors if name not in own]
    if absent or strange:
        raise RunError(f"The saved weights are of another model: {(absent + strange)[0]!r} does not match.")
    for name, value in tensors.items():
        if own[name].shape == value.shape and own[name].dtype == value.dtype:
            own[name].copy_(value)
        else:
            parent_name, _, leaf = name.rpartition(".")
            parent = module.get_submodule(parent_name)
            if leaf not in parent._buffers:
                raise RunError(
                    f"The saved weights are of another model: {name!r} is {value.dtype} {tuple(value.shape)} there"
                    f" and {own[name].dtype} {tuple(own[name].shape)} here."
                )
            parent._buffers[leaf] = value.to(own[name].device, copy=True)


class Checkpoints:
    """The checkpoint files of one run: the newest two regular ones, and one of where a signal stopped the run.

    A training that diverges goes back to a *regular* checkpoint, so that it goes back to the same step whether or not
    it was stopped in between.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, snapshot: Snapshot, *, step: int, regular: bool = True) -> None:
        """Write a checkpoint atomically under its number of steps, then remove what it makes superfluous.

        Raises RunError if it cannot be written; those before it are still there then.
        """
        tensors, rest = snapshot
        path = self.folder / f"{step:09d}{'' if regular else '-stopped'}.safetensors"
        try:
            self.folder.mkdir(exist_ok=True)
            with atomic_write(path) as file:
                file.write(save(tensors, metadata={"state": json.dumps(rest)}))
        except OSError as error:
            raise RunError(
                f"The checkpoint {str(path)!r} cannot be written ({error.strerror or error}): make room, or make the"
                " folder writable, and go on with --resume."
            ) from None
        stopped = [old for old in self.folder.glob("*-stopped.safetensors") if old != path]
        leftovers = self.folder.glob(".*.safetensors.*")  # of processes killed while they wrote: we hold the lock
        for old in [*self._files("[0-9]*[0-9]")[2:], *stopped, *leftovers]:
            old.unlink(missing_ok=True)

    def newest(self) -> Snapshot | None:
        """Return the newest checkpoint that can be read, None where there are none; RunError if none can be read."""
        paths = self._files("[0-9]*")
        snapshot = _first_readable(paths)
        if paths and snapshot is None:
            raise RunError(f"No checkpoint in {str(self.folder)!r} can be read: start again with --overwrite.")
        return snapshot

    def newest_regular(self) -> Snapshot | None:
        """Return the newest of those that no signal caused, None where there are none."""
        return _first_readable(self._files("[0-9]*[0-9]"))

    def _files(self, stem: str) -> list[Path]:
        return sorted(self.folder.glob(f"{stem}.safetensors"), reverse=True)


def _first_readable(paths: Sequence[Path]) -> Snapshot | None:
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                names = file.keys()  # not a dict: safetensors has no iterator
                return {name: file.get_tensor(name) for name in names}, json.loads(file.metadata()["state"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue  # damaged by something other than us: the one before it will do
    return None
