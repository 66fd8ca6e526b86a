"""Options for the images and how they are read, shared by all commands that open a collection."""

from __future__ import annotations

import argparse
from typing import Any

from smidgen.cli.parsing import name_list, one_of, share, text, value_range, whole_number

RESIZE = ("crop", "pad", "squash")
SPLITS = ("train", "test", "all")

DATA_HELP = (
    "a folder of images (flat, nested, one folder per class, or train/ and test/), a .zip or .tar of them, a manifest"
    " (.csv, .parquet, .jsonl), an .npz, a glob in quotes, or a name from `smidgen list datasets`; a relative path"
    " begins where you are or in $SMIDGEN_DATA"
)


def add_data(parser: argparse.ArgumentParser, help: str = DATA_HELP, *, optional: bool = False) -> None:
    """Add the argument DATA, of one path or name."""
    parser.add_argument("data", metavar="DATA", type=text, help=help, nargs="?" if optional else None)


def add_several_data(parser: argparse.ArgumentParser, help: str, *, optional: bool = False) -> None:
    """Add the argument DATA, of one name or of any number of paths: `args.data` is a text, or a tuple of several."""
    help += "; also image files, and several folders and files"
    parser.add_argument("data", metavar="DATA", type=text, help=help, nargs="*" if optional else "+", action=_OneOrMore)


class _OneOrMore(argparse.Action):
    """Keeps one value as it is, several as a tuple, and none as None."""

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option_string: object = None
    ) -> None:
        setattr(namespace, self.dest, (values[0] if len(values) == 1 else tuple(values)) if values else None)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how images become arrays: `--size`, `--resize`, `--value-range`, `--allow-bad`, `--exclude`, `--classes`."""
    parser.add_argument(
        "--size",
        metavar="PX",
        type=whole_number(1, 4096),
        help="side of the square that images are resized to (default: their own if all share one of at most 64 pixels,"
        " otherwise what the encoder reads best: 160 for lite2, the usual one, and 64 for nets that are trained here)",
    )
    parser.add_argument(
        "--resize",
        metavar="HOW",
        default="crop",
        type=one_of("way to resize", RESIZE),
        help="crop cuts the longer side, pad adds white margins, squash changes the proportions (default: crop)",
    )
    add_value_range(parser)
    add_skipping(parser)


def add_value_range(
    parser: argparse.ArgumentParser, default: str = "decided for all images together by their largest value"
) -> None:
    """Add `--value-range`."""
    parser.add_argument(
        "--value-range",
        metavar="LOW:HIGH",
        type=value_range,
        help="the values of pixels that become black and white, as in 0:4095, or 12-bit for the same; a negative LOW"
        f" needs a =, as in --value-range=-1024:3071 (default: {default}; 8-bit images keep 0:255)",
    )


def add_skipping(parser: argparse.ArgumentParser) -> None:
    """Add which images are left out: `--allow-bad`, `--exclude` and `--classes`."""
    parser.add_argument(
        "--allow-bad",
        metavar="SHARE",
        default=0.05,
        type=share,
        help="largest share of images that may be unreadable; they are skipped and listed (default: 0.05)",
    )
    parser.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        type=text,
        help="leave out files and folders, as in a .gitignore: '*.gif', thumbs/, '/2019/**/draft-*'; may be repeated",
    )
    parser.add_argument(
        "--classes",
        metavar="NAME,NAME",
        action="extend",
        default=[],
        type=name_list,
        help="take only the images of these classes, as in cat,dog; a name with a comma stands in quotes",
    )


def require_data(*given: str | tuple[str, ...] | None) -> None:
    """Raise InputError for data that are not there, before anything slow is imported."""
    from smidgen.data.datasets import DATASETS, find_data

    for data in given:
        if data is not None and data not in DATASETS:
            find_data(data)
