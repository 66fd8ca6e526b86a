"""Runs the variants of a recipe, each into its own folder, and compares them in one table and on one page."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from smidgen.errors import InputError, RunError, unknown
from smidgen.experiments.recipes import Variants
from smidgen.experiments.seeds import check_out, recipe_in
from smidgen.experiments.side_by_side import run_in_turn, run_side_by_side
from smidgen.file_names import Names
from smidgen.files import atomic_write
from smidgen.listener import Listener
from smidgen.reports.grid import Grid
from smidgen.reports.variants import FILES, folders_in, read_failures, write_variants
from smidgen.setup.evidence import open_evidence


def run_variants(
    variants: Variants,
    out: Path | str,
    *,
    chosen: Sequence[str] | None = None,
    grid: Grid | None = None,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run the variants of a recipe and return the summary of all that is in the folder.

    Written are `recipe.toml`, for each variant a folder as `run_recipe` makes it, and anew after each of them
    `summary.json` (with "folders", which of them is whose), `table.md`, `table.csv` and `report.html`. A variant that
    fails is listed with its sentence ("failed"), and the others run.

    chosen: only these. grid: where each stands in the table of a sweep, which is written too, see `reports.grid`.
    jobs: how many run at once, in processes of their own. resume, overwrite: as for `run_recipe`, of those that are
    chosen.
    Raises what `check_variants` does before anything runs, and Interrupted.
    """
    out, listener = Path(out), listener or Listener()
    chosen = list(variants.recipes if chosen is None else chosen)
    check_variants(variants, out, chosen=chosen, resume=resume, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    folders = _folders(variants, out)
    failures = {name: why for name, why in read_failures(out).items() if name not in chosen}
    with atomic_write(out / "recipe.toml") as file:
        file.write(variants.text.encode())
    write = partial(
        write_variants, out, folders, recipe=variants.name, names=list(variants.recipes), failures=failures, sweep=grid
    )
    summary = write()  # says whose folders these are, before there are any
    recipes = {name: (variants.recipes[name], out / folders[name]) for name in chosen}
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "listener": listener}
    outcomes = run_in_turn(recipes, **how) if jobs == 1 else run_side_by_side(recipes, jobs=jobs, **how)
    with contextlib.closing(outcomes):
        for name, failure in outcomes:
            if failure is not None:
                failures[name] = failure
                listener.log(f"Variant {name!r} failed: {failure}")
            summary = write()
    return summary


def check_variants(
    variants: Variants, out: Path, *, chosen: Sequence[str], resume: bool = False, overwrite: bool = False
) -> None:
    """Raise RunError if the folder is not one to run the chosen variants into, and what `check_chosen` does.

    Variants that are not chosen must not have changed since they were run: the table is about all of them.
    """
    check_chosen(variants, chosen)
    before = recipe_in(out, resume=resume, overwrite=overwrite)
    if before is not None and "variants" not in before:
        raise RunError(f"{str(out)!r} holds runs of another recipe, which has no variants: choose another --out.")
    for name, folder in folders_in(out).items():
        if (recipe := variants.recipes.get(name)) is not None:
            how = {"resume": resume, "overwrite": overwrite} if name in chosen else {"resume": True, "overwrite": False}
            check_out(recipe, out / folder, seeds=recipe.seeds, **how)


def check_chosen(variants: Variants, chosen: Sequence[str]) -> None:
    """Raise InputError if a variant is not one of the recipe's, or for what is wrong with its evidence files."""
    for name in chosen:
        if name not in variants.recipes:
            raise unknown("variant", name, variants.recipes)
    for name in chosen:
        try:
            open_evidence(variants.recipes[name].config)
        except InputError as error:
            raise InputError(f"{variants.name}.toml: variant {name!r}: {error}") from None


def _folders(variants: Variants, out: Path) -> dict[str, str]:
    """Return the folder of each variant by its name: the one that it has, or a new one."""
    known, names = folders_in(out), Names()
    for taken in (*FILES, *known.values()):
        names.take(taken)
    return known | {name: names.take(name) for name in variants.recipes if name not in known}
