"""`smidgen run` of a recipe with variants: each into its own folder, and one table of them all."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, printable, progress, report_error
from smidgen.cli.data import require_data
from smidgen.cli.list import table
from smidgen.cli.main import USAGE_ERROR
from smidgen.cli.run_one import as_asked, stopped
from smidgen.training.interrupts import Interrupted

if TYPE_CHECKING:
    from smidgen.experiments.recipes import Variants
    from smidgen.reports.grid import Grid


def run(variants: Variants, args: argparse.Namespace, *, grid: Grid | None = None) -> int:
    """Run the variants that are asked for, and show the table; the exit code is that of a refusal if any failed.

    grid: where each stands in the table of a sweep, which is shown instead.
    """
    from smidgen.cli.listener import ConsoleListener
    from smidgen.experiments.variants import check_chosen, check_variants, run_variants

    recipes = {name: as_asked(recipe, args) for name, recipe in variants.recipes.items()}
    variants = dataclasses.replace(variants, recipes=recipes)
    out, chosen = Path(args.out) if args.out else Path("runs") / variants.name, args.variants or list(recipes)
    with progress(quiet=args.quiet) as console:
        check_chosen(variants, chosen)
        if not args.dry_run:
            check_variants(variants, out, chosen=chosen, resume=args.resume, overwrite=args.overwrite)
        for name in chosen:
            require_data(recipes[name].config.data, recipes[name].config.test)
        if args.dry_run:
            return _dry_run(variants, chosen, out, args, console)
        if not args.out:
            console.log(f"The runs go to {str(out)!r} (`--out` changes it).")
        how = {"resume": args.resume, "overwrite": args.overwrite, "listener": ConsoleListener(console)}
        how |= {"grid": grid, "jobs": args.jobs}
        try:
            summary = run_variants(variants, out, chosen=chosen, **how)
        except Interrupted as stop:
            return stopped(stop, args, console)
    if args.json:
        print(json.dumps({"run": str(out), **summary}, indent=2))
    elif not args.quiet:
        print("\n".join(map(printable, _shown(summary, out) if grid is None else _swept(summary, grid, out))))
    failed = {name: why for name in chosen if (why := summary["variants"][name].get("failed"))}
    for name, why in failed.items():
        report_error(f"variant {name!r} failed: {why}")
    return USAGE_ERROR if failed else 0


def _dry_run(variants: Variants, chosen: Sequence[str], out: Path, args: argparse.Namespace, console: Progress) -> int:
    """Show the plan of each variant's first run, the steps in which they differ among it."""
    from smidgen.cli.listener import ConsoleListener
    from smidgen.experiments.seeds import first_plan

    recipes, listener = {name: variants.recipes[name] for name in chosen}, ConsoleListener(console)
    plans = {name: first_plan(recipe, listener) | {"seeds": list(recipe.seeds)} for name, recipe in recipes.items()}
    console.close()
    if args.json:
        print(json.dumps({"run": str(out), "dry_run": True, "variants": plans}, indent=2))
        return 0
    header = ["variant", "images", "method", "evidence", "stages", "parameters", "seeds"]
    print(table([header, *([printable(cell) for cell in _planned(name, plan)] for name, plan in plans.items())]))
    print("This was a dry run: nothing was trained or written.", file=sys.stderr)
    return 0


def _planned(name: str, plan: Mapping[str, Any]) -> list[str]:
    evidence = ", ".join(f"{n:,} {kind}" for kind, n in plan["evidence"].items()) or "none"
    stages = ", ".join(f"{stage} {steps:,}" for stage, steps in plan["stages"].items()) or "none"
    seeds = " ".join(map(str, plan["seeds"]))
    return [name, f"{plan['train_images']:,}", plan["method"], evidence, stages, f"{plan['parameters']:,}", seeds]


def _shown(summary: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Yield the lines of the summary: the table, alarms, where everything is, and a line for the recipe's header."""
    from smidgen.reports.seeds import measured
    from smidgen.reports.variants import rows

    variants = summary["variants"]
    yield f"{summary['recipe']}: {len(variants)} variants"
    shown = [[printable(cell) for cell in row] for row in rows(summary)]
    yield from (f"  {line}" for line in table(shown).splitlines())
    for name, variant in variants.items():
        for seed, alarms in variant["alarms"].items():
            yield from (f"  note            {name}, seed {seed}: {alarm}" for alarm in alarms)
    yield f"  table           {out / 'table.md'}"
    yield f"  report          {out / 'report.html'}"
    yield from (f"# {measured(variant, variant=name)}" for name, variant in variants.items() if variant["seeds"])


def _swept(summary: Mapping[str, Any], grid: Grid, out: Path) -> Iterator[str]:
    """Yield the lines of a sweep's summary: its table, and where everything is."""
    from smidgen.reports.grid import rows

    yield f"accuracy of {len(summary['variants'])} fits over {grid.axis}"
    yield from (f"  {line}" for line in table(rows(grid, summary)).splitlines())
    yield f"  table           {out / 'sweep.md'}"
    yield f"  plot            {out / 'sweep.svg'}"
    yield f"  report          {out / 'report.html'}"
