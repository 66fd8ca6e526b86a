"""The report: one self-contained HTML page from a run folder, with every name escaped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from smidgen.errors import InputError
from smidgen.files import atomic_write
from smidgen.reports.comparison import compare_runs
from smidgen.reports.content import Report, content, image_note
from smidgen.reports.gallery import gallery_rows, read_shown
from smidgen.reports.map import map_points as place_points
from smidgen.reports.names import visible
from smidgen.reports.tables import Assignments, percent, plain, thousands
from smidgen.reports.thumbnails import Thumbnails, fit_thumbnails, read_thumbnails
from smidgen.run_folder import RunFolder

__all__ = ["compare_page", "gallery_rows", "write_page"]

_LARGEST = 9_800_000  # bytes of a page; the promise is 10 MB
_NO_THUMBNAILS = Thumbnails({}, side=56, pixelated=False)


def write_page(run_folder: Path | str, *, per_cluster: int = 24, map_points: int = 2000, layout: str = "tsne") -> Path:
    """Write `report.html` into a run folder and return its path: one file of at most 10 MB that works offline.

    What the run did not write is left out: no classes, no scores; no thumbnail, a placeholder. The same run gives the
    same page.

    per_cluster, map_points: as for `gallery_rows`, with the numbers that the thumbnails were written for.
    layout: how the map is drawn, see `map.map_points`.
    Raises RunError if the folder is no run folder or holds damaged files.
    """
    run = RunFolder.open(run_folder)
    found = read_shown(run.path, per_cluster=per_cluster, map_points=map_points)
    assignments, galleries = found.assignments, found.galleries
    sample = galleries.sample if found.embeddings is not None else galleries.sample[:0]
    places = None
    if found.embeddings is not None and len(sample):
        places = place_points(np.asarray(found.embeddings[sample]), layout=layout)
    context = content(Report(run, found, places))

    bare = len(_render("template.html.jinja", context, assignments, _NO_THUMBNAILS, sample))
    shown = list(galleries.shown())
    stored = read_thumbnails(run.path, np.concatenate([sample, *shown]))
    budget = _LARGEST - bare - 120 * (len(sample) + sum(len(rows) for rows in shown))
    thumbnails = fit_thumbnails(stored, shown, sample, budget=max(budget, 0))
    page = _render("template.html.jinja", context, assignments, thumbnails, sample)
    return _write(run.path / "report.html", page)


def compare_page(run_folders: Sequence[Path | str], out: Path | str) -> Path:
    """Write a page with the figures of several runs side by side and return its path.

    Raises InputError without runs, RunError if one of them is no run folder.
    """
    if not run_folders:
        raise InputError("No runs were given to compare: name at least one run folder.")
    context = {"comparison": compare_runs(run_folders)}
    return _write(Path(out), templates().get_template("compare.html.jinja").render(context).encode())


def _write(path: Path, page: bytes) -> Path:
    with atomic_write(path) as file:
        file.write(page)
    return path


# ---------------------------------------------------------------------------------------------------------- rendering


def _finalize(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _source_hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _as_json(value: Any) -> Markup:
    """Return JSON that is safe between script tags: no `<`, `>`, `&` or apostrophe, ASCII only."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@lru_cache(maxsize=1)
def templates() -> jinja2.Environment:
    """Return the template environment, made once."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (folder / "page.js").read_text(encoding="utf-8")
    environment.globals.update(
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=_source_hash(script),
    )
    environment.filters.update(percent=percent, thousands=thousands, plain=plain, as_json=_as_json)
    return environment


def _render(
    template: str, context: Mapping[str, Any], assignments: Assignments, thumbnails: Thumbnails, sample: np.ndarray
) -> bytes:
    in_galleries = context["gallery_rows"]
    only_map = {row: thumbnails.uris[row] for row in sample.tolist()
                if row in thumbnails.uris and row not in in_galleries}  # fmt: skip
    page = (
        templates()
        .get_template(template)
        .render(
            context,
            picture=partial(_picture, assignments, thumbnails),
            thumbnails=thumbnails,
            map_thumbnails=only_map,
        )
    )
    return page.encode("utf-8", "replace")


def _picture(assignments: Assignments, thumbnails: Thumbnails, row: int) -> dict[str, Any]:
    """Return a gallery's entry for one image."""
    return {
        "row": int(row),
        "name": assignments.images[row],
        "uri": Markup(thumbnails.uris.get(int(row), "")),
        "note": image_note(assignments, row),
        "class": assignments.class_names[assignments.classes[row]] if assignments.classes[row] >= 0 else None,
        "confidence": None if np.isnan(assignments.confidence[row]) else f"{assignments.confidence[row]:.2f}",
    }
