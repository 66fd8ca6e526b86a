"""The content of a report, taken from the run folder and prepared for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from smidgen.reports import figures, header, tables
from smidgen.reports.bags import read_bags
from smidgen.reports.calibration import calibration
from smidgen.reports.classes import class_section
from smidgen.reports.cluster_numbers import shown_numbers
from smidgen.reports.curves import charts
from smidgen.reports.filters import read_filters
from smidgen.reports.gallery import Galleries, Shown
from smidgen.reports.names import cluster_title, is_numbered, visible
from smidgen.reports.probes import read_probes
from smidgen.reports.relabelling import SHOWN
from smidgen.reports.shares import share_section
from smidgen.reports.tables import Assignments, Table, plain, thousands
from smidgen.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class Report:
    """Everything a page is made of: the run, what it holds and the images to show, the map's places in [0, 1]."""

    run: RunFolder
    shown: Shown
    places: np.ndarray | None

    @property
    def assignments(self) -> Assignments:
        """The run's images as arrays."""
        return self.shown.assignments

    @property
    def galleries(self) -> Galleries:
        """The images to show."""
        return self.shown.galleries

    @property
    def metrics(self) -> dict[str, Any]:
        """The final figures, empty where the run wrote none."""
        return self.run.metrics if (self.run.path / "metrics.json").exists() else {}

    @property
    def manifest(self) -> dict[str, Any]:
        """What ran on what, empty where the run wrote nothing about it."""
        return self.run.manifest if (self.run.path / "manifest.json").exists() else {}


def content(report: Report) -> dict[str, Any]:
    """Return the template's variables; images as rows of `assignments.csv`."""
    metrics, manifest, history = report.metrics, report.manifest, report.run.history()
    assignments, galleries = report.assignments, report.galleries
    cluster_colours, class_colours = colours(assignments)
    return {
        "title": header.title(manifest, report.run),
        "lead": header.lead(assignments, manifest),
        "facts": header.facts(manifest, metrics),
        "tiles": list(header.tiles(assignments, metrics)),
        "alarms": alarms(history, metrics),
        "cards": _cards(assignments, galleries, cluster_colours),
        "more_clusters": len(assignments.cluster_names) - len(galleries.clusters),
        "map": _map_data(report, cluster_colours, class_colours),
        "map_note": _map_note(assignments, galleries),
        "charts": charts(history, without=SHOWN if report.shown.relabelling else frozenset()),
        "classes": class_section(
            assignments, galleries, metrics, has_file=(report.run.path / "tables" / "clusters.csv").is_file()
        ),
        "shares": share_section(assignments, metrics),
        "relabelling": report.shown.relabelling,
        "evidence": report.shown.evidence,
        "numbers": shown_numbers(report.shown.numbers),
        "issues": report.shown.issues,
        "bags": read_bags(report.run.path, metrics),
        "probes": read_probes(report.run.path),
        "filters": read_filters(report.run.path),
        "uncertain": galleries.uncertain.tolist(),
        "histogram": _histogram(assignments),
        "calibration": calibration(assignments),
        "named_by_nothing": not any("named_accuracy" in key for key in report.metrics),
        "tables": tables.read_tables(report.run.path),
        "metrics_table": tables.key_values("metrics.json", metrics),
        "config_table": tables.key_values("config.toml", report.run.config),
        "bad_images": _bad_images(report.run.path),
        "next_steps": header.next_steps(assignments, has_pictures=(report.run.path / "thumbnails.parquet").exists()),
        "command": header.command(manifest),
        "gallery_rows": {row for rows in galleries.shown() for row in rows.tolist()},
        "smidgen_version": plain(manifest.get("smidgen")),
    }


def alarms(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return each alarm that held at the end of the run, with where it was first raised; withdrawn ones are left out.

    Of a run that has not finished: those that held when they last changed.

    >>> alarms([{"stage": "heads", "step": 5, "alarms": ["One cluster is empty."]}], {})
    [{'text': 'One cluster is empty.', 'where': 'heads, step 5'}]
    """
    places: dict[str, str] = {}
    for line in history:
        for text in line.get("alarms") or ():
            place = [plain(line.get("stage")), f"step {plain(line['step'])}" if "step" in line else ""]
            places.setdefault(str(text), ", ".join(word for word in place if word))
    last = next((line["alarms"] for line in reversed(history) if "alarms" in line), None)
    held = (metrics.get("alarms") if metrics else last) or ()
    return [{"text": str(text), "where": places.get(str(text), "at the end")} for text in held]


def colours(assignments: Assignments) -> tuple[list[str], list[str]]:
    """Return a colour for each cluster and one for each class; a class has the colour of the cluster found for it."""
    n_clusters, n_classes = len(assignments.cluster_names), len(assignments.class_names)
    first_cluster = {int(c): k for k, c in reversed(list(enumerate(assignments.class_of))) if c >= 0}
    lonely = [c for c in range(n_classes) if c not in first_cluster]
    every = figures.palette(n_clusters + len(lonely))
    spare = dict(zip(lonely, every[n_clusters:], strict=True))
    classes = [every[first_cluster[c]] if c in first_cluster else spare[c] for c in range(n_classes)]
    return list(every[:n_clusters]), classes


def _cards(assignments: Assignments, galleries: Galleries, cluster_colours: Sequence[str]) -> list[dict[str, Any]]:
    n_clusters, n_classes = len(assignments.cluster_names), len(assignments.class_names)
    sizes = np.bincount(assignments.clusters, minlength=n_clusters)
    known = assignments.classes >= 0
    pairs = (assignments.clusters[known], assignments.classes[known])
    counts = tables.count_pairs(*pairs, shape=(n_clusters, n_classes))
    confidence = assignments.mean_confidence()
    return [
        {
            "number": c.number,
            "title": _heading(assignments.cluster_names[c.number]),
            "colour": cluster_colours[c.number],
            "size": int(sizes[c.number]),
            "share": sizes[c.number] / max(len(assignments), 1),
            "width": sizes[c.number] / sizes.max(),
            "confidence": "" if np.isnan(confidence[c.number]) else f"{confidence[c.number]:.2f}",
            "typical": c.typical.tolist(),
            "uncertain": c.uncertain.tolist(),
            **_dominant(counts[c.number], assignments.class_names),
        }
        for c in galleries.clusters
    ]


def _heading(cluster_name: str) -> str:
    return f"Cluster {cluster_name}" if is_numbered(cluster_name) else cluster_name


def _dominant(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    if not counts.sum():
        return {"dominant": None, "purity": None}
    return {"dominant": class_names[int(counts.argmax())], "purity": float(counts.max() / counts.sum())}


def _map_data(report: Report, cluster_colours: Sequence[str], class_colours: Sequence[str]) -> dict[str, Any] | None:
    """Return the data of the page's script; names are made visible here, since no template handles them."""
    if report.places is None:
        return None
    assignments, rows = report.assignments, report.galleries.sample
    confidence = assignments.confidence[rows]
    clusters = _legend(assignments.cluster_names, cluster_colours, assignments.clusters)
    classes = _legend(assignments.class_names, class_colours, assignments.classes)
    wrong = assignments.mistaken()[rows]
    return {
        "x": np.rint(1000 * report.places[:, 0]).astype(int).tolist(),
        "y": np.rint(1000 * report.places[:, 1]).astype(int).tolist(),
        "row": rows.tolist(),
        "id": [visible(assignments.images[row]) for row in rows],
        "note": [visible(image_note(assignments, row)) for row in rows],
        "cluster": assignments.clusters[rows].tolist(),
        "class": assignments.classes[rows].tolist() if assignments.class_names else None,
        "wrong": np.flatnonzero(wrong).tolist(),
        "confidence": [None if np.isnan(value) else round(float(value), 3) for value in confidence],
        "clusters": [[visible(cluster_title(name)), colour, visible(name), n] for name, colour, n in clusters],
        "classes": [[visible(name), colour, visible(name), n] for name, colour, n in classes],
    }


def _legend(names: Sequence[str], colours: Sequence[str], numbers: np.ndarray) -> Iterator[tuple[str, str, int]]:
    """Yield the name and colour of each cluster or class and its number of images; -1 in `numbers` is none of them."""
    sizes = np.bincount(numbers[numbers >= 0], minlength=len(names))
    return zip(names, colours, sizes.tolist(), strict=True)


def _map_note(assignments: Assignments, galleries: Galleries) -> str:
    if len(galleries.sample) == len(assignments):
        return "Each point is an image; images with similar embeddings lie together."
    return (
        f"Each point is one of {thousands(len(galleries.sample))} images, drawn alike from each cluster so that small"
        " clusters are seen; images with similar embeddings lie together."
    )


def _histogram(assignments: Assignments) -> Markup | None:
    known = ~np.isnan(assignments.confidence)
    if not known.any():
        return None
    wrong = assignments.mistaken()[known] if (assignments.classes >= 0).any() else None
    return figures.histogram(assignments.confidence[known], wrong, label="How many images have which confidence")


def _bad_images(folder: Path) -> Table | None:
    path = folder / "bad_images.csv"
    table = tables.read_table(path, limit=200) if path.exists() else None
    return table if table and table.total else None


def image_note(assignments: Assignments, row: int) -> str:
    """Return what is known about one image in a line: cluster, confidence, class, split."""
    words = [cluster_title(assignments.cluster_names[assignments.clusters[row]])]
    if not np.isnan(assignments.confidence[row]):
        words.append(f"confidence {assignments.confidence[row]:.3f}")
    if assignments.classes[row] >= 0:
        words.append(f"class {assignments.class_names[assignments.classes[row]]}")
    if assignments.splits[row] not in ("", "all"):
        words.append(str(assignments.splits[row]))
    return " · ".join(words)
