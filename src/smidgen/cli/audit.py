"""The audit of `smidgen eval --audit`: random images to check by eye, and what their answers say of all."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.parsing import whole_number
from smidgen.errors import InputError

if TYPE_CHECKING:
    from smidgen.auditing import Audit


def add_audit(parser: argparse.ArgumentParser) -> None:
    """Add `--audit`."""
    parser.add_argument(
        "--audit",
        metavar="N",
        type=whole_number(1),
        help="instead: draw N random images of the run into RUN/audit.csv, to be checked by eye; write 1 (right) or 0"
        " into its column `right`, run the command again, and it prints the interval in which the share of right"
        " images lies",
    )


def audit(args: argparse.Namespace) -> int:
    """Draw images, or read the answers about those drawn before, and print what they say."""
    from smidgen.auditing import FILE, draw_audit, read_audit

    if args.data is not None or args.probes:
        raise InputError("`--audit` is about a run's own images only: leave out the other data and `--probes`.")
    path = Path(args.run) / FILE
    found = read_audit(args.run) if path.exists() else draw_audit(args.run, args.audit)
    if args.json:
        print(json.dumps({"run": args.run, "file": str(path), **dataclasses.asdict(found)}, indent=2))
    else:
        print(_in_words(found, path))
    return 0


def _in_words(found: Audit, path: Path) -> str:
    from smidgen.reports.tables import percent

    lines = []
    if found.interval is not None:
        low, high = map(percent, found.interval)
        lines.append(
            f"{found.right:,} of {found.checked:,} random images are right: {low[:-2]} to {high} of all images are"
            " (95 % interval)."
        )
    if left := found.images - found.checked:
        lines.append(
            f"{left:,} images wait in {str(path)!r}: write 1 (right) or 0 into the column `right`, and run this again."
        )
    return "\n".join(lines)
