"""`smidgen predict`: clusters of new images, and unique counts and proportions of new bags."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, print_stderr, progress, with_option_names
from smidgen.cli.data import SPLITS, add_several_data, add_skipping, add_value_range, require_data
from smidgen.cli.files import require_new_file
from smidgen.cli.machine import add_machine, machine
from smidgen.cli.parsing import one_of, text
from smidgen.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from smidgen.data.datasets import Dataset
    from smidgen.evidence.evidence import Evidence
    from smidgen.evidence.resolved import Resolved
    from smidgen.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", type=text, help="the run folder, or its model folder")
    add_several_data(parser, "images, as for `smidgen fit`")
    parser.add_argument(
        "--bags",
        metavar="FILE",
        type=text,
        help="a CSV file bag,image: predict the unique cluster count of each bag (ucc), with the probability of"
        " every count, the share of each cluster and the number of its images that is to be expected; and what the head"
        " for bags of `ucc` or `rcc` says",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=text,
        help="the CSV file to write, a row for each image; with --bags, F.bags.csv beside F.csv has a row for each bag"
        " (default: to stdout, of bags alone where there are any)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--split",
        metavar="NAME",
        default="all",
        type=one_of("split", SPLITS),
        help="train, test or all, for images that have splits (default: all)",
    )
    add_value_range(parser, "that of the images that the run was trained on")
    add_skipping(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and results")


def run(args: argparse.Namespace) -> int:
    """Write a table with a row for each image, and one with a row for each bag if bags are given."""
    out = Path(args.out) if args.out else None
    bags_out = out.with_name(f"{out.stem}.bags.csv") if out is not None and args.bags else None
    for path in (out, bags_out):
        if path is not None:
            require_new_file(path, overwrite=args.overwrite)
    require_run(args.run)
    require_data(args.data)
    with progress(quiet=args.quiet) as console, machine(args) as device:
        given = None if args.bags is None else read_bags(args.bags)
        model, dataset = open_run(args, console, device=device)
        bags = None if given is None else _resolve(given, dataset)
        if bags is None:
            of_bags, assign = None, console.of("assign")
            assignments = model.assign(dataset.images, groups=dataset.rows_by_split(), progress=assign)
        else:
            assignments, of_bags = _predict_bags(model, dataset, bags, console)
    if given is not None and of_bags is not None:
        _tell_of_lost(given, of_bags, args)
    columns: dict[str, list[Any]] = {
        "image": list(dataset.ids),
        "cluster": [model.cluster_names[k] for k in assignments.argmax(1)],
        "confidence": [f"{c:.6f}" for c in assignments.max(1)],
    }
    skipped = _report_skipped(dataset, out, quiet=args.quiet)
    sizes = Counter(columns["cluster"])
    if out is not None:
        from smidgen.csv_tables import write_csv

        write_csv(out, columns)
        if bags_out is not None and of_bags is not None:
            write_csv(bags_out, of_bags)
    if args.json:
        found = {"n_images": len(dataset), "skipped": skipped, "clusters": {n: sizes[n] for n in model.cluster_names}}
        if of_bags is not None:
            found["n_bags"] = len(of_bags["bag"])
        found |= {"out": str(out)} if out else {"images": _rows(columns)}
        if of_bags is not None:
            found |= {"bags_out": str(bags_out)} if bags_out else {"bags": _rows(of_bags)}
        print(json.dumps(found, indent=2))
    elif out is None:
        _print_csv(columns if of_bags is None else of_bags)
    elif not args.quiet:
        print(f"{len(dataset):,} images in {len(sizes)} clusters: {out}")
        if of_bags is not None:
            print(f"{len(of_bags['bag']):,} bags: {bags_out}")
    return 0


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def require_run(run: str) -> None:
    """Raise RunError if there is no trained model, before torch is imported."""
    from smidgen.errors import RunError

    if not any((folder / "model.json").is_file() for folder in (Path(run) / "model", Path(run))):
        raise RunError(f"{run!r} holds no trained model: is it a run folder that has finished?")


def read_bags(path: str) -> Evidence:
    """Return the bags in a CSV file bag,image; raises InputError if it is missing, wrong or lists none."""
    from smidgen.evidence.evidence import Evidence

    evidence = Evidence.from_files(bags=path)
    if not evidence.bags:
        raise InputError(f"`--bags` {path!r} lists no bags: give a CSV file with a line bag,image for each image.")
    return evidence


def _resolve(bags: Evidence, dataset: Dataset) -> Resolved:
    """Return the bags over the images; those that could not be read are left out."""
    skipped = [bad.id for bad in dataset.skipped]
    return bags.resolve(dataset.ids, skipped=skipped, kind_of_images=f"images of {dataset.name!r}", data=dataset.name)


def _predict_bags(
    model: Model, dataset: Dataset, bags: Resolved, console: Progress
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Return the assignments of the images, and the table of bags."""
    from smidgen.evaluation.bag_methods import predict_bags_of

    outputs = model.assign_and_encode(dataset.images, groups=dataset.rows_by_split(), progress=console.of("assign"))
    found = predict_bags_of(model, outputs, bags, progress=console.of("bags"))
    return outputs[0], found.columns(model.cluster_names)


def _tell_of_lost(bags: Evidence, found: Mapping[str, Sequence[Any]], args: argparse.Namespace) -> None:
    """Report on stderr the bags with unreadable images."""
    left = dict(zip(found["bag"], found["n_images"], strict=True))
    before = Counter(name for name, _ in bags.bags)
    lost = [name for name, n in before.items() if left.get(name, 0) < n]
    gone = [name for name in lost if name not in left]
    if lost and not args.quiet:
        without = f"; {len(gone)} of them have none left and no row" if gone else ""
        print_stderr(f"{len(lost)} bags are predicted without their unreadable images, first {lost[0]!r}{without}.")


def open_run(args: argparse.Namespace, console: Progress, *, device: str) -> tuple[Model, Dataset]:
    """Return the model in `args.run` and the images of `args.data` as it wants them."""
    from smidgen.data.datasets import open_like
    from smidgen.model import Model

    model = Model.load(args.run, device=device)
    dataset = open_like(
        args.data,
        model.shape,
        split=args.split,
        resize=model.preprocessing.resize,
        value_range=args.value_range or model.preprocessing.value_range,
        allow_bad=args.allow_bad,
        exclude=args.exclude,
        classes=args.classes,
        progress=console.of("read images"),
    )
    for note in (*dataset.notes, *dataset.doubts):
        console.log(with_option_names(note))
    return model, dataset


def _report_skipped(dataset: Dataset, out: Path | None, *, quiet: bool) -> list[dict[str, str]]:
    """List the unreadable images beside the table, and on stderr the first of them."""
    from smidgen.csv_tables import write_csv

    skipped = [{"image": bad.id, "reason": bad.reason} for bad in dataset.skipped]
    if not skipped:
        return []
    where = ""
    if out is not None:
        path = out.with_name(f"{out.name}.bad.csv")
        write_csv(path, {name: [bad[name] for bad in skipped] for name in ("image", "reason")})
        where = f", all in {path}"
    if not quiet:
        print_stderr(f"{len(skipped)} images could not be read{where}:")
        for bad in skipped[:5]:
            print_stderr(f"  {bad['image']}: {bad['reason']}")
        if len(skipped) > 5:
            print_stderr("  …")
    return skipped


def _print_csv(columns: dict[str, list[Any]]) -> None:
    from smidgen.csv_tables import csv_text

    sys.stdout.write(csv_text(columns))
