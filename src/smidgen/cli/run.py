"""`smidgen run`: a recipe in, a run folder for each of its seeds out, and their mean and spread; of variants, too."""

from __future__ import annotations

import argparse

from smidgen.cli.parsing import text, whole_number
from smidgen.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        type=text,
        help="a TOML file, or a name in `smidgen list recipes`; it holds data, method, [options], [evidence] or"
        " [simulate], and seeds = [0, 1, 2]; [variants.NAME] for several configurations in one table",
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), nargs="+", help="run these seeds instead of the recipe's"
    )
    parser.add_argument(
        "--variant",
        metavar="NAME",
        dest="variants",
        action="append",
        type=text,
        help="run only this variant of the recipe; may be repeated",
    )
    where = parser.add_argument_group("output")
    where.add_argument("--out", metavar="RUN", type=text, help="a folder for the runs (default: runs/RECIPE)")
    where.add_argument("--resume", action="store_true", help="skip finished runs, continue the others")
    where.add_argument("--overwrite", action="store_true", help="replace the runs that are in the folder")
    where.add_argument("--dry-run", action="store_true", help="open the images and print what would run; write nothing")
    where.add_argument("--json", action="store_true", help="print only one JSON object on stdout")
    where.add_argument("--quiet", action="store_true", help="print only errors and the output of --json")
    machine = parser.add_argument_group("hardware (default: as in the recipe)")
    machine.add_argument("--device", metavar="NAME", type=text, help="auto, cpu, cuda, …")
    machine.add_argument(
        "--jobs",
        metavar="N",
        type=whole_number(1, 256),
        default=1,
        help="how many variants run at once, each with its share of the threads (default: 1)",
    )
    machine.add_argument("--threads", metavar="N", type=whole_number(1, 4096), help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Run the recipe, and print a summary."""
    from smidgen.cli import run_one, run_variants
    from smidgen.experiments.recipes import Variants, read_recipe

    recipe = read_recipe(args.recipe)
    if args.seed is not None and len(set(args.seed)) < len(args.seed):
        raise InputError(f"`--seed` must be different numbers, got {' '.join(map(str, args.seed))}.")
    if isinstance(recipe, Variants):
        return run_variants.run(recipe, args)
    if args.variants:
        raise InputError(f"`--variant` chooses among a recipe's [variants], and {args.recipe!r} has none.")
    if args.jobs > 1:
        raise InputError(f"`--jobs` runs a recipe's [variants] side by side, and {args.recipe!r} has none.")
    return run_one.run(recipe, args)
