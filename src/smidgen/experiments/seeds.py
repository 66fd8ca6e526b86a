"""Runs a recipe once per seed, on evidence simulated for that seed, and summarises the runs."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.config import Config
from smidgen.errors import InputError, RunError
from smidgen.evidence.files import files_in
from smidgen.evidence.simulation import simulate
from smidgen.experiments.recipes import SEEDS, Recipe
from smidgen.files import appearing_folder, atomic_write, read_toml, write_json
from smidgen.fitting import fit
from smidgen.hardware import choose_device
from smidgen.listener import Listener
from smidgen.reports.seeds import seeds_in, summarise
from smidgen.run_folder import RunFolder
from smidgen.schemas import decode_toml
from smidgen.setup.images import ImageReader, open_data
from smidgen.setup.plan import plan_summary


def run_recipe(
    recipe: Recipe,
    out: Path | str,
    *,
    seeds: Sequence[int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reader: ImageReader | None = None,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run a recipe into a folder and return the summary of all its finished runs there.

    Written are `recipe.toml`, for each seed `seed-S/` (a run folder) and `evidence-S/` (what was simulated for it), and
    `summary.json`, anew after every run. seeds: instead of the recipe's own. resume: runs that have finished are left,
    one that was stopped goes on, and the others are made. overwrite: they are made anew. reader: of the images, for
    several recipes of the same ones.
    Raises RunError for a folder that holds something else, and whatever `fit` raises.
    """
    out, listener, seeds = Path(out), listener or Listener(), tuple(recipe.seeds if seeds is None else seeds)
    reader = reader or ImageReader()
    check_out(recipe, out, seeds=seeds, resume=resume, overwrite=overwrite)
    choose_device(recipe.config.device)  # may refuse: before images are read to simulate evidence of
    out.mkdir(parents=True, exist_ok=True)
    with atomic_write(out / "recipe.toml") as file:
        file.write(recipe.text.encode())
    for number, seed in enumerate(seeds, start=1):
        folder = out / f"seed-{seed}"
        listener.log(f"Seed {seed}, {number} of {len(seeds)}: {folder}")
        if overwrite and folder.exists():
            RunFolder.check(folder, resume=False, overwrite=True)  # may refuse: before its evidence is made anew
        config = with_evidence(
            recipe, seed, out / f"evidence-{seed}", anew=not resume, reader=reader, listener=listener
        )
        fit(config, out=folder, resume=resume, overwrite=overwrite, reader=reader, listener=listener)
        write_json(out / "summary.json", summarise(out, name=recipe.name))
    summary = summarise(out, name=recipe.name)
    write_json(out / "summary.json", summary)
    return summary


def recipe_in(out: Path, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Return the recipe whose runs a folder holds, None if it is new or empty; RunError if nothing may be run there."""
    if resume and overwrite:
        raise RunError("Either --resume or --overwrite: one goes on with the runs, the other replaces them.")
    if out.exists() and not out.is_dir():
        raise RunError(f"{str(out)!r} is a file: --out wants a folder.")
    if not out.is_dir() or not [entry for entry in out.iterdir() if not entry.name.startswith(".")]:
        return None
    if not (out / "recipe.toml").is_file():
        raise RunError(f"{str(out)!r} holds files that are not a recipe's runs: choose another --out.")
    if not (resume or overwrite):
        raise RunError(
            f"{str(out)!r} already holds runs: choose another --out, or pass --resume to go on with them or"
            " --overwrite to replace them."
        )
    return read_toml(out / "recipe.toml")


def check_out(recipe: Recipe, out: Path, *, seeds: Sequence[int], resume: bool, overwrite: bool) -> None:
    """Raise RunError if the folder is not one to run the recipe into; nothing is written."""
    before = recipe_in(out, resume=resume, overwrite=overwrite)
    if before is None or _what_is_run(before) == _what_is_run(decode_toml(recipe.text)):
        return
    if "variants" in before:
        raise RunError(f"{str(out)!r} holds the variants of another recipe: choose another --out.")
    if resume:
        raise RunError(f"{str(out)!r} holds runs of another recipe: use another --out, or --overwrite.")
    others = sorted(seeds_in(out) - set(seeds))
    if others:
        raise RunError(
            f"{str(out)!r} holds runs of another recipe, with seed {others[0]} too, which would not be replaced:"
            " choose another --out."
        )


def _what_is_run(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a recipe says but for its seeds: more of them may be run later."""
    return {key: value for key, value in table.items() if key not in SEEDS}


def first_plan(recipe: Recipe, listener: Listener) -> dict[str, Any]:
    """Return what the first seed's run would be, see `plan_summary`; the others differ in their seed only.

    Nothing stays written.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = with_evidence(recipe, recipe.seeds[0], Path(folder) / "evidence", anew=True, listener=listener)
        return plan_summary(config, listener=listener)


def with_evidence(
    recipe: Recipe, seed: int, folder: Path, *, anew: bool, listener: Listener, reader: ImageReader | None = None
) -> Config:
    """Return the configuration of a seed's run, the evidence that it asks for simulated into a folder.

    anew: make it even if the folder is there; it is the same again unless the recipe has changed.
    """
    config = recipe.of_seed(seed)
    if recipe.simulation is None:
        return config
    if anew or not folder.is_dir():
        train, _ = open_data(config, None, None, _ProgressOnly(listener), reader=reader)
        if train.classes is None:
            raise InputError(f"Evidence is simulated from known classes, and those of {config.data!r} are not known.")
        evidence, notes = simulate(
            recipe.simulation,
            train.classes,
            ids=train.ids,
            class_names=train.class_names,
            generator=np.random.default_rng(seed if recipe.evidence_seed is None else recipe.evidence_seed),
        )
        for note in notes:
            listener.log(f"Evidence: {note}")
        with appearing_folder(folder) as building:
            evidence.to_files(building)
            shutil.rmtree(folder, ignore_errors=True)
    return dataclasses.replace(config, evidence={kind: os.fspath(path) for kind, path in files_in(folder).items()})


class _ProgressOnly(Listener):
    """Forwards progress only; the fit itself logs the rest."""

    def __init__(self, listener: Listener) -> None:
        self.progress = listener.progress  # type: ignore[method-assign]
