"""The configuration of a fit, as recipes and run folders store it in TOML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from smidgen.errors import InputError, unknown
from smidgen.options import LARGEST, Count, Options, Positive, Share, check_fields, field_types

PATHS = ("data", "test", "weights", "init_from")
"""Settings that name files or folders, besides those in `evidence`."""


@dataclass(frozen=True)
class Config:
    """What to fit on what; `options` are the fields of the method's own config.

    data, test: as `open_dataset` takes them, by name or path, data also by several. n_clusters: "auto" for the number
    that suits images and evidence best; None for the class count of a named dataset, otherwise see `setup.clusters`.
    size, channels, resize: how images become arrays.
    value_range: which values are black and white, "0:4095", "12-bit", a pair; None: images decide. encoder: a
    pretrained net whose embeddings of the images, made once, the method works on; with fine_tune, or if it is not
    pretrained, the method trains it; None leaves the choice to `setup.encoder.choose_encoder`. weights: a file with
    those of the net `encoder`. device: "auto", "cpu", "cuda", … threads: of torch
    on the CPU, None for torch's choice. precision: "auto" is bfloat16 where the device is an accelerator that has it.
    evidence: kind → path of a file that says what is known of the training images, as `Evidence.from_files` takes them.
    min_confidence: the least confidence of labels that are another run's clusters; None for all of them.
    keep_contradictory_pairs: let pairs pass that contradict each other, as `Evidence.resolve` takes it.
    issues: whether copies, outliers and poor images are looked for after training, for the report.
    init_from: a run folder whose encoder to start from. allow_bad: largest share of unreadable images.
    exclude: patterns of files and folders to leave out, as `open_dataset` takes them. classes: names of those whose
    images are taken, of training and of test images; none for all.
    max_seconds: how long training may take, without reading and report; None for as long as its steps do. Such a run
    follows the clock and is not repeatable bit for bit, see `training.loop.Settings`.
    images, imbalance: train on a part only, as `data.subsets.choose_images` takes it; for experiments.
    """

    data: str | tuple[str, ...]
    method: str = "fusion"
    n_clusters: Count | Literal["auto"] | None = None
    test: str | None = None
    size: Annotated[int, Meta(ge=1, le=4096)] | None = None
    channels: Literal[1, 3] | None = None
    resize: Literal["crop", "pad", "squash"] = "crop"
    value_range: str | None = None
    encoder: str | None = None
    weights: str | None = None
    fine_tune: bool = False
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    device: str = "auto"
    threads: Annotated[int, Meta(ge=1, le=4096)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    init_from: str | None = None
    allow_bad: Share = 0.05
    exclude: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    checkpoint_every: Count = 100
    max_seconds: Positive | None = None
    images: Count | None = None
    imbalance: Annotated[float, Meta(ge=1, le=LARGEST)] | None = None
    min_confidence: Share | None = None
    keep_contradictory_pairs: bool = False
    issues: bool = True
    evidence: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.value_range, list | tuple):  # a pair, as TOML and Python have it
            object.__setattr__(self, "value_range", ":".join(map(str, self.value_range)))
        check_fields(self)


def as_table(config: Config) -> dict[str, Any]:
    """Return the configuration as `config.toml` holds it: without what is None; options and evidence are tables."""
    table = dataclasses.asdict(config)
    options = _written(config.options)
    del table["options"]
    evidence = {kind: str(path) for kind, path in table.pop("evidence").items()}
    rest = {name: value for name, value in table.items() if value is not None and value != ()}
    return rest | ({"evidence": evidence} if evidence else {}) | {"options": options}


def _written(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as TOML holds them, which has no None: left out, but "none" where another value is the default."""
    fields = dataclasses.fields(options) if isinstance(options, Options) else ()  # type: ignore[arg-type]
    defaults = {field.name: field.default for field in fields}
    texts = {name: "none" for name in options if options[name] is None and defaults.get(name) is not None}
    return {name: msgspec.to_builtins(value) for name, value in {**options, **texts}.items() if value is not None}


def from_table(table: Mapping[str, Any]) -> Config:
    """Return the configuration in a `config.toml` or a recipe; InputError for an unknown name or a wrong value.

    >>> from_table({"data": "digits", "seed": "0"})
    Traceback (most recent call last):
    smidgen.errors.InputError: `seed` must be a whole number, 0 or above, got '0'.
    """
    kinds = field_types(Config)
    for name in table:
        if name not in kinds:
            raise unknown("setting", name, kinds)
    if "data" not in table:
        raise InputError("`data` is missing: say which images, by name or path.")
    return Config(**table)
