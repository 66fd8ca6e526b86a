"""The report: a run folder in, one HTML page out that needs nothing else, with every name escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from smidgen.errors import InputError
from smidgen.reports import figures, tables
from smidgen.reports.gallery import Galleries, choose, gallery_rows, open_embeddings
from smidgen.reports.map import map_points as place_points
from smidgen.reports.tables import Assignments, Table, duration, is_number, percent, plain, thousands
from smidgen.reports.thumbnails import Thumbnails, fit_thumbnails, read_thumbnails
from smidgen.runs import RunFolder, atomic_write

__all__ = ["compare_page", "gallery_rows", "write_page"]

_LARGEST = 9_800_000  # bytes of a page; the promise is 10 MB
_NO_THUMBNAILS = Thumbnails({}, side=56, pixelated=False)


def write_page(
    run_folder: Path | str, *, per_cluster: int = 24, map_points: int = 2000, layout: str = "tsne"
) -> Path:
    """Write `report.html` into a run folder and return its path: one file of at most 10 MB that works offline.

    What the run did not write is left out: no classes, no scores; no thumbnail, a placeholder. The same run gives the
    same page.

    per_cluster, map_points: as for `gallery_rows`, with the numbers that the thumbnails were written for.
    layout: how the map is drawn, see `map.map_points`.
    Raises RunError if the folder is no run folder or holds damaged files.
    """
    run = RunFolder.open(run_folder)
    assignments = tables.read_assignments(run.path)
    embeddings = open_embeddings(run.path, rows=len(assignments))
    galleries = choose(assignments, embeddings, per_cluster=per_cluster, map_points=map_points)
    sample = galleries.sample if embeddings is not None else galleries.sample[:0]
    places = None
    if embeddings is not None and len(sample):
        places = place_points(np.asarray(embeddings[sample]), layout=layout)
    context = _context(_Report(run, assignments, galleries, places))

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
    context = {"comparison": tables.compare_runs(run_folders)}
    return _write(Path(out), _environment().get_template("compare.html.jinja").render(context).encode())


def _write(path: Path, page: bytes) -> Path:
    with atomic_write(path) as file:
        file.write(page)
    return path


# ---------------------------------------------------------------------------------------------------------- rendering


def visible(text: str) -> str:
    """Return a text with characters that hide or reorder others written as escapes; emoji and letters stay.

    >>> visible("a\\nb"), visible("cat\u202egnp.exe")
    ('a\\\\nb', 'cat\\\\u202egnp.exe')
    """
    if text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    joiner = character == "\u200d"  # joins emoji into one
    if joiner or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()


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
def _environment() -> jinja2.Environment:
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
    page = _environment().get_template(template).render(
        context,
        picture=partial(_picture, assignments, thumbnails),
        thumbnails=thumbnails,
        map_thumbnails=only_map,
    )
    return page.encode("utf-8", "replace")


def _picture(assignments: Assignments, thumbnails: Thumbnails, row: int) -> dict[str, Any]:
    """Return what a gallery shows of one image."""
    return {
        "row": int(row),
        "name": assignments.images[row],
        "uri": Markup(thumbnails.uris.get(int(row), "")),
        "note": _note(assignments, row),
        "confidence": None if np.isnan(assignments.confidence[row]) else f"{assignments.confidence[row]:.2f}",
    }


def _note(assignments: Assignments, row: int) -> str:
    words = [cluster_title(assignments.cluster_names[assignments.clusters[row]])]
    if not np.isnan(assignments.confidence[row]):
        words.append(f"confidence {assignments.confidence[row]:.3f}")
    if assignments.classes[row] >= 0:
        words.append(f"class {assignments.class_names[assignments.classes[row]]}")
    if assignments.splits[row] not in ("", "all"):
        words.append(str(assignments.splits[row]))
    return " · ".join(words)


def cluster_title(name: str) -> str:
    """Return how a cluster is called: "cluster 3", or its own name."""
    return f"cluster {name}" if re.fullmatch(r"\d+", name) else name


# ------------------------------------------------------------------------------------------------------- what to show


@dataclass(frozen=True, eq=False)
class _Report:
    """Everything a page is made of."""

    run: RunFolder
    assignments: Assignments
    galleries: Galleries
    places: np.ndarray | None

    @property
    def metrics(self) -> dict[str, Any]:
        return tables.read_optional_json(self.run.path / "metrics.json")

    @property
    def manifest(self) -> dict[str, Any]:
        return tables.read_optional_json(self.run.path / "manifest.json")


def _context(report: _Report) -> dict[str, Any]:
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
        "charts": charts(history),
        "classes": _classes(assignments, galleries),
        "uncertain": galleries.uncertain.tolist(),
        "histogram": _histogram(assignments),
        "tables": tables.read_tables(report.run.path),
        "metrics_table": tables.key_values("metrics.json", metrics),
        "config_table": tables.key_values("config.toml", report.run.config),
        "bad_images": _bad_images(report.run.path),
        "command": _command(manifest),
        "gallery_rows": {row for rows in galleries.shown() for row in rows.tolist()},
        "finished": plain(manifest.get("finished")),
        "smidgen_version": plain(manifest.get("smidgen")),
    }


def _title(manifest: Mapping[str, Any], run: RunFolder) -> str:
    data = manifest.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    return str(name) if name else run.path.resolve().name


def _lead(assignments: Assignments, manifest: Mapping[str, Any]) -> list[str]:
    """Return short phrases: how many images and clusters, by which method, knowing what."""
    splits, counts = np.unique(assignments.splits.astype(str), return_counts=True)
    named = {"train": "training ", "test": "test "}
    order = sorted(zip(splits, counts, strict=True), key=lambda pair: (pair[0] == "test", pair[0]))
    images = " and ".join(f"{thousands(count)} {named.get(str(split), '')}" for split, count in order)
    n = len(assignments.cluster_names)
    phrases = [f"{images.strip() or '0'} {_plural(len(assignments), 'image')[1]}", " ".join(_plural(n, "cluster"))]
    if "evidence" in manifest:
        phrases.append(_evidence(manifest["evidence"]))
    if n and all(re.fullmatch(r"\d+", name) for name in assignments.cluster_names):
        phrases.append("clusters carry numbers, not names")
    return phrases


def _plural(count: int, word: str) -> tuple[str, str]:
    return thousands(count), word if count == 1 else f"{word}s"


def _evidence(evidence: Any) -> str:
    if not evidence or evidence == "none":
        return "no evidence"
    if isinstance(evidence, Mapping):
        given = [f"{name} ({plain(value)})" if is_number(value) else name for name, value in evidence.items() if value]
        return f"evidence: {', '.join(given)}" if given else "no evidence"
    return f"evidence: {plain(evidence)}"


_FACTS = {"method": "Method", "encoder": "Encoder", "trained_on": "Trained on", "seed": "Seed"}
_VERSIONS = ("smidgen", "python", "torch", "torchvision", "timm")


def _facts(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) pairs for the header; what the run did not record does not appear."""
    data = manifest.get("data") if isinstance(manifest.get("data"), Mapping) else {}
    facts = [(word, plain(manifest.get(key))) for key, word in _FACTS.items()]
    shape = data.get("shape") if isinstance(data, Mapping) else None
    if isinstance(shape, list) and len(shape) == 3:
        facts.append(("Image size", f"{shape[2]} × {shape[1]}, {'grey' if shape[0] == 1 else 'colour'}"))
    if is_number(metrics.get("seconds")):
        facts.append(("Fitted in", duration(metrics["seconds"])))
    if is_number(metrics.get("peak_memory_mb")):
        facts.append(("Peak memory", f"{thousands(metrics['peak_memory_mb'])} MB"))
    device, threads = plain(manifest.get("device")), manifest.get("threads")
    facts.append(("Device", f"{device}, {' '.join(_plural(threads, 'thread'))}" if is_number(threads) else device))
    facts.append(("Finished", plain(manifest.get("finished"))))
    named = {key: plain(manifest[key]) for key in _VERSIONS if key in manifest}
    versions = manifest.get("versions")
    named |= {key: plain(value) for key, value in versions.items()} if isinstance(versions, Mapping) else {}
    facts.append(("Versions", ", ".join(f"{key} {value}" for key, value in named.items() if value)))
    return [(name, value) for name, value in facts if value]


def _command(manifest: Mapping[str, Any]) -> str:
    command = manifest.get("command") or ""
    return shlex.join(map(str, command)) if isinstance(command, list) else str(command)


_SCORES = {"accuracy": "Accuracy", "nmi": "NMI", "ari": "ARI"}
_MEANINGS = {
    "accuracy": "best one-to-one match",
    "nmi": "normalised mutual information",
    "ari": "adjusted Rand index",
}


def _tiles(assignments: Assignments, metrics: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the key figures: the scores of the test split where there are any, then what is always known."""
    splits = [s for s in ("test", "train", "all") if any(is_number(metrics.get(f"{s}_{key}")) for key in _SCORES)]
    for key, name in _SCORES.items() if splits else ():
        value = metrics.get(f"{splits[0]}_{key}")
        if value is not None and is_number(value):
            yield {"name": f"{name}, {splits[0]}", "value": _shown_score(key, value),
                   "note": _score_note(key, splits, metrics), "title": _MEANINGS[key]}  # fmt: skip
    sizes = np.bincount(assignments.clusters, minlength=len(assignments.cluster_names))
    if len(sizes):
        wanted = metrics.get("n_clusters")
        empty = int(wanted) - len(sizes) if is_number(wanted) else 0
        yield {"name": "Clusters", "value": thousands(len(sizes)),
               "note": f"{thousands(sizes.min())} to {thousands(sizes.max())} images"
               + (f", {empty} more are empty" if empty > 0 else ""), "title": ""}  # fmt: skip
    known = assignments.confidence[~np.isnan(assignments.confidence)]
    if len(known):
        yield {"name": "Mean confidence", "value": percent(known.mean()),
               "note": f"{percent((known < 0.5).mean())} of images below 0.5", "title": ""}  # fmt: skip


def _shown_score(key: str, value: float) -> str:
    return percent(value) if key == "accuracy" else f"{value:.3f}"


def _score_note(key: str, splits: Sequence[str], metrics: Mapping[str, Any]) -> str:
    words = []
    bounds = tables.interval(metrics, f"{splits[0]}_{key}")
    if bounds:
        low, high = (_shown_score(key, bound).removesuffix(" %") for bound in bounds)
        words.append(f"95 % interval {low}–{high}")
    others = [(s, metrics.get(f"{s}_{key}")) for s in splits[1:]]
    words.extend(f"{split} {_shown_score(key, value)}" for split, value in others if value and is_number(value))
    return " · ".join(words) or _MEANINGS[key]


def alarms(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return each alarm of the run once, with where it was raised.

    >>> alarms([{"stage": "heads", "step": 5, "alarms": ["One cluster is empty."]}], {})
    [{'text': 'One cluster is empty.', 'where': 'heads, step 5'}]
    """
    places: dict[str, list[str]] = {}
    for line in history:
        for text in line.get("alarms") or ():
            place = [plain(line.get("stage")), f"step {plain(line['step'])}" if "step" in line else ""]
            places.setdefault(str(text), []).append(", ".join(word for word in place if word))
    for text in metrics.get("alarms") or ():
        places.setdefault(str(text), []).append("at the end")
    return [{"text": text, "where": _span(where)} for text, where in places.items()]


def _span(where: Sequence[str]) -> str:
    return where[0] if len(where) == 1 else f"{len(where)} times: first {where[0]}, last {where[-1]}"


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
    sure = np.nan_to_num(assignments.confidence)
    stated = np.bincount(assignments.clusters[~np.isnan(assignments.confidence)], minlength=n_clusters)
    confidence = np.bincount(assignments.clusters, weights=sure, minlength=n_clusters) / np.maximum(stated, 1)
    return [
        {
            "number": c.number,
            "title": cluster_title(assignments.cluster_names[c.number]),
            "colour": cluster_colours[c.number],
            "size": int(sizes[c.number]),
            "share": sizes[c.number] / max(len(assignments), 1),
            "width": sizes[c.number] / sizes.max(),
            "confidence": f"{confidence[c.number]:.2f}" if stated[c.number] else "",
            "typical": c.typical.tolist(),
            "uncertain": c.uncertain.tolist(),
            **_dominant(counts[c.number], assignments.class_names),
        }
        for c in galleries.clusters
    ]


def _dominant(counts: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    if not counts.sum():
        return {"dominant": None, "purity": None}
    return {"dominant": class_names[int(counts.argmax())], "purity": float(counts.max() / counts.sum())}


def _map_data(
    report: _Report, cluster_colours: Sequence[str], class_colours: Sequence[str]
) -> dict[str, Any] | None:
    """Return what the page's script draws, names made visible here because no template touches them."""
    if report.places is None:
        return None
    assignments, rows = report.assignments, report.galleries.sample
    confidence = assignments.confidence[rows]
    clusters = zip(assignments.cluster_names, cluster_colours, strict=True)
    classes = zip(assignments.class_names, class_colours, strict=True)
    wrong = assignments.mistaken()[rows]
    return {
        "x": np.rint(1000 * report.places[:, 0]).astype(int).tolist(),
        "y": np.rint(1000 * report.places[:, 1]).astype(int).tolist(),
        "row": rows.tolist(),
        "id": [visible(assignments.images[row]) for row in rows],
        "note": [visible(_note(assignments, row)) for row in rows],
        "cluster": assignments.clusters[rows].tolist(),
        "class": assignments.classes[rows].tolist() if assignments.class_names else None,
        "wrong": np.flatnonzero(wrong).tolist(),
        "confidence": [None if np.isnan(value) else round(float(value), 3) for value in confidence],
        "clusters": [[visible(cluster_title(name)), colour, visible(name)] for name, colour in clusters],
        "classes": [[visible(name), colour, visible(name)] for name, colour in classes],
    }


def _map_note(assignments: Assignments, galleries: Galleries) -> str:
    if len(galleries.sample) == len(assignments):
        return "Each point is an image; images with similar embeddings lie together."
    return (
        f"Each point is one of {thousands(len(galleries.sample))} images, drawn alike from each cluster so that small"
        " clusters are seen; images with similar embeddings lie together."
    )


def _classes(assignments: Assignments, galleries: Galleries) -> dict[str, Any] | None:
    """Return the confusion matrix and the mistakes of the judged split, or None where no class is known."""
    split = assignments.judged_split
    counts = tables.confusion(assignments, split=split)
    if not counts.sum():
        return None
    every = np.arange(len(assignments.class_names))
    order = np.lexsort((np.arange(counts.shape[1]), np.where(assignments.class_of < 0, len(every), assignments.class_of)))
    counts, class_of = counts[:, order][:100, :100], assignments.class_of[order][:100]
    names = [assignments.cluster_names[k] for k in order[:100]]
    matched_on = "train" if (assignments.in_split("train")).any() else split
    judged = assignments.in_split(split)
    wrong = int((judged & assignments.mistaken()).sum())
    return {
        "split": split,
        "matched_on": matched_on,
        "images": int(judged.sum()),
        "wrong": wrong,
        "cut": max(len(every), len(order)) > 100,
        "matrix": figures.heat_map(
            counts, class_of[None, :] == every[:100, None],
            rows=[visible(name) for name in assignments.class_names[:100]],
            columns=[visible(name) for name in names],
            label=f"Confusion matrix of the {split} split: classes in rows, clusters in columns",
        ),
        "mistakes": [_mistake(assignments, mistake) for mistake in galleries.mistakes],
    }  # fmt: skip


def _mistake(assignments: Assignments, mistake: Any) -> dict[str, Any]:
    stands_for = int(assignments.class_of[mistake.cluster])
    return {
        "class_name": assignments.class_names[mistake.class_number],
        "cluster": cluster_title(assignments.cluster_names[mistake.cluster]),
        "stands_for": assignments.class_names[stands_for] if stands_for >= 0 else None,
        "count": mistake.count,
        "rows": mistake.rows.tolist(),
    }


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


# ---------------------------------------------------------------------------------------------------- training curves

_NOT_CURVES = {"stage", "step", "seconds", "epoch", "alarms"}
_SCORE_WORDS = ("accuracy", "nmi", "ari", "ami", "purity")


def charts(history: Sequence[Mapping[str, Any]], *, most: int = 24) -> list[dict[str, Any]]:
    """Return the training curves: the total loss first, then scores, other losses and rates, one figure each.

    history: the lines of `metrics.jsonl`. A score measured on several splits is one figure with several lines.
    """
    lines = [line for line in history if is_number(line.get("step"))]
    if not lines:
        return []
    steps, stages = _timeline(lines)
    found = []
    for name, keys in _figures_of(lines).items():
        series = {key: _strokes(lines, steps, key) for key in keys}
        if any(len(stroke) > 1 for strokes in series.values() for stroke in strokes):
            last = [(key, plain(float(strokes[-1][-1][1]))) for key, strokes in series.items()]
            chart = figures.line_chart(series, stages, label=f"{visible(name)} over training steps")
            found.append({"name": name, "last": last, "svg": chart})
    return found[:most]


def _timeline(lines: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[tuple[str, float, float]]]:
    """Return each line's step counted from the very start, and the stages with their first and last steps."""
    steps: list[float] = []
    stages: list[tuple[str, float, float]] = []
    offset = 0.0
    for line in lines:
        stage = str(line.get("stage", ""))
        begins = not stages or stage != stages[-1][0]
        if begins and steps and line["step"] + offset < steps[-1]:
            offset = steps[-1]  # this run counts the steps of each stage from zero
        steps.append(line["step"] + offset)
        if begins:
            stages.append((visible(stage), steps[-2] if len(steps) > 1 else min(steps[0], 0.0), steps[-1]))
        else:
            stages[-1] = (*stages[-1][:2], max(steps[-1], stages[-1][2]))
    return steps, stages


def _figures_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    keys = list(dict.fromkeys(key for line in lines for key, value in line.items() if is_number(value)))
    found: dict[str, list[str]] = {}
    for key in keys:
        score = next((word for word in _SCORE_WORDS if key == word or key.endswith(f"_{word}")), None)
        if key not in _NOT_CURVES and len(found.get(score or key, ())) < 3:
            found.setdefault(score or key, []).append(key)
    place = {"total": 0, "learning_rate": 3} | dict.fromkeys(_SCORE_WORDS, 1)
    return dict(sorted(found.items(), key=lambda item: place.get(item[0], 2)))


def _strokes(lines: Sequence[Mapping[str, Any]], steps: Sequence[float], key: str) -> list[list[figures.Point]]:
    strokes: list[list[figures.Point]] = []
    stage = None
    for line, step in zip(lines, steps, strict=True):
        if is_number(line.get(key)):
            if not strokes or line.get("stage") != stage:
                strokes.append([])
            stage = line.get("stage")
            strokes[-1].append((step, float(line[key])))
    return strokes
