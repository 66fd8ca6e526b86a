"""`smidgen simulate`: evidence files from a collection whose classes are known, to try methods with."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import printable, progress
from smidgen.cli.data import add_data, add_skipping, require_data
from smidgen.cli.files import require_new_folder
from smidgen.cli.parsing import as_name_list, one_of, share, text, whole_number, whole_range
from smidgen.errors import InputError
from smidgen.evidence.kinds import kind_of

if TYPE_CHECKING:
    from smidgen.data.datasets import Dataset
    from smidgen.evidence.simulation import Simulation

COMPOSITIONS = ("even", "random")
DEFAULT_BAGS = 2000
_ABOUT_BAGS = ("ucc", "bag_size", "composition", "disjoint", "counts", "proportions", "class_counts", "presence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    parser.add_argument("--out", metavar="DIR", type=text, required=True, help="the output folder")
    bags = parser.add_argument_group("bags")
    bags.add_argument(
        "--bags",
        metavar="N",
        type=whole_number(1),
        help=f"number of bags, spread evenly over the counts (default: {DEFAULT_BAGS:,}, if another option needs bags)",
    )
    bags.add_argument(
        "--ucc", metavar="A-B", type=whole_range(1), help="how many different classes a bag holds (default: 1-4)"
    )
    bags.add_argument(
        "--bag-size", metavar="A-B", type=whole_range(1), help="images in a bag: a number or a range (default: 32)"
    )
    bags.add_argument(
        "--composition",
        metavar="HOW",
        type=one_of("composition", COMPOSITIONS),
        help="even: equal class proportions; random: uniformly random proportions (default: even)",
    )
    bags.add_argument("--disjoint", action="store_true", help="no image is in two bags")
    statements = parser.add_argument_group("which statements to write about the bags (default: --counts)")
    statements.add_argument("--counts", action="store_true", help="how many different classes each bag holds")
    shares = statements.add_mutually_exclusive_group()
    shares.add_argument("--proportions", action="store_true", help="the share of each class")
    shares.add_argument("--class-counts", action="store_true", help="the number of images of each class")
    statements.add_argument(
        "--presence",
        metavar="N",
        nargs="?",
        const=0,
        type=whole_number(1),
        help="whether each class is present; with N, for only N classes per bag, half of them present",
    )
    images = parser.add_argument_group("single images")
    labels = images.add_mutually_exclusive_group()
    labels.add_argument("--labels-per-class", metavar="N", type=whole_number(1), help="label N images per class")
    labels.add_argument("--label-fraction", metavar="SHARE", type=share, help="label this fraction of the images")
    images.add_argument(
        "--partial", metavar="N", type=whole_number(1), help="candidate sets of N classes per image, one of them right"
    )
    images.add_argument(
        "--partial-fraction", metavar="SHARE", type=share, help="… for this fraction of the images (default: 1)"
    )
    images.add_argument("--pairs", metavar="N", type=whole_number(1), help="pairs, half of them of the same class")
    parser.add_argument(
        "--wrong", metavar="RATE", type=share, default=0.0, help="fraction of wrong statements (default: 0)"
    )
    parser.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="default: 0")
    add_skipping(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and results")


def run(args: argparse.Namespace) -> int:
    """Write the files and summarise them."""
    out = Path(args.out)
    require_new_folder(out)
    require_data(args.data)
    with progress(quiet=args.quiet) as console:
        import numpy as np

        from smidgen.data.datasets import open_splits
        from smidgen.evidence.simulation import simulate
        from smidgen.files import appearing_folder

        _settings(args, n_classes=1)  # refuses what cannot be, before images are read
        train, _ = open_splits(
            args.data,
            allow_bad=args.allow_bad,
            exclude=args.exclude,
            classes=args.classes,
            progress=console.of("read images"),
        )
        settings, classes = _settings(args, n_classes=len(train.class_names)), _known_classes(train)
        evidence, notes = simulate(
            settings,
            classes,
            ids=train.ids,
            class_names=train.class_names,
            generator=np.random.default_rng(args.seed),
        )
        with appearing_folder(out) as building:
            written = {kind: str(out / path.name) for kind, path in evidence.to_files(building).items()}
    _show(args, written, _sizes(evidence.sizes()), list(notes))
    return 0


def _settings(args: argparse.Namespace, *, n_classes: int) -> Simulation:
    """Return what to make; options about bags imply bags, and counts are written unless other statements are."""
    from smidgen.evidence.simulation import Simulation

    about_bags = any(getattr(args, name) not in (None, False) for name in _ABOUT_BAGS)
    n_bags = args.bags or (DEFAULT_BAGS if about_bags else 0)
    if not (n_bags or args.labels_per_class or args.label_fraction or args.pairs or args.partial):
        raise InputError(
            "Nothing was asked for: pass `--bags N`, `--labels-per-class N`, `--label-fraction SHARE`,"
            " `--partial N` or `--pairs N`."
        )
    presence = 0 if args.presence is None else min(args.presence or n_classes, n_classes)
    return Simulation(
        n_bags=n_bags,
        ucc=args.ucc or (1, 4),
        bag_size=args.bag_size or 32,
        composition=args.composition or "even",
        disjoint=args.disjoint,
        counts=args.counts or not (args.proportions or args.class_counts or presence),
        proportions=args.proportions,
        class_counts=args.class_counts,
        presence=presence,
        labels_per_class=args.labels_per_class or 0,
        label_fraction=args.label_fraction or 0.0,
        pairs=args.pairs or 0,
        partial=args.partial or 0,
        partial_fraction=1.0 if args.partial_fraction is None else args.partial_fraction,
        wrong=args.wrong,
    )


def _known_classes(train: Dataset) -> Any:
    if train.classes is None:
        raise InputError(
            f"Evidence is simulated from images whose classes are known, and those of {train.name!r} are not: give a"
            " named dataset, a folder per class, or a manifest with a label column."
        )
    return train.classes


def _sizes(sizes: dict[str, int]) -> dict[str, int]:
    """Return the sizes by the names of the files: class counts are in `proportions.csv`."""
    return {"proportions" if kind == "class_counts" else kind: n for kind, n in sizes.items()}


def _show(args: argparse.Namespace, written: dict[str, str], sizes: dict[str, int], notes: list[str]) -> None:
    if args.json:
        print(json.dumps({"evidence": args.out, "files": written, "sizes": sizes, "notes": notes}, indent=2))
        return
    for kind, path in written.items():
        about = kind_of(kind).about
        print(printable(f"{path}  {sizes[kind]:,} {about}"))
    for note in notes:
        print(printable(f"note: {note}"))
    part = [word for pattern in args.exclude for word in ("--exclude", pattern)]
    part += ["--classes", as_name_list(args.classes)] if args.classes else []
    print(printable(f"To use it: {shlex.join(['smidgen', 'fit', args.data, *part, '--evidence', args.out])}"))
