"""`smidgen ladder`: accuracy against the effort of annotation: nothing, counts, proportions, labels, all labels."""

from __future__ import annotations

import argparse

from smidgen.cli.data import add_data, add_reading
from smidgen.cli.parsing import one_of, whole_number
from smidgen.cli.sweep import add_running, add_what_is_fitted, run_levels
from smidgen.methods import NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Every image's class must be known: the evidence of each rung is simulated from the classes."
    add_data(parser)
    what = parser.add_argument_group("methods and evidence")
    what.add_argument(
        "--method",
        metavar="NAME",
        dest="methods",
        nargs="+",
        default=["fusion"],
        type=one_of("method", NAMES),
        help=f"{', '.join(NAMES)} (default: fusion)",
    )
    what.add_argument(
        "--bags",
        metavar="N",
        type=whole_number(1),
        default=400,
        help="bags of which counts, then proportions, are known (default: 400)",
    )
    what.add_argument("--bag-size", metavar="N", type=whole_number(1), default=12, help="images in a bag (default: 12)")
    what.add_argument(
        "--ucc",
        metavar="N",
        type=whole_number(1),
        default=3,
        help="most different classes in a bag (default: 3)",
    )
    what.add_argument(
        "--labels-per-class",
        metavar="N",
        nargs="+",
        type=whole_number(1),
        default=[1, 5, 20],
        help="rungs of labels (default: 1 5 20)",
    )
    what.add_argument(
        "--seed", metavar="N", dest="seeds", nargs="+", type=whole_number(0), default=[0], help="default: 0"
    )
    add_what_is_fitted(what)
    add_reading(parser.add_argument_group("how images are read"))  # type: ignore[arg-type]
    add_running(parser)


def run(args: argparse.Namespace) -> int:
    """Run the rungs, and print their table."""
    from smidgen.experiments.sweeps import ladder_levels

    levels = ladder_levels(bags=args.bags, bag_size=args.bag_size, ucc=args.ucc, labels_per_class=args.labels_per_class)
    return run_levels(args, levels, axis="what is known", verb="ladder")
