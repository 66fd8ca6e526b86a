"""`smidgen run` of a recipe without variants: its seeds one after the other, and what came out; parts for variants."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, print_stderr, printable, progress
from smidgen.cli.data import require_data
from smidgen.training.interrupts import Interrupted

if TYPE_CHECKING:
    from smidgen.experiments.recipes import Recipe


def run(recipe: Recipe, args: argparse.Namespace) -> int:
    """Run the recipe with the requested seeds, and print a summary."""
    from smidgen.experiments.seeds import check_out

    recipe = as_asked(recipe, args)
    out, seeds = Path(args.out) if args.out else Path("runs") / recipe.name, recipe.seeds
    require_data(recipe.config.data, recipe.config.test)
    if not args.dry_run:
        check_out(recipe, out, seeds=seeds, resume=args.resume, overwrite=args.overwrite)
    with progress(quiet=args.quiet) as console:
        if args.dry_run:
            return _dry_run(recipe, out, args, console)
        if not args.out:
            console.log(f"The runs go to {str(out)!r} (`--out` changes it).")
        try:
            summary = _run(recipe, out, args, console)
        except Interrupted as stop:
            return stopped(stop, args, console)
    if args.json:
        print(json.dumps({"run": str(out), **summary}, indent=2))
    elif not args.quiet:
        print("\n".join(map(printable, _shown(summary, out))))
    return 0


def as_asked(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """Return a recipe with the seeds and the machine that the command line asks for."""
    changes = {name: getattr(args, name) for name in ("device", "threads") if getattr(args, name) is not None}
    seeds = recipe.seeds if args.seed is None else tuple(args.seed)
    return dataclasses.replace(recipe, seeds=seeds, config=dataclasses.replace(recipe.config, **changes))


def stopped(stop: Interrupted, args: argparse.Namespace, console: Progress) -> int:
    """Print how to continue after a signal, and return the exit code."""
    console.close()
    again = [word for word in args.argv if word not in ("--overwrite", "--resume")]
    print_stderr(f"Stopped. To go on where it stopped: {shlex.join(['smidgen', *again, '--resume'])}")
    return 128 + stop.signal


def _run(recipe: Recipe, out: Path, args: argparse.Namespace, console: Progress) -> dict[str, Any]:
    from smidgen.cli.listener import ConsoleListener
    from smidgen.experiments.seeds import run_recipe

    return run_recipe(recipe, out, resume=args.resume, overwrite=args.overwrite, listener=ConsoleListener(console))


def _dry_run(recipe: Recipe, out: Path, args: argparse.Namespace, console: Progress) -> int:
    from smidgen.cli.fit import print_plan
    from smidgen.cli.listener import ConsoleListener
    from smidgen.experiments.seeds import first_plan

    shown = first_plan(recipe, ConsoleListener(console)) | {"seeds": list(recipe.seeds)}
    console.close()
    if not args.json:
        print(f"{'seeds':<10} {', '.join(map(str, recipe.seeds))}; what follows is the first one's run")
    print_plan(shown, out / f"seed-{recipe.seeds[0]}", args)
    return 0


_SHOWN = {
    "test_accuracy": ("test accuracy", 100, 2, " %"),
    "test_named_accuracy": ("… by name", 100, 2, " %"),
    "test_mapped_accuracy": ("… by train's", 100, 2, " %"),
    "train_accuracy": ("train accuracy", 100, 2, " %"),
    "train_named_accuracy": ("… by name", 100, 2, " %"),
    "test_nmi": ("test NMI", 1, 3, ""),
    "test_ami": ("test AMI", 1, 3, ""),
    "test_ari": ("test ARI", 1, 3, ""),
    "seconds": ("seconds of fit", 1, 0, ""),
    "seconds_total": ("seconds in all", 1, 0, ""),
}
"""Figure → its title, scale, digits and unit."""


def _shown(summary: Mapping[str, Any], out: Path) -> list[str]:
    from smidgen.reports.seeds import measured

    lines = [f"{summary['recipe']}: {summary['machine']['trained_on']}, seeds {', '.join(map(str, summary['seeds']))}"]
    for key, (title, scale, digits, unit) in _SHOWN.items():
        if key in summary["figures"]:
            lines.append(f"  {title:<16}{_with_spread(summary['figures'][key], scale, digits, unit)}")
    for seed, alarms in summary["alarms"].items():
        lines += [f"  note            seed {seed}: {alarm}" for alarm in alarms]
    return [*lines, f"  summary         {out / 'summary.json'}", f"# {measured(summary)}"]


def _with_spread(figure: Mapping[str, Any], scale: float, digits: int, unit: str) -> str:
    """Return mean, spread and values as text.

    >>> _with_spread({"mean": 0.9876, "spread": 0.0012, "values": [0.9864, 0.9888]}, 100, 2, " %")
    '98.76 ± 0.12 %   (98.64, 98.88)'
    """
    mean = f"{scale * figure['mean']:.{digits}f}"
    if figure["spread"] is None:
        return f"{mean}{unit}"
    values = ", ".join(f"{scale * value:.{digits}f}" for value in figure["values"])
    return f"{mean} ± {scale * figure['spread']:.{digits}f}{unit}   ({values})"
