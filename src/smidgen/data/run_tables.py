"""Recognises tables that smidgen wrote about a run's images, and finds these images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smidgen.data.paths import Paths, find_data
from smidgen.data.tabular import TABLES
from smidgen.errors import SmidgenError
from smidgen.files import read_json, read_toml

CLUSTER_COLUMN = "cluster"


def data_of_run(table: Path) -> Paths | None:
    """Return the data of the run that a table is in, `assignments.csv` or one of `tables/`; None if it is in none.

    They are where they were at the time of the fit, or as the run's configuration has them.
    """
    run = table.parent.parent if table.parent.name == "tables" else table.parent
    given = _setting(run / "config.toml", read_toml, "data")
    return None if given is None else _setting(run / "manifest.json", read_json, "paths", "data") or given


def classes_of_run(table: Path) -> list[str]:
    """Return the classes that clusters in the table of a run are named after; none where they are only numbered.

    Also none for a table that is in no run, as `smidgen predict` writes it: its numbers may be anything.
    """
    run = table.parent.parent if table.parent.name == "tables" else table.parent
    found = _setting(run / "model" / "model.json", read_json, "class_names")
    return found if isinstance(found, list) else []


def folder_of_run(table: Path) -> Path | None:
    """Return the folder that the names of images in a run's table begin in, None if it is in no run or has no such."""
    data = data_of_run(table)
    return None if data is None else folder_of_data(data)


def folder_of_data(data: Paths) -> Path | None:
    """Return the absolute folder that the ids of images in folders and files begin in, None if there is none."""
    try:
        found = find_data(data).absolute()
    except SmidgenError:  # a dataset's name, or images that were moved or deleted
        return None
    found = found.parent if found.suffix.lower() in TABLES else found
    return found if found.is_dir() else None


def _setting(path: Path, read: Any, *names: str) -> Any:
    """Return a value in a file of a run, None if it has none or cannot be read."""
    try:
        value = read(path)
        for name in names:
            value = value[name]
    except (SmidgenError, OSError, KeyError, TypeError):
        return None
    return value if isinstance(value, str | list) else None
