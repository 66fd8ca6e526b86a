"""What is computed on: devices that are not there are refused, and one fact about bfloat16 serves all."""

import numpy as np
import pytest
import torch

from smidgen import hardware
from smidgen.errors import InputError
from smidgen.hardware import (
    choose_device,
    choose_precision,
    fast_dtype,
    forked_rng,
    peak_memory_mb,
    repeatable,
    reset_peak_memory,
)


@pytest.mark.parametrize(
    "name", ["foo", "meta", "mps", "cuda", "cuda:7", "xla", "privateuseone", "lazy", "", "CPU", "0"]
)
def test_a_device_that_cannot_compute_here_is_refused(name):
    if name in ("mps", "cuda") and choose_device("auto") == name:
        pytest.skip("this machine has one")
    with pytest.raises(InputError, match=rf"^The device '{name}' cannot be used here \(.+\): try `--device auto`\.$"):
        choose_device(name)


def test_the_device_is_an_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == "mps"


def test_a_device_is_named_or_one_of_torchs():
    assert choose_device(torch.device("cpu")) == choose_device("cpu:0") == "cpu"


def test_bfloat16_is_used_only_where_the_hardware_has_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert (fast_dtype("cpu"), choose_precision("auto", "cpu")) == (torch.bfloat16, "bfloat16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert (fast_dtype("cpu"), choose_precision("auto", "cpu")) == (torch.float32, "float32")
    assert fast_dtype("meta") == torch.float32
    # A V100 emulates it.
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert (fast_dtype("cuda"), choose_precision("auto", "cuda:1")) == (torch.float32, "float32")
    assert choose_precision("bfloat16", "cuda") == "bfloat16"


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="Unknown precision 'half'"):
        choose_precision("half", "cpu")


@pytest.mark.parametrize(("device", "indices"), [("cpu", []), ("cuda:1", [1]), ("mps", [])])
def test_only_the_generators_of_the_device_in_use_are_kept(monkeypatch, device, indices):
    asked = []
    fork = torch.random.fork_rng

    def fork_rng(devices=None):
        asked.append(devices)
        return fork(devices=[])

    monkeypatch.setattr(hardware.torch.random, "fork_rng", fork_rng)
    before = torch.get_rng_state()
    with forked_rng(device):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert asked == [indices]


def test_repeatable_algorithms_are_asked_of_cuda_alone_and_for_the_body_alone(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with repeatable("cpu"):
        assert not torch.are_deterministic_algorithms_enabled()
    with repeatable("cuda"):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_the_peak_of_memory_begins_anew_for_each_run():
    reset_peak_memory("cpu")
    before = peak_memory_mb("cpu")
    large = np.ones(30_000_000)  # 240 MB
    assert peak_memory_mb("cpu") >= before + 200
    del large
    reset_peak_memory("cpu")
    assert peak_memory_mb("cpu") < before + 100
