"""Audits: some random images of a run are checked by eye, which bounds the share of all that are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smidgen.csv_tables import read_csv, write_csv
from smidgen.errors import InputError
from smidgen.evaluation.calibration import share_interval
from smidgen.reports.tables import Assignments, read_assignments
from smidgen.run_folder import RunFolder

FILE = "audit.csv"
"""Name of the file in the run folder: image, cluster, and `right`, which people fill in."""

_RIGHT = {"1": True, "0": False, "yes": True, "no": False, "y": True, "n": False, "true": True, "false": False}


@dataclass(frozen=True)
class Audit:
    """What is known of an audit.

    images: how many were drawn. checked: of how many it is known whether they are right. right: how many of these are.
    interval: (low, high), 95 %, of the share of right ones among all images of the run; None before any is checked.
    """

    images: int
    checked: int
    right: int
    interval: tuple[float, float] | None


def draw_audit(run: Path | str, n: int, *, seed: int = 0) -> Audit:
    """Write `audit.csv` with n random images of a run, each as likely as any other, and return what is known of them.

    Where an image's class is known it is checked by that; otherwise `right` is empty: 1 or 0 belongs there.
    Raises RunError if there is no such run, InputError if `audit.csv` is there already.
    """
    folder = RunFolder.open(run).path
    if (folder / FILE).exists():
        raise InputError(f"{str(folder / FILE)!r} is there already: finish it, or remove it to draw other images.")
    known = read_assignments(folder)
    rows = np.sort(np.random.default_rng(seed).permutation(len(known))[:n])
    answers = [_by_class(known, row) for row in rows.tolist()]
    table = {
        "image": [known.images[row] for row in rows],
        "cluster": [known.cluster_names[known.clusters[row]] for row in rows],
        "right": ["" if answer is None else str(int(answer)) for answer in answers],
    }
    write_csv(folder / FILE, table)
    return _audit(answers)


def read_audit(run: Path | str) -> Audit:
    """Return what the `audit.csv` of a run says; InputError for an answer that is none, or if there is no such file."""
    path = RunFolder.open(run).path / FILE
    if not path.exists():
        raise InputError(f"There is no {str(path)!r}: `smidgen eval {run} --audit 30` draws images to check.")
    answers = []
    for number, text in enumerate(read_csv(path).get("right", []), start=2):
        answer = _RIGHT.get(text.strip().lower())
        if answer is None and text.strip():
            raise InputError(f"{path}, line {number}: `right` must be 1 or 0, or empty, got {text!r}.")
        answers.append(answer)
    return _audit(answers)


def _by_class(known: Assignments, row: int) -> bool | None:
    if known.classes[row] < 0:
        return None
    return bool(known.class_of[known.clusters[row]] == known.classes[row])


def _audit(answers: list[bool | None]) -> Audit:
    checked = [answer for answer in answers if answer is not None]
    interval = share_interval(sum(checked), len(checked)) if checked else None
    return Audit(len(answers), len(checked), sum(checked), interval)
