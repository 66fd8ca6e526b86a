"""The configuration of a fit: what to fit on what, as recipes and run folders hold it in TOML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smidgen.errors import unknown


@dataclass(frozen=True)
class Config:
    """What to fit on what; `options` are the fields of the method's own config.

    data, test: as `open_dataset` takes them, by name or path. n_clusters: None for the class count of a named dataset,
    otherwise 10. size, channels, resize: how images become arrays. device: "auto", "cpu", "cuda", … threads: of torch
    on the CPU, None for torch's choice. precision: "auto" is bfloat16 where the device is an accelerator that has it.
    evidence: kind → path of a file that says what is known of the training images, as `Evidence.from_files` takes them.
    init_from: a run folder whose encoder to start from. allow_bad: largest share of unreadable images.
    """

    data: str
    method: str = "fusion"
    n_clusters: int | None = None
    test: str | None = None
    size: int | None = None
    channels: int | None = None
    resize: Literal["crop", "pad", "squash"] = "crop"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    init_from: str | None = None
    allow_bad: float = 0.05
    checkpoint_every: int = 100
    evidence: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def as_table(config: Config) -> dict[str, Any]:
    """Return the configuration as `config.toml` holds it: without what is None; options and evidence are tables."""
    table = dataclasses.asdict(config)
    options = {name: value for name, value in table.pop("options").items() if value is not None}
    evidence = {kind: str(path) for kind, path in table.pop("evidence").items()}
    rest = {name: value for name, value in table.items() if value is not None}
    return rest | ({"evidence": evidence} if evidence else {}) | {"options": options}


def from_table(table: Mapping[str, Any]) -> Config:
    """Return the configuration in a `config.toml` or a recipe; raises InputError for an unknown name."""
    known = [field.name for field in dataclasses.fields(Config)]
    for name in table:
        if name not in known:
            raise unknown("setting", name, known)
    return Config(**table)
