"""`smidgen list`: the named methods, datasets, encoders and recipes, and the options of a method."""

from __future__ import annotations

import argparse
import fnmatch
import re
import shutil
import textwrap
import typing
from collections.abc import Sequence

from smidgen.cli.parsing import one_of
from smidgen.errors import InputError, unknown
from smidgen.methods import FUSION, FUSION_METHODS, FUSION_RULE, METHODS, NAMES
from smidgen.options import Options, field_types, help_texts, in_words, option_groups

KINDS = ("methods", "datasets", "encoders", "recipes")

ENCODERS: dict[str, str] = {
    "conv": "a small net trained from scratch, for small images",
    "alexnet": "AlexNet with batch norm, the net of DeepCluster and SeLa; images are brought to 224 pixels",
    "alexnet-small": "a narrower one for images of 28 to 64 pixels",
    "wide-residual": "the net of the UCC paper: wide residual blocks without batch norm",
    "wrn-28-2": "WRN-28-2, the net of FixMatch: a wide residual network of 1.5 million weights",
    "conv-2x2": "convolutions to 64 × 2 × 2 numbers: the net of the report on few labels",
    "unet": "a U-Net whose decoder copies the image through skip connections, for comparison",
    "unet-no-skips": "the same net without them",
    "lite0": "EfficientNet-Lite0, pretrained on ImageNet, works offline; the faster one",
    "lite2": "EfficientNet-Lite2, pretrained on ImageNet, works offline; the better one",
    "vectors": "two layers on ready embeddings: what `conv` is for them",
}
"""The names in `nets.encoders.ENCODERS`, and `VECTORS`; that is not imported: torch would take seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "kind", metavar="KIND", type=one_of("kind", KINDS), help="methods, datasets, encoders or recipes"
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="a method, to see its options; a pattern, to see timm's encoders"
    )


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    if args.name is not None and args.kind in ("datasets", "recipes"):
        raise InputError(f"`smidgen list {args.kind}` takes no name, got {args.name!r}.")
    if args.name is not None:
        print(_about_method(args.name) if args.kind == "methods" else _matching_encoders(args.name))
        return 0
    print({"methods": _methods, "datasets": _datasets, "encoders": _encoders, "recipes": _recipes}[args.kind]())
    return 0


def _methods() -> str:
    either = f"{' or '.join(FUSION_METHODS)}, whichever suits the data; the default"
    rows = [(FUSION, either), *((name, about) for name, (_, _, about) in METHODS.items())]
    return f"{table(rows)}\n\n`smidgen list methods NAME` shows a method's options."


def _datasets() -> str:
    from smidgen.data.named import DATASETS

    header = ("", "train", "test", "size", "classes", "")
    rows = [
        (d.name, f"{d.n_train:,}", f"{d.n_test:,}", "×".join(map(str, d.shape[1:])), str(d.n_classes), d.about)
        for d in DATASETS.values()
    ]
    return table([header, *rows], right=(1, 2, 3, 4))


def _encoders() -> str:
    more = "Any net of timm's will do, its weights are downloaded on first use: `smidgen list encoders 'resnet*'`."
    return f"{table(list(ENCODERS.items()))}\n\n{more}"


def _recipes() -> str:
    from smidgen.experiments.recipes import own_recipes

    rows = [(name, _first_comment(path.read_text(encoding="utf-8"))) for name, path in own_recipes().items()]
    return f"{table(_wrapped(rows))}\n\n`smidgen run NAME` runs one."


def _first_comment(text: str) -> str:
    """Return the first comment line of a TOML file without its mark, "" if it begins with something else."""
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _matching_encoders(pattern: str) -> str:
    """Return the encoders whose name fits a pattern such as "resnet*" or holds a text, ours and timm's, a line each."""
    wanted = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    known = [*ENCODERS, *_timm_names()]
    found = [name for name in known if fnmatch.fnmatchcase(name, wanted)]
    if not found:
        raise InputError(f"None of {len(known):,} encoders is called {pattern!r}: try a part of a name, as 'resnet'.")
    return "\n".join(found)


def _timm_names() -> list[str]:
    """Return the names of timm's nets that have weights, without what they were trained on."""
    import timm  # takes seconds: only those who ask for its names pay

    return list(timm.list_models(pretrained=True, include_tags=False))


def _about_method(name: str) -> str:
    if name == FUSION:
        return "\n\n".join([FUSION_RULE, *map(_about_method, FUSION_METHODS)])
    if name not in METHODS:
        raise unknown("method", name, NAMES)
    return f"{name}: {METHODS[name][2]}\n\n{_options_of(name)}"


def _options_of(name: str) -> str:
    """Return the options and presets of a method as tables."""
    from smidgen.methods import make_config

    config = make_config(name)
    kinds, about = field_types(type(config)), help_texts(type(config))
    parts = []
    for heading, names in option_groups(type(config)).items():
        rows = [(one, _value(config[one]), about.get(one, "") + _choices(kinds[one])) for one in names]
        parts.append(f"{heading}\n{table(_wrapped(rows))}" if heading else table(_wrapped([_HEAD, *rows])))
    return "\n\n".join([*parts, f"Set them with `--set option=value`.{_presets(config)}"])


_HEAD = ("option", "default", "")


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _choices(kind: object) -> str:
    """Return the values an option can have, where they are few or in a range."""
    values = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    shown = " · ".join(map(str, values)) or in_words(kind)
    return f" ({shown})" if shown else ""


def _wrapped(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the rows with their last cells broken into several rows where they are wider than the terminal."""
    left = sum(2 + max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1))
    width = max(40, shutil.get_terminal_size((120, 24)).columns - left)
    broken = ((row, textwrap.wrap(row[-1], width) or [""]) for row in rows)
    return [
        (*(row[:-1] if i == 0 else [""] * (len(row) - 1)), line)
        for row, lines in broken
        for i, line in enumerate(lines)
    ]


def _presets(config: Options) -> str:
    """Return which options each preset of a method sets, nothing where it has none."""
    presets = config.PRESETS
    if not presets:
        return ""
    rows = [(n, ", ".join(f"{k}={v}" for k, v in chosen.items()) or "the defaults") for n, chosen in presets.items()]
    shown = table(_wrapped([("preset", "sets"), *rows]))
    return f"\n\n{shown}\n\nTake one with `--set preset=NAME`; options set beside it win."


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return rows of texts as aligned lines; `right` are the columns whose numbers stand on the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
