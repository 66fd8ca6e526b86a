"""Files of weights: state dicts from others, read without running anything, under the names that timm gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from smidgen.errors import InputError
from smidgen.tensor_files import read_tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict in a .safetensors file or one that `torch.save` wrote; nothing in it is run.

    A state dict below "state_dict", "model" or "model_state_dict", and "module." before every name, are seen through.

    Raises InputError if the file cannot be read or holds anything but tensors.
    """
    try:
        # A file of smidgen's own carries a checksum, which must fit.
        state = read_tensors(path)[0] if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's, safetensors': depends on the file
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:150]
        raise InputError(
            f"The weights {str(path)!r} cannot be read ({reason}); give a state dict as .safetensors or .pt."
        ) from error
    for outer in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(outer), dict):
            state = state[outer]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"The weights {str(path)!r} are not a state dict, a table of named tensors; save one of those."
        )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def timm_keys(state: Mapping[str, Tensor], *, stages: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights of `efficientnet_lite_pytorch` under the names of timm's nets (docs/methods.md §9).

    stages: how many blocks each stage has; the package counts blocks through, timm counts within stages.

    >>> list(timm_keys({"_blocks.2._bn0.bias": torch.zeros(1)}, stages=[1, 3]))
    ['blocks.1.1.bn1.bias']
    """
    return {_timm_key(key, stages): value for key, value in state.items()}


_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER_STAGES = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_LATER_STAGES |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}


def _timm_key(key: str, stages: Sequence[int]) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        module, _, tensor = key.partition(".")
        return f"{_OUTER.get(module, module)}.{tensor}"
    block, module, tensor = int(match[1]), match[2], match[3]
    stage = 0
    while stage < len(stages) - 1 and block >= stages[stage]:
        block, stage = block - stages[stage], stage + 1
    names = _LATER_STAGES if stage else _FIRST_STAGE
    return f"blocks.{stage}.{block}.{names.get(module, module)}.{tensor}"
