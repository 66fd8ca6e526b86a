"""Options for evidence files, shared by all commands that take them."""

from __future__ import annotations

import argparse
from pathlib import Path

from smidgen.cli.parsing import share, text
from smidgen.errors import InputError
from smidgen.evidence.kinds import KINDS, kind_of


def add_evidence(parser: argparse.ArgumentParser) -> None:
    """Add a group with an option for each file of evidence, and `--evidence` for a folder of them."""
    group = parser.add_argument_group("evidence about the training images (CSV, JSONL or Parquet, any combination)")
    for kind, columns in KINDS.items():
        group.add_argument(f"--{kind}", metavar="FILE", type=text, help=columns)
    group.add_argument(
        "--evidence", metavar="DIR", type=text, help="a folder with any of these: labels.csv, bags.csv, counts.csv, …"
    )
    group.add_argument(
        "--keep-contradictory-pairs",
        action="store_true",
        help="accept pairs that contradict each other; a few wrong ones do little harm, but are worth correcting",
    )


def add_min_confidence(parser: argparse.ArgumentParser) -> None:
    """Add `--min-confidence`, for labels that another run made."""
    parser.add_argument(
        "--min-confidence",
        metavar="SHARE",
        type=share,
        help="of --labels RUN/assignments.csv, whose clusters become labels to train another net with: take those of"
        " this confidence or more (default: all)",
    )


def evidence_paths(args: argparse.Namespace) -> dict[str, str]:
    """Return kind → path as given; a file given by its own option stands in for that in the folder.

    Raises InputError for a folder without evidence, a missing file, and evidence about bags without `--bags`.
    """
    from smidgen.evidence.files import files_in

    folder = {} if args.evidence is None else {kind: str(path) for kind, path in files_in(args.evidence).items()}
    paths = folder | {kind: getattr(args, kind) for kind in KINDS if getattr(args, kind) is not None}
    for kind, path in paths.items():
        if not Path(path).is_file():
            raise InputError(f"`--{kind}` {path!r} is not a file: give the path of a table ({KINDS[kind]}).")
        if kind != "bags" and kind_of(kind).about == "bags" and "bags" not in paths:
            raise InputError(f"`--{kind}` is evidence about bags: pass `--bags FILE` too, which lists their images.")
    return paths
