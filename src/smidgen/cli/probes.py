"""The probes of `smidgen eval --probes`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, printable, progress
from smidgen.cli.parsing import whole_number
from smidgen.cli.predict import open_run
from smidgen.errors import InputError

if TYPE_CHECKING:
    from smidgen.evaluation.stage_probes import StageScores

_LEAST = 10  # images that a probe can learn from


def add_probes(parser: argparse.ArgumentParser) -> None:
    """Add `--probes` and `--probe-images`."""
    parser.add_argument(
        "--probes",
        action="store_true",
        help="also train linear classifiers, weighted k-NN and logistic regression on the net's features, stage after"
        " stage, beside those of a random net and of the pixels: they learn from training images of known class, and"
        " are scored on test images or, without such, on a fifth of the others; the run's own are kept in"
        " tables/probes.csv and shown in the report",
    )
    parser.add_argument(
        "--probe-images",
        metavar="N",
        type=whole_number(_LEAST),
        help="the most images that --probes learn from, and are scored on, drawn at random (default: 10000)",
    )


def check_probes(args: argparse.Namespace) -> None:
    """Raise InputError for a number of images without probes."""
    if args.probe_images is not None and not args.probes:
        raise InputError("`--probe-images` is about `--probes`: give both, or leave it out.")


def probe(args: argparse.Namespace, *, device: str) -> list[dict[str, Any]]:
    """Return the rows of the probes of a run, on its own images or on those given."""
    from smidgen.cli.listener import ConsoleListener
    from smidgen.evaluation.stage_probes import IMAGES
    from smidgen.probing import as_row, probe_run

    most = args.probe_images or IMAGES
    with progress(quiet=args.quiet or args.json) as console:
        if args.data is None:
            scores = probe_run(args.run, images=most, device=device, listener=ConsoleListener(console))
        else:
            scores = _of_new_images(args, console, most=most, device=device)
    return [{name: None if value == "" else value for name, value in as_row(each).items()} for each in scores]


def _of_new_images(args: argparse.Namespace, console: Progress, *, most: int, device: str) -> list[StageScores]:
    from smidgen.cli.listener import ConsoleListener
    from smidgen.probing import probe
    from smidgen.run_folder import RunFolder

    everything = argparse.Namespace(**{**vars(args), "split": "all"})
    model, dataset = open_run(everything, console, device=device)
    datasets = {dataset.split_of(int(rows[0])): dataset.subset(rows) for rows in dataset.rows_by_split()}
    both = [datasets[split] for split in ("train", "test") if split in datasets]
    seed = RunFolder.open(args.run).setting("seed")
    chosen = both if len(both) == 2 else [dataset]
    return probe(model, chosen, images=most, seed=seed, listener=ConsoleListener(console))


def shown_probes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of probes."""
    from smidgen.cli.list import table
    from smidgen.probing import KNN_COLUMNS
    from smidgen.reports.tables import percent

    names = ("linear", *KNN_COLUMNS, "logistic")
    header = ("net", "stage", "features", *(name.replace("knn_", "k-NN ") for name in names), "seconds")
    cells = [
        (
            row["net"],
            printable(row["stage"] or ""),
            f"{row['features']:,}",
            *("" if row[name] is None else percent(row[name]) for name in names),
            f"{row['seconds']:.1f}",
        )
        for row in rows
    ]
    lines = table([header, *cells], right=range(2, len(header))).splitlines()
    return ["probes: accuracy of classifiers on frozen features", "", *(f"  {line}" for line in lines)]
