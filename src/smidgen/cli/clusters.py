"""`smidgen clusters`: how many clusters a collection has: a scored curve, the best number, and a range."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.console import printable, progress
from smidgen.cli.data import DATA_HELP, add_reading, add_several_data, require_data
from smidgen.cli.evidence import add_evidence, add_min_confidence, evidence_paths
from smidgen.cli.machine import add_machine
from smidgen.cli.parsing import text, whole_number
from smidgen.errors import InputError

if TYPE_CHECKING:
    from smidgen.inspection.number import Count

_BAR = 40  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "`smidgen fit DATA --clusters auto` fits with the number that this finds."
    add_several_data(parser, DATA_HELP)
    parser.add_argument(
        "--most",
        metavar="N",
        type=whole_number(2, 1000),
        default=200,
        help="the largest number to try, at most 250 (default: 200)",
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        type=text,
        help="compare images by this encoder's embeddings, see `smidgen list encoders` (default: lite2 for photographs,"
        " pixels for small grey images)",
    )
    parser.add_argument("--weights", metavar="FILE", type=text, help="a state dict for the network named by --encoder")
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="default: 0")
    add_evidence(parser)
    add_min_confidence(parser)
    add_reading(parser.add_argument_group("how images are read"))  # type: ignore[arg-type]
    where = parser.add_argument_group("output")
    where.add_argument(
        "--out", metavar="DIR", type=text, help="write the curve (CSV, JSON, SVG) and the tree of merges to a folder"
    )
    where.add_argument("--overwrite", action="store_true", help="replace these files if they are there")
    where.add_argument("--json", action="store_true", help="print only one JSON object on stdout")
    where.add_argument("--quiet", action="store_true", help="show no progress")
    add_machine(parser.add_argument_group("hardware"))


def run(args: argparse.Namespace) -> int:
    """Print the best number, the range and the curve."""
    require_data(args.data)
    paths = evidence_paths(args)
    with progress(quiet=args.quiet) as console:
        from smidgen.cli.listener import ConsoleListener
        from smidgen.evidence.evidence import Evidence
        from smidgen.inspection.number import count_clusters, write_count

        _require_free(args.out, overwrite=args.overwrite)
        found = count_clusters(
            args.data,
            evidence=Evidence.from_files(min_confidence=args.min_confidence, **paths) if paths else None,
            most=args.most,
            seed=args.seed,
            encoder=args.encoder,
            weights=args.weights,
            size=args.size,
            resize=args.resize,
            value_range=args.value_range,
            allow_bad=args.allow_bad,
            exclude=tuple(args.exclude),
            classes=tuple(args.classes),
            keep_contradictory_pairs=args.keep_contradictory_pairs,
            device=args.device,
            threads=args.threads,
            listener=ConsoleListener(console),
        )
    if args.out is not None:
        write_count(found, args.out)
    if args.json:
        print(json.dumps(found.summary(), indent=2))
    else:
        print("\n".join(map(printable, _shown(found, args.out))))
    return 0


def _require_free(folder: str | None, *, overwrite: bool) -> None:
    """Raise InputError if a file that would be written stands there already, or the folder is a file."""
    from smidgen.inspection.number import FILES

    if folder is None:
        return
    if Path(folder).exists() and not Path(folder).is_dir():
        raise InputError(f"{folder!r} is a file: --out wants a folder.")
    there = [name for name in FILES if (Path(folder) / name).exists()]
    if there and not overwrite:
        raise InputError(f"{folder!r} holds {there[0]!r} already: choose another --out, or pass --overwrite.")


def _shown(found: Count, out: str | None) -> list[str]:
    curve = found.number.curve
    by = "as they are" if found.images.holds_vectors else "by their pixels"
    by = f"by the embeddings of {found.encoder!r}" if found.encoder else by
    lines = [found.number.in_words(), f"{len(found.images):,} images, compared {by}", "", "clusters   score"]
    low, high = float(curve.score.min()), float(curve.score.max())
    for number, score, within in zip(curve.n_clusters, curve.score, curve.within, strict=True):
        bar = "▪" * round(_BAR * (score - low) / max(high - low, 1e-9))
        note = "  best" if number == curve.best else "  within one standard error" if within else ""
        lines.append(f"{number:>8}  {score:>6.3f}  {bar}{note}")
    return [*lines, *([f"written to {out!r}"] if out is not None else [])]
