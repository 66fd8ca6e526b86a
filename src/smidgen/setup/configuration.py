"""The configuration of a fit with every choice made that does not depend on the images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from smidgen.config import Config
from smidgen.data.datasets import DATASETS
from smidgen.data.values import as_text
from smidgen.hardware import choose_device, choose_precision
from smidgen.model import Model
from smidgen.setup.options import with_options
from smidgen.setup.start import starting_run


def resolve(config: Config, *, start: Model | None = None) -> Config:
    """Return the configuration with every such choice made; `setup.clusters` chooses the clusters where they are open.

    start: what `starting_run` returns, where it is at hand.
    """
    config = with_options(config, start=start or starting_run(config))
    n_clusters = class_count(config.data, config.classes) if config.n_clusters is None else config.n_clusters
    device = choose_device(config.device)
    return dataclasses.replace(
        config,
        n_clusters=n_clusters,
        value_range=as_text(config.value_range),
        threads=config.threads or torch.get_num_threads(),
        device=device,
        precision=choose_precision(config.precision, device),
    )


def class_count(data: str | tuple[str, ...], chosen: Sequence[str] = ()) -> int | None:
    """Return how many classes were chosen, or how many a named dataset has; None for any other data.

    >>> class_count("digits"), class_count("photos/digits"), class_count("photos/digits", ("3", "8"))
    (10, None, 2)
    """
    if chosen:
        return len(chosen)
    known = DATASETS.get(data) if isinstance(data, str) else None
    return None if known is None else known.n_classes
