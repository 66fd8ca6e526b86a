"""Checkpoints: the whole training state in one safetensors file, tensors plus JSON; no pickle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from smidgen.errors import Damaged, RunError
from smidgen.schemas import decode_json
from smidgen.tensor_files import read_tensors, write_tensors

Snapshot = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and everything else as JSON values."""

Check = Callable[[Snapshot], None]


def capture(method: nn.Module, optimisers: Sequence[torch.optim.Optimizer], progress: dict[str, Any]) -> Snapshot:
    """Return a copy of the training state: network, buffers, optimisers and `progress` (JSON values)."""
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
    """Load a snapshot into a method and its optimisers, and return its `progress`."""
    tensors, rest = snapshot
    load_state(method, {name[7:]: value for name, value in tensors.items() if name.startswith("method.")})
    for o, optimiser in enumerate(optimisers):
        slots = {name[10:]: value for name, value in tensors.items() if name.startswith("optimiser.")}
        _restore_optimiser(optimiser, {**slots, **rest["optimisers"]}, prefix=f"{o}.")
    return json.loads(json.dumps(rest["progress"]))


def _restore_optimiser(optimiser: torch.optim.Optimizer, slots: dict[str, Any], *, prefix: str) -> None:
    """Load an optimiser's state of each parameter. slots: by "optimiser.parameter.slot"."""
    groups = optimiser.state_dict()["param_groups"]
    parameters = dict(zip((p for g in groups for p in g["params"]), _parameters(optimiser), strict=True))
    state: dict[int, dict[str, Any]] = {}
    for name, value in slots.items():
        if name.startswith(prefix):
            p, _, slot = name.removeprefix(prefix).partition(".")
            number = int(p) if p.isdecimal() else -1
            fits = number in parameters and (
                not isinstance(value, Tensor) or value.shape in ((), parameters[number].shape)
            )
            if not fits:
                raise RunError(f"The checkpoint is of another training: {name!r} fits no parameter of its optimiser.")
            state.setdefault(number, {})[slot] = value.clone() if isinstance(value, Tensor) else value
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _parameters(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]


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
    it was stopped in between. One that is damaged is passed over, which is said, and the one before it taken.
    """

    def __init__(self, folder: Path, *, log: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self._log = folder, log
        self._said: set[Path] = set()

    def save(self, snapshot: Snapshot, *, step: int, regular: bool = True) -> None:
        """Write a checkpoint atomically under its number of steps, then remove what it makes superfluous.

        Raises RunError if it cannot be written; those before it are still there then.
        """
        tensors, rest = snapshot
        path = self.folder / f"{step:09d}{'' if regular else '-stopped'}.safetensors"
        try:
            self.folder.mkdir(exist_ok=True)
            write_tensors(path, tensors, text=json.dumps(rest))
        except OSError as error:
            raise RunError(
                f"The checkpoint {str(path)!r} cannot be written ({error.strerror or error}): make room, or make the"
                " folder writable, and go on with --resume."
            ) from None
        stopped = [old for old in self.folder.glob("*-stopped.safetensors") if old != path]
        leftovers = self.folder.glob(".*.safetensors.*")  # of processes killed while they wrote: we hold the lock
        for old in [*self._files("[0-9]*[0-9]")[2:], *stopped, *leftovers]:
            old.unlink(missing_ok=True)

    def newest(self, check: Check = lambda snapshot: None) -> Snapshot | None:
        """Return the newest checkpoint that can be read, None where there are none; RunError if none can be read.

        check: raises Damaged for a snapshot that does not fit the training.
        """
        paths = self._files("[0-9]*")
        snapshot = self._first_sound(paths, check)
        if paths and snapshot is None:
            raise RunError(f"No checkpoint in {str(self.folder)!r} can be read: start again with --overwrite.")
        return snapshot

    def newest_regular(self, check: Check = lambda snapshot: None) -> Snapshot | None:
        """Return the newest of those that no signal caused, None where there are none; `check` as for `newest`."""
        return self._first_sound(self._files("[0-9]*[0-9]"), check)

    def _files(self, stem: str) -> list[Path]:
        return sorted(self.folder.glob(f"{stem}.safetensors"), reverse=True)

    def _first_sound(self, paths: Sequence[Path], check: Check) -> Snapshot | None:
        for path in paths:
            try:
                snapshot = _read(path)
                check(snapshot)
                return snapshot
            except Damaged as error:
                if path not in self._said:
                    self._log(f"The checkpoint {str(path)!r} is damaged ({error}): it is skipped.")
                self._said.add(path)
        return None


class _Rest(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a checkpoint besides tensors."""

    progress: dict[str, Any]
    optimisers: dict[str, bool | int | float | str | None]


def _read(path: Path) -> Snapshot:
    tensors, text = read_tensors(path)
    rest = decode_json(text, _Rest, nan=True)
    return tensors, {"progress": rest.progress, "optimisers": rest.optimisers}
