"""`smidgen sweep`: how accuracy falls as labels become fewer, for several methods, in one plot and table."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from smidgen.cli.data import add_data, add_reading
from smidgen.cli.fit import PRECISIONS, default_out
from smidgen.cli.machine import add_machine
from smidgen.cli.parsing import clusters, one_of, seconds, setting, share, text, whole_number
from smidgen.errors import InputError
from smidgen.methods import NAMES

LABELS_PER_CLASS = (0, 1, 4, 10, 60, 600, None)
"""What is swept unless it is said: None stands for the labels of all images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Every image's class must be known: labels are hidden but for those of each amount."
    add_data(parser)
    what = parser.add_argument_group("methods and labels")
    what.add_argument(
        "--method",
        metavar="NAME",
        dest="methods",
        nargs="+",
        default=["fusion", "logistic-regression"],
        type=one_of("method", NAMES),
        help=f"{', '.join(NAMES)} (default: fusion logistic-regression)",
    )
    what.add_argument(
        "--labels-per-class",
        metavar="N",
        nargs="+",
        type=_amount,
        help="amounts of labels, all for those of all images (default: 0 1 4 10 60 600 all)",
    )
    what.add_argument(
        "--label-fraction", metavar="SHARE", nargs="+", default=[], type=share, help="the same as shares of all images"
    )
    what.add_argument(
        "--seed", metavar="N", dest="seeds", nargs="+", type=whole_number(0), default=[0], help="default: 0"
    )
    add_what_is_fitted(what)
    add_reading(parser.add_argument_group("how images are read"))  # type: ignore[arg-type]
    add_running(parser)


def add_what_is_fitted(what: argparse._ArgumentGroup) -> None:
    """Add the settings that all fits of a sweep share."""
    what.add_argument(
        "--clusters", metavar="N", type=clusters, help="number of clusters, or auto (default: the number of classes)"
    )
    what.add_argument("--encoder", metavar="NAME", type=text, help="the network that computes embeddings")
    what.add_argument("--steps", metavar="N", type=whole_number(1), help="short for --set steps=N")
    what.add_argument("--max-seconds", metavar="N", type=seconds, help="time limit of each training")
    what.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="settings",
        action="append",
        default=[],
        type=setting,
        help="an option of all methods that have it, or METHOD.NAME=VALUE of one; may be repeated",
    )
    what.add_argument("--test", metavar="DATA", type=text, help="images for evaluation only, not for training")


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add where the runs go and what they run on."""
    where = parser.add_argument_group("output")
    where.add_argument("--out", metavar="RUN", type=text, help="a folder for the runs (default: runs/DATA-VERB)")
    where.add_argument("--resume", action="store_true", help="skip finished runs, continue the others")
    where.add_argument("--overwrite", action="store_true", help="replace the runs that are in the folder")
    where.add_argument("--dry-run", action="store_true", help="open the images and print what would run; write nothing")
    where.add_argument("--json", action="store_true", help="print only one JSON object on stdout")
    where.add_argument("--quiet", action="store_true", help="print only errors and the output of --json")
    machine = parser.add_argument_group("hardware")
    add_machine(machine)
    machine.add_argument(
        "--precision", metavar="NAME", default="auto", type=one_of("precision", PRECISIONS), help="(default: auto)"
    )
    machine.add_argument(
        "--jobs",
        metavar="N",
        type=whole_number(1, 256),
        default=1,
        help="how many fits run at once, each with its share of the threads (default: 1)",
    )


def _amount(given: str) -> int | None:
    if given == "all":
        return None
    try:
        return whole_number(0)(given)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; or all") from None


def run(args: argparse.Namespace) -> int:
    """Run the sweep, and print its table."""
    from smidgen.experiments.sweeps import label_levels

    per_class = args.labels_per_class
    if per_class is None:
        per_class = [] if args.label_fraction else LABELS_PER_CLASS
    axis = "labels per class" if per_class else "share of labelled images"
    return run_levels(args, label_levels(per_class, args.label_fraction), axis=axis, verb="sweep")


def run_levels(args: argparse.Namespace, levels: Any, *, axis: str, verb: str) -> int:
    """Run methods at levels of supervision, see `experiments.sweeps`, and print their table."""
    from smidgen.cli import run_variants
    from smidgen.experiments.sweeps import Sweep, variants_of

    for name, values in (("--seed", args.seeds), ("--method", args.methods)):
        if len(set(values)) < len(values):
            raise InputError(f"`{name}` must be different ones, got {' '.join(map(str, values))}.")
    out = Path(args.out) if args.out else default_out(args.data, verb)
    sweep = Sweep(out.name, _settings(args), args.methods, levels, axis, args.seeds, _options(args))
    variants, grid = variants_of(sweep)
    args.out, args.seed, args.variants = str(out), None, None
    args.device = None if args.device == "auto" else args.device
    return run_variants.run(variants, args, grid=grid)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of all fits, as a recipe has them: those that were given."""
    given = {
        "data": args.data,
        "n_clusters": _class_count(args) if args.clusters is None else args.clusters,
        "test": args.test,
        "size": args.size,
        "resize": args.resize,
        "value_range": args.value_range,
        "encoder": args.encoder,
        "max_seconds": args.max_seconds,
        "allow_bad": args.allow_bad,
        "exclude": list(args.exclude),
        "classes": list(args.classes),
        "precision": args.precision,
        "issues": False,
    }
    return {name: value for name, value in given.items() if value is not None and value != []}


def _class_count(args: argparse.Namespace) -> int | None:
    """Return how many classes the data have, so that all fits look for as many; None if the data say so themselves."""
    from smidgen.data.datasets import DATASETS, list_classes

    if args.data in DATASETS:
        return None
    return len(list_classes(args.data, exclude=args.exclude, classes=args.classes)) or None


def _options(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the options of each method by its name, under "" those for all that have them."""
    from smidgen.methods import has_option

    options: dict[str, dict[str, Any]] = defaultdict(dict)
    given = [*args.settings, *([("steps", args.steps)] if args.steps is not None else [])]
    for name, value in given:
        method, _, option = name.rpartition(".")
        if method and method not in args.methods:
            raise InputError(f"`--set {name}`: {method!r} is none of the methods that run, {', '.join(args.methods)}.")
        if not method and not any(has_option(each, option, value) for each in args.methods):
            what = f"a preset {value!r}" if option == "preset" else f"an option {option!r}"
            raise InputError(f"`--set {name}`: none of {', '.join(args.methods)} has {what}.")
        if option in options[method]:
            raise InputError(f"The option {name!r} is set more than once: give it one value.")
        options[method][option] = value
    return dict(options)
