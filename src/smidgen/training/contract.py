"""What a method hands to the loop, checked: its stages, optimisers, requests, losses and assignments.

A method that breaks the contract in `methods/base.py` is answered by a sentence that names the method and the member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.data.batches import Request
from smidgen.errors import ContractError
from smidgen.methods.base import Method, Stage

TOLERANCE = 0.01
"""How far from one the sum of an image's assignments may be: those of half precision are not exact."""


def check_stages(method: Method, stages: Any) -> list[Stage]:
    """Return the stages of a method; raises ContractError if they are not a list of `Stage`s of different names."""
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise _broken(method, "stages", f"a list of `Stage`s, [] for none, got {stages!r}")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise _broken(method, "stages", f"stages of different names, because batches are drawn by them, got {names}")
    return list(stages)


def check_optimisers(method: Method, optimisers: Any) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a method; raises ContractError if they are not a list with one at least."""
    is_list = isinstance(optimisers, Sequence) and len(optimisers) > 0
    if not is_list or not all(isinstance(one, torch.optim.Optimizer) for one in optimisers):
        raise _broken(method, "optimisers", f"a list of one optimiser or more, got {_kind(optimisers)}")
    return list(optimisers)


def check_renewed(method: Method, renewed: Any) -> list[nn.Parameter]:
    """Return the parameters that `begin` drew anew; raises ContractError if they are anything else."""
    is_one = isinstance(renewed, Tensor) or not isinstance(renewed, Iterable)  # a parameter's rows are no parameters
    parameters = [] if is_one else list(renewed)
    if is_one or not all(isinstance(one, nn.Parameter) for one in parameters):
        wanted = "the parameters drawn anew, such as `layer.parameters()`, or None"
        raise _broken(method, "begin", f"{wanted}, got {_kind(renewed)}")
    return parameters


def check_requests(method: Method, requests: Any, *, n_images: int) -> dict[str, Request]:
    """Return the requests of a batch; raises ContractError if they are not name → `Request` of rows below n_images."""
    if not isinstance(requests, Mapping) or not requests:
        raise _broken(method, "request", f"a dictionary, part name → `Request`, got {_kind(requests)}")
    for name, request in requests.items():
        if not isinstance(request, Request):
            raise _broken(method, "request", f"a `Request` for part {name!r}, got {_kind(request)}")
        low, high = (int(end) for end in request.indices.aminmax())
        if low < 0 or high >= n_images:
            wanted = f"rows from 0 to {n_images - 1} for part {name!r}, got {low} to {high}"
            raise _broken(method, "request", wanted)
    return dict(requests)


def check_losses(method: Method, losses: Any) -> dict[str, Tensor]:
    """Return the losses of a step; raises ContractError if they are not named scalars with a differentiable `total`."""
    if not isinstance(losses, Mapping) or "total" not in losses:
        given = f"the names {sorted(map(str, losses))}" if isinstance(losses, Mapping) else _kind(losses)
        raise _broken(method, "loss", f"a dictionary of named scalars with the one to minimise as `total`, got {given}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise _broken(method, "loss", f"a tensor of one number as {name!r}, got {_kind(value)}")
    if not losses["total"].requires_grad:
        raise _broken(method, "loss", "a `total` that depends on parameters that learn; this one has no gradient")
    return dict(losses)


def check_assignments(method: Method, assignments: np.ndarray) -> np.ndarray:
    """Return assignments (n, clusters); raises ContractError for another shape, or rows that are no shares."""
    _check_columns(method, "assign", assignments.shape, columns=method.problem.n_clusters)
    if not (assignments >= 0).all() or not (abs(assignments.sum(1) - 1) <= TOLERANCE).all():  # NaN is neither
        ends = f"numbers from {assignments.min():.3g} to {assignments.max():.3g}"
        raise _broken(method, "assign", f"rows of numbers from 0 that sum to one, such as a softmax, got {ends}")
    return assignments


def check_outputs(method: Method, assignments: Tensor, embeddings: Tensor) -> None:
    """Raise ContractError if a batch's assignments are not (batch, clusters), or its embeddings (batch, features)."""
    _check_columns(method, "assign", assignments.shape, columns=method.problem.n_clusters)
    _check_columns(method, "encode", embeddings.shape)


def _check_columns(method: Method, member: str, shape: Sequence[int], *, columns: int | None = None) -> None:
    if len(shape) != 2 or columns not in (None, shape[1]):
        given = ", ".join(map(str, ("batch", *shape[1:])))
        raise _broken(method, member, f"a tensor of shape (batch, {columns or 'features'}), got ({given})")


def _broken(method: Method, member: str, wanted: str) -> ContractError:
    name = getattr(method, "name", type(method).__name__)
    return ContractError(f"`{member}` of method {name!r} must return {wanted}.")


def _kind(value: Any) -> str:
    """Return what a value is, in words: its type, and the shape of a tensor; None and what is empty as they are."""
    if isinstance(value, Tensor):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    is_empty = isinstance(value, Sequence | Mapping) and not value
    return repr(value) if value is None or is_empty else type(value).__name__
