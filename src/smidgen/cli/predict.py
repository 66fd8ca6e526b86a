"""`smidgen predict`: new images in, their clusters and confidences out."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, progress, tell
from smidgen.cli.data import SPLITS, add_allow_bad, add_data, require_data
from smidgen.cli.files import require_new_file
from smidgen.cli.parsing import one_of, text

if TYPE_CHECKING:
    import numpy as np

    from smidgen.data.datasets import Dataset
    from smidgen.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", type=text, help="the run folder, or its model folder")
    add_data(parser, "images, as for `smidgen fit`")
    parser.add_argument("--out", metavar="FILE", type=text, help="the CSV file to write (default: to stdout)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument(
        "--split",
        metavar="NAME",
        default="all",
        type=one_of("split", SPLITS),
        help="train, test or all, for images that have splits (default: all)",
    )
    add_allow_bad(parser)
    parser.add_argument("--device", metavar="NAME", type=text, default="cpu", help="default: cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and results")


def run(args: argparse.Namespace) -> int:
    """Write a table with a row for each image."""
    out = Path(args.out) if args.out else None
    if out is not None:
        require_new_file(out, overwrite=args.overwrite)
    require_run(args.run)
    require_data(args.data)
    with progress(quiet=args.quiet) as console:
        model, dataset, assignments = predict(args, console)
    columns: dict[str, list[Any]] = {
        "image": list(dataset.ids),
        "cluster": [model.cluster_names[k] for k in assignments.argmax(1)],
        "confidence": [f"{c:.6f}" for c in assignments.max(1)],
    }
    skipped = _report_skipped(dataset, out, quiet=args.quiet)
    sizes = Counter(columns["cluster"])
    if out is not None:
        from smidgen.runs import write_csv

        write_csv(out, columns)
    if args.json:
        found = {"n_images": len(dataset), "skipped": skipped, "clusters": {n: sizes[n] for n in model.cluster_names}}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        print(json.dumps(found | ({"out": str(out)} if out else {"images": rows}), indent=2))
    elif out is None:
        _print_csv(columns)
    elif not args.quiet:
        print(f"{len(dataset):,} images in {len(sizes)} clusters: {out}")
    return 0


def require_run(run: str) -> None:
    """Raise RunError if there is no trained model, before torch is imported."""
    from smidgen.errors import RunError

    if not any((folder / "model.json").is_file() for folder in (Path(run) / "model", Path(run))):
        raise RunError(f"{run!r} holds no trained model: is it a run folder that has finished?")


def predict(args: argparse.Namespace, console: Progress) -> tuple[Model, Dataset, np.ndarray]:
    """Return the model in `args.run`, the images of `args.data` as it wants them, and their assignments."""
    from smidgen.data.datasets import open_dataset
    from smidgen.model import Model

    model = Model.load(args.run, device=args.device)
    wanted = model.preprocessing
    dataset = open_dataset(
        args.data,
        split=args.split,
        size=wanted.size,
        channels=wanted.channels,
        resize=wanted.resize,  # type: ignore[arg-type]
        allow_bad=args.allow_bad,
        progress=console.of("read images"),
    )
    return model, dataset, model.assign(dataset.images, progress=console.of("assign"))


def _report_skipped(dataset: Dataset, out: Path | None, *, quiet: bool) -> list[dict[str, str]]:
    """List the unreadable images beside the table, and on stderr the first of them."""
    from smidgen.runs import write_csv

    skipped = [{"image": bad.id, "reason": bad.reason} for bad in dataset.skipped]
    if not skipped:
        return []
    where = ""
    if out is not None:
        path = out.with_name(f"{out.name}.bad.csv")
        write_csv(path, {name: [bad[name] for bad in skipped] for name in ("image", "reason")})
        where = f", all in {path}"
    if not quiet:
        tell(f"{len(skipped)} images could not be read{where}:")
        for bad in skipped[:5]:
            tell(f"  {bad['image']}: {bad['reason']}")
        if len(skipped) > 5:
            tell("  …")
    return skipped


def _print_csv(columns: dict[str, list[Any]]) -> None:
    from smidgen.runs import csv_text

    sys.stdout.write(csv_text(columns))
