"""`smidgen eval`: how well clusters agree with known classes, on a run's own images or on new ones."""

from __future__ import annotations

import argparse
import json
from typing import Any

from smidgen.cli.audit import add_audit, audit
from smidgen.cli.console import printable, progress
from smidgen.cli.data import SPLITS, add_several_data, add_skipping, add_value_range, require_data
from smidgen.cli.machine import add_machine, machine
from smidgen.cli.parsing import one_of, text
from smidgen.cli.predict import open_run, require_run
from smidgen.cli.probes import add_probes, check_probes, probe, shown_probes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", type=text, help="the run folder")
    add_several_data(parser, "new images of known classes (default: the run's own)", optional=True)
    parser.add_argument(
        "--split",
        metavar="NAME",
        default=None,
        type=one_of("split", SPLITS),
        help="train, test or all (default: each split of the run; of new images: test of a named dataset, else all)",
    )
    add_probes(parser)
    add_audit(parser)
    add_value_range(parser, "that of the images that the run was trained on")
    add_skipping(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="print only errors and results")


def run(args: argparse.Namespace) -> int:
    """Score, and print what came out."""
    check_probes(args)
    if args.audit is not None:
        return audit(args)
    with machine(args) as device:
        results = _own(args) if args.data is None else _new(args, device=device)
        probes = probe(args, device=device) if args.probes else []
    if args.json:
        found = {**results, "probes": probes} if args.probes else results
        print(json.dumps({"run": args.run, "data": args.data, **found}, indent=2))
    else:
        shown = [_shown(split, result) for split, result in results.items()]
        shown += [shown_probes(probes)] if args.probes else []
        print("\n\n".join("\n".join(lines) for lines in shown))
    return 0


def _own(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    from smidgen.scoring import score_run

    return score_run(args.run, split=args.split)


def _new(args: argparse.Namespace, *, device: str) -> dict[str, dict[str, Any]]:
    from smidgen.cli.listener import ConsoleListener
    from smidgen.data.datasets import DATASETS
    from smidgen.run_folder import RunFolder
    from smidgen.scoring import score_images

    RunFolder.open(args.run)
    require_run(args.run)
    require_data(args.data)
    args.split = args.split or ("test" if args.data in DATASETS else "all")
    with progress(quiet=args.quiet or args.json) as console:
        model, dataset = open_run(args, console, device=device)
        return score_images(args.run, model, dataset, listener=ConsoleListener(console))


_EXPLAINED = {
    "accuracy": "best one-to-one match on these images",
    "mapped_accuracy": "clusters matched to classes on the training images",
    "calibration_error": "mean distance of confidence from the share that is right",
    "brier": "mean square of confidence less 1 if right, 0 if not",
}
_PLAIN = ("nmi", "ami", "ari", "calibration_error", "brier")
"""Scores that are numbers, not shares of images."""


def _shown(split: str, scores: dict[str, Any]) -> list[str]:
    from smidgen.cli.list import table
    from smidgen.reports.tables import percent
    from smidgen.scoring import OF_BAGS

    lines = [f"{split}: {scores['n_scored']:,} images of known class"]
    shares = [name for name in _EXPLAINED if name not in _PLAIN]
    for name in (*shares, "nmi", "ami", "ari", "purity", "calibration_error", "brier", *OF_BAGS):
        if name in scores:
            value = f"{scores[name]:.3f}" if name in _PLAIN else percent(scores[name])
            title = name.upper() if len(name) == 3 else name.replace("_", " ")
            lines.append(f"  {title:<21}{value:>8}   {(_EXPLAINED | OF_BAGS).get(name, '')}".rstrip())
    header = ("cluster", "images", "confidence", "most are", "purity", "stands for")
    rows = [
        (
            printable(row["cluster"]),
            f"{row['size']:,}",
            "" if row.get("confidence") is None else f"{row['confidence']:.2f}",
            printable(row["most"] or ""),
            "" if row["purity"] is None else percent(row["purity"]),
            printable(row["matched"] or ""),
        )
        for row in scores["clusters"]
    ]
    return [*lines, "", *(f"  {line}" for line in table([header, *rows], right=(1, 2, 4)).splitlines())]
