"""The options that say which images, and how they are read: the same for every verb that opens a collection."""

from __future__ import annotations

import argparse

from smidgen.cli.parsing import one_of, share, text, value_range, whole_number

RESIZE = ("crop", "pad", "squash")
SPLITS = ("train", "test", "all")

DATA_HELP = (
    "a folder of images (flat, nested, one folder per class, or train/ and test/), a .zip or .tar of them, a manifest"
    " (.csv, .parquet, .jsonl), an .npz, or a name from `smidgen list datasets`; a relative path begins where you are"
    " or in $SMIDGEN_DATA"
)


def add_data(parser: argparse.ArgumentParser, help: str = DATA_HELP, *, optional: bool = False) -> None:
    """Add the argument DATA."""
    parser.add_argument("data", metavar="DATA", type=text, help=help, nargs="?" if optional else None)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how images become arrays: `--size`, `--resize`, `--value-range`, `--allow-bad`."""
    parser.add_argument(
        "--size",
        metavar="PX",
        type=whole_number(1, 4096),
        help="side of the squares that images are made into (default: their own if all share one of at most 64 pixels,"
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
    add_allow_bad(parser)


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


def add_allow_bad(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-bad`."""
    parser.add_argument(
        "--allow-bad",
        metavar="SHARE",
        default=0.05,
        type=share,
        help="largest share of images that may be unreadable; they are skipped and listed (default: 0.05)",
    )


def require_data(*given: str | None) -> None:
    """Raise InputError for data that are not there, before anything slow is imported."""
    from smidgen.data.datasets import DATASETS, find_data

    for data in given:
        if data is not None and data not in DATASETS:
            find_data(data)
