"""Summary of a recipe's runs over several seeds: mean and spread of each figure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smidgen.files import read_json
from smidgen.reports.tables import is_number
from smidgen.run_folder import RunFolder

_SEED_FOLDER = re.compile(r"seed-([0-9]{1,18})")


def seeds_in(out: Path) -> set[int]:
    """Return the seeds of the run folders `seed-S` in a folder, finished or not."""
    found = (_SEED_FOLDER.fullmatch(entry.name) for entry in out.iterdir())
    return {int(match[1]) for match in found if match}


def summarise(out: Path | str, *, name: str | None = None) -> dict[str, Any]:
    """Return what the finished runs of a recipe came to: for each figure its mean, spread and values by seed.

    spread: the standard deviation between seeds (n − 1), None for a single one. Figures that not every run has are
    left out. alarms: those that runs ended with, by seed. stopped_early: seeds whose time was up, where there are any.

    name: of the recipe, by default that of the folder.
    """
    out = Path(out)
    runs = {seed: RunFolder(out / f"seed-{seed}") for seed in sorted(seeds_in(out))}
    metrics = {seed: run.metrics for seed, run in runs.items() if run.finished}
    table: dict[str, Any] = {"recipe": name or out.name, "seeds": list(metrics), "figures": {}}
    every = list(metrics.values())
    for key in every[0] if every else ():
        if all(is_number(each.get(key)) for each in every):
            table["figures"][key] = _figure([each[key] for each in every])
    table["alarms"] = {str(seed): each["alarms"] for seed, each in metrics.items() if each.get("alarms")}
    if stopped := [seed for seed, each in metrics.items() if each.get("stopped_early")]:
        table["stopped_early"] = stopped
    if every:
        manifest = read_json(runs[next(iter(metrics))].path / "manifest.json")
        keys = ("smidgen", "torch", "processor", "device", "threads", "git", "trained_on")
        table["machine"] = {key: manifest.get(key) for key in keys} | {"processor": _processor(manifest)}
        table["finished"] = max(run.manifest["finished"] for seed, run in runs.items() if seed in metrics)
    return table


def _figure(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation and the values.

    >>> _figure([1.0, 3.0])
    {'mean': 2.0, 'spread': 1.4142135623730951, 'values': [1.0, 3.0]}
    """
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread, "values": list(values)}


def _processor(manifest: Mapping[str, Any]) -> str:
    """Return the name of the processor: Linux keeps it in a file, and platform.processor() is "x86_64" there."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else str(manifest.get("processor"))


_MEASURED = {
    "test_accuracy": "test accuracy",
    "test_named_accuracy": "by name",
    "test_ucc_accuracy": "ucc accuracy",
    "test_paper_ucc_accuracy": "on bags of 32",
}


def measured(summary: Mapping[str, Any], *, variant: str | None = None) -> str:
    """Return the line that a recipe's header has for what was measured; accuracies as shares, seconds of the fit.

    variant: which of the recipe's, if it has several.

    >>> print(measured({"seeds": [0, 1], "figures": {"test_accuracy": _figure([0.98, 0.99]),
    ...     "seconds": _figure([100, 110])}, "machine": {"processor": "P", "threads": 2, "torch": "2.14"},
    ...     "finished": "2026-01-02T03:04:05+00:00"}))
    measured: test accuracy .9850 ± .0071 (.9800 .9900), 105 s; seeds 0 1; 2026-01-02, P, 2 threads, torch 2.14
    """
    figures, machine = summary["figures"], summary["machine"]
    words = [f"{title} {_in_words(figures[key])}" for key, title in _MEASURED.items() if key in figures]
    words.append(f"{statistics.median(figures['seconds']['values']):.0f} s")
    if "stopped_early" in summary:
        words.append(f"stopped by time after {statistics.median(figures['steps']['values']):.0f} steps")
    seeds, threads = " ".join(map(str, summary["seeds"])), machine["threads"]
    where = f"{machine['processor']}, {threads} thread{'' if threads == 1 else 's'}, torch {machine['torch']}"
    about = "" if variant is None else f"{variant}: "
    return f"measured: {about}{', '.join(words)}; seeds {seeds}; {summary['finished'][:10]}, {where}"


def _in_words(figure: Mapping[str, Any]) -> str:
    values = " ".join(map(share, figure["values"]))
    return with_spread(figure) if figure["spread"] is None else f"{with_spread(figure)} ({values})"


def with_spread(figure: Mapping[str, Any], shown: Callable[[float], str] | None = None) -> str:
    """Return mean and spread as text, by default as shares.

    >>> with_spread({"mean": 0.9876, "spread": 0.0012}), with_spread({"mean": 12.3, "spread": None}, "{:.0f}".format)
    ('.9876 ± .0012', '12')
    """
    shown = shown or share
    mean = shown(figure["mean"])
    return mean if figure["spread"] is None else f"{mean} ± {shown(figure['spread'])}"


def share(value: float) -> str:
    """Return a share as tables have it.

    >>> share(0.98765), share(1.0)
    ('.9877', '1.0000')
    """
    return f"{value:.4f}".removeprefix("0")
