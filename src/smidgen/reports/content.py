"""The content of a report, taken from the run folder and prepared for the template."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from smidgen.reports import figures, tables
from smidgen.reports.bags import read_bags
from smidgen.reports.classes import class_section
from smidgen.reports.curves import charts
from smidgen.reports.filters import read_filters
from smidgen.reports.gallery import Galleries, Shown
from smidgen.reports.names import cluster_title, is_numbered, visible
from smidgen.reports.probes import read_probes
from smidgen.reports.relabelling import SHOWN
from smidgen.reports.tables import Assignments, Table, duration, is_number, percent, plain, thousands
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
        "title": _title(manifest, report.run),
        "lead": _lead(assignments, manifest),
        "facts": _facts(manifest, metrics),
        "tiles": list(_tiles(assignments, metrics)),
        "alarms": alarms(history, metrics),
        "cards": _cards(assignments, galleries, cluster_colours),
        "more_clusters": len(assignments.cluster_names) - len(galleries.clusters),
        "map": _map_data(report, cluster_colours, class_colours),
        "map_note": _map_note(assignments, galleries),
        "charts": charts(history, without=SHOWN if report.shown.relabelling else frozenset()),
        "classes": class_section(
            assignments, galleries, metrics, has_file=(report.run.path / "tables" / "clusters.csv").is_file()
        ),
        "relabelling": report.shown.relabelling,
        "evidence": report.shown.evidence,
        "issues": report.shown.issues,
        "bags": read_bags(report.run.path, metrics),
        "probes": read_probes(report.run.path),
        "filters": read_filters(report.run.path),
        "uncertain": galleries.uncertain.tolist(),
        "histogram": _histogram(assignments),
        "tables": tables.read_tables(report.run.path),
        "metrics_table": tables.key_values("metrics.json", metrics),
        "config_table": tables.key_values("config.toml", report.run.config),
        "bad_images": _bad_images(report.run.path),
        "next_steps": _next_steps(report),
        "command": _command(manifest),
        "gallery_rows": {row for rows in galleries.shown() for row in rows.tolist()},
        "smidgen_version": plain(manifest.get("smidgen")),
    }


def _title(manifest: Mapping[str, Any], run: RunFolder) -> str:
    data = manifest.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    last = str(name or "").rstrip("/").rpartition("/")[2]  # the facts have the whole path
    return last or run.path.resolve().name


def _lead(assignments: Assignments, manifest: Mapping[str, Any]) -> list[str]:
    """Return short phrases: how many images and clusters, by which method, knowing what."""
    splits, counts = np.unique(assignments.splits.astype(str), return_counts=True)
    named = {"train": "training ", "test": "test "} if len(splits) > 1 else {}
    order = sorted(zip(splits, counts, strict=True), key=lambda pair: (pair[0] == "test", pair[0]))
    images = " and ".join(f"{thousands(count)} {named.get(str(split), '')}" for split, count in order)
    n = len(assignments.cluster_names)
    phrases = [f"{images.strip() or '0'} {_plural(len(assignments), 'image')[1]}", " ".join(_plural(n, "cluster"))]
    phrases.extend(_evidence(manifest))
    if n and all(map(is_numbered, assignments.cluster_names)):
        phrases.append("clusters carry numbers, not names")
    return phrases


def _plural(count: float, word: str) -> tuple[str, str]:
    return thousands(count), word if count == 1 else f"{word}s"


def _evidence(manifest: Mapping[str, Any]) -> list[str]:
    """Return a phrase about the evidence, as {kind: how many} or a text; none where only its fingerprint is known."""
    given = manifest.get("evidence", "")
    if isinstance(given, Mapping):
        kinds = [(name, value) for name, value in given.items() if value and name != "fingerprint"]
        words = [f"{thousands(value)} {name}" if is_number(value) else plain(name) for name, value in kinds]
        return [f"evidence: {', '.join(words)}" if words else "no evidence"]
    fingerprint = isinstance(given, str) and re.fullmatch(r"[0-9a-f]{64}", given)
    if "evidence" not in manifest or fingerprint:
        return []
    return [f"evidence: {plain(given)}" if given else "no evidence"]


_FACTS = {"method": "Method", "encoder": "Encoder", "trained_on": "Trained on", "seed": "Seed"}
_VERSIONS = ("smidgen", "python", "torch", "torchvision", "timm")


def _facts(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs for the header; what the run did not record does not appear."""
    data = manifest.get("data") if isinstance(manifest.get("data"), Mapping) else {}
    facts = [(word, plain(manifest.get(key))) for key, word in _FACTS.items()]
    if isinstance(choice := manifest.get("method_choice"), Mapping):
        why = f", chosen by {plain(choice.get('asked'))}: {plain(choice.get('why'))}"
        facts = [(word, f"{value}{why}" if word == "Method" else value) for word, value in facts]
    if isinstance(manifest.get("extractor"), Mapping):  # it is the encoder that is meant
        weights = plain(manifest["extractor"].get("weights"))
        frozen = f"frozen, {weights}" if weights else "frozen"
        facts = [(word, f"{value}, {frozen}" if word == "Encoder" else value) for word, value in facts]
    shape = data.get("shape") if isinstance(data, Mapping) else None
    if isinstance(shape, list) and len(shape) == 3:
        facts.append(("Image size", f"{shape[2]} × {shape[1]}, {'grey' if shape[0] == 1 else 'colour'}"))
    if is_number(metrics.get("seconds")):
        early = metrics.get("stopped_early") and is_number(metrics.get("steps"))
        cut = f", when time was up at step {thousands(metrics['steps'])}" if early else ""
        facts.append(("Fitted in", duration(metrics["seconds"]) + cut))
    if is_number(metrics.get("peak_memory_mb")):
        facts.append(("Peak memory", f"{thousands(metrics['peak_memory_mb'])} MB"))
    device, threads = plain(manifest.get("device")), manifest.get("threads")
    facts.append(("Device", f"{device}, {' '.join(_plural(threads, 'thread'))}" if is_number(threads) else device))
    facts.append(("Finished", _moment(manifest.get("finished"))))
    named = {key: plain(manifest[key]) for key in _VERSIONS if key in manifest}
    versions = manifest.get("versions")
    named |= {key: plain(value) for key, value in versions.items()} if isinstance(versions, Mapping) else {}
    facts.append(("Versions", ", ".join(f"{key} {value}" for key, value in named.items() if value)))
    return [(name, value) for name, value in facts if value]


def _next_steps(report: Report) -> list[tuple[str, str]]:
    """Return what to do with the result, and the command for it; nothing for a run without images."""
    if not len(report.assignments):
        return []
    steps = [("Get a table with each image’s cluster", "smidgen export RUN --to csv --out clusters.csv")]
    if (report.run.path / "thumbnails.parquet").exists():  # not of ready embeddings
        steps.insert(
            0, ("Sort the images into a folder for each cluster", "smidgen export RUN --to folders --out sorted")
        )
    steps.append(("Find the clusters of new images", "smidgen predict RUN NEW_IMAGES"))
    if not report.assignments.class_names:
        words = "Teach it names: write some images’ classes into a table with columns image and label, and fit again"
        steps.append((words, "smidgen fit DATA --labels labels.csv --out NEW_RUN"))
    return steps


def _moment(value: Any) -> str:
    """Return an ISO 8601 time as people write it."""
    return plain(value).replace("T", " ").replace("+00:00", " UTC")


def _command(manifest: Mapping[str, Any]) -> str:
    """Return the command that makes the run again, in the same folder: one that resumes or refuses would not.

    >>> _command({"command": ["smidgen", "fit", "mnist", "--out", "runs/a", "--resume"]})
    'smidgen fit mnist --out runs/a --overwrite'
    """
    command = manifest.get("command") or ""
    if not isinstance(command, list):
        return str(command)
    words = [str(word) for word in command if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--overwrite"] if "fit" in words[:2] or "run" in words[:2] else words)


_SCORES = {"named_accuracy": "Named accuracy", "accuracy": "Accuracy", "nmi": "NMI", "ari": "ARI"}
_MEANINGS = {
    "named_accuracy": "by the clusters’ own names",
    "accuracy": "best one-to-one match",
    "nmi": "normalised mutual information",
    "ari": "adjusted Rand index",
}


def _tiles(assignments: Assignments, metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the key figures: the scores of the test split where there are any, then what is always known."""
    splits = [s for s in ("test", "train", "all") if any(is_number(metrics.get(f"{s}_{key}")) for key in _SCORES)]
    for key, name in _SCORES.items() if splits else ():
        value = metrics.get(f"{splits[0]}_{key}")
        if is_number(value):
            notes = _score_notes(key, splits, metrics)
            if key == "accuracy":
                notes += _by_training_map(assignments, splits[0])
            yield _tile(f"{name}, {splits[0]}", _shown_score(key, value), *notes)
    sizes = np.bincount(assignments.clusters, minlength=len(assignments.cluster_names))
    if len(sizes):
        wanted = metrics.get("n_clusters")
        empty = int(wanted) - len(sizes) if is_number(wanted) else 0
        spread = f"{thousands(sizes.min())} to {thousands(sizes.max())} images"
        yield _tile("Clusters", thousands(len(sizes)), spread, f"{empty} more are empty" if empty > 0 else "")
    known = assignments.confidence[~np.isnan(assignments.confidence)]
    if len(known):
        below = f"{percent((known < 0.5).mean())} of images below 50 %"
        yield _tile("Mean confidence", percent(known.mean()), below)


def _by_training_map(assignments: Assignments, split: str) -> list[str]:
    """Return a note on how many test images are right by the classes that clusters got on training images."""
    judged = assignments.in_split(split)
    if split != "test" or not judged.any() or not assignments.in_split("train").any():
        return []
    right = 1 - assignments.mistaken()[judged].mean()
    return [f"{percent(right)} by the match on training images"]


def _tile(name: str, value: str, *notes: str) -> dict[str, Any]:
    return {"name": name, "value": value, "notes": [note for note in notes if note]}


def _shown_score(key: str, value: float) -> str:
    return percent(value) if "accuracy" in key else f"{value:.3f}"


def _score_notes(key: str, splits: Sequence[str], metrics: Mapping[str, Any]) -> list[str]:
    """Return the notes below a score: its meaning, its interval, and the score of the other split."""
    words = [_MEANINGS[key]]
    bounds = tables.interval(metrics, f"{splits[0]}_{key}")
    if bounds:
        low, high = (_shown_score(key, bound).removesuffix(" %") for bound in bounds)
        words.append(f"95 % interval {low}–{high}")
    others = [(split, metrics.get(f"{split}_{key}")) for split in splits[1:]]
    return words + [f"{split} {_shown_score(key, value)}" for split, value in others if is_number(value)]


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
