"""What every test gets: one torch thread (make test runs two processes), and hypothesis without a clock or chance."""

import os

import pytest
from hypothesis import settings

settings.register_profile("smidgen", deadline=None, derandomize=True, database=None)
settings.load_profile("smidgen")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """A test that pulls the plug does not exist; hundreds of fsyncs would cost half a minute."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
