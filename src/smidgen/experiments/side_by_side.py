"""Runs of several recipes in processes of their own, a few at a time."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
from collections.abc import Generator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from smidgen.errors import SmidgenError
from smidgen.experiments.recipes import Recipe
from smidgen.experiments.seeds import run_recipe
from smidgen.listener import Listener
from smidgen.setup.images import ImageReader
from smidgen.training.interrupts import Interrupted, Interrupts

Outcome = tuple[str, str | None]
"""The name of a recipe that has run, and the sentence of what went wrong, if anything did."""


def run_in_turn(
    recipes: Mapping[str, tuple[Recipe, Path]], *, resume: bool, overwrite: bool, listener: Listener
) -> Generator[Outcome]:
    """Run recipes, each into its folder, one after the other in this process; yield each outcome.

    resume, overwrite: as `run_recipe` takes them. Raises Interrupted.
    """
    reader = ImageReader()
    for number, (name, (recipe, folder)) in enumerate(recipes.items(), start=1):
        listener.log(f"Variant {name!r}, {number} of {len(recipes)}")
        try:
            run_recipe(recipe, folder, resume=resume, overwrite=overwrite, reader=reader, listener=listener)
        except SmidgenError as error:
            yield name, str(error)
        else:
            yield name, None


def run_side_by_side(
    recipes: Mapping[str, tuple[Recipe, Path]], *, jobs: int, resume: bool, overwrite: bool, listener: Listener
) -> Generator[Outcome]:
    """Run recipes as `run_in_turn` does, up to `jobs` of them at once, which share the processor's cores evenly.

    A signal is passed on to the processes, which save their state and end, and raised as Interrupted.
    """
    waiting, running = list(recipes), dict[Connection, tuple[str, BaseProcess]]()
    done = 0
    with Interrupts().listening():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    name = waiting.pop(0)
                    recipe, folder = recipes[name]
                    running.update(_start(name, _with_share_of_threads(recipe, jobs), folder, resume, overwrite))
                    listener.log(f"Variant {name!r} begins, {len(recipes) - len(waiting)} of {len(recipes)}")
                for pipe in wait(list(running)):
                    name, process = running[pipe]  # type: ignore[index]
                    if (outcome := _heard(pipe, name, process, listener)) is not None:  # type: ignore[arg-type]
                        del running[pipe]  # type: ignore[arg-type]
                        done += 1
                        listener.progress("variants", done, len(recipes))
                        yield outcome
        finally:
            _stop([process for _, process in running.values()])


def _start(
    name: str, recipe: Recipe, folder: Path, resume: bool, overwrite: bool
) -> dict[Connection, tuple[str, BaseProcess]]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(recipe, folder, resume, overwrite, theirs), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return {ours: (name, process)}


def _heard(pipe: Connection, name: str, process: BaseProcess, listener: Listener) -> Outcome | None:
    """Pass a process's message on; return its outcome if that was the last."""
    try:
        kind, text = pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = ": memory may have run out, try fewer `--jobs`" if code == -9 else ""
        return name, f"Its process ended before its time ({how}){hint}."
    if kind == "log":
        listener.log(f"{name}: {text}")
        return None
    process.join()
    return name, text


def _stop(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


def _with_share_of_threads(recipe: Recipe, jobs: int) -> Recipe:
    if recipe.config.threads is not None:
        return recipe
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, threads=threads))


def _run(recipe: Recipe, folder: Path, resume: bool, overwrite: bool, pipe: Connection) -> None:
    """Run a recipe; in a process of its own."""
    try:
        run_recipe(recipe, folder, resume=resume, overwrite=overwrite, listener=_Sender(pipe))
    except SmidgenError as error:
        pipe.send(("outcome", str(error)))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(1)
    else:
        pipe.send(("outcome", None))


class _Sender(Listener):
    """Sends messages to the process that started this one."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def log(self, text: str) -> None:
        self._pipe.send(("log", text))
