"""Variants of a recipe compared: a table of results, and overlaid learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

from smidgen.csv_tables import write_csv
from smidgen.files import atomic_write, read_toml, write_json
from smidgen.reports import figures, grid
from smidgen.reports.curves import strokes_of, timeline
from smidgen.reports.markdown import markdown_table
from smidgen.reports.page import templates
from smidgen.reports.seeds import summarise, with_spread
from smidgen.reports.tables import Table, flatten, is_number, plain, read_optional_json
from smidgen.run_folder import RunFolder

FILES = ("recipe.toml", "summary.json", "table.md", "table.csv", "report.html", *grid.FILES)
"""What stands beside the folders of the variants."""

_SCORES = {
    "accuracy": "{split} accuracy",
    "named_accuracy": "by name",
    "mapped_accuracy": "by training images' classes",
    "nmi": "NMI",
    "ami": "AMI",
    "ari": "ARI",
    "ucc_accuracy": "ucc accuracy",
    "paper_ucc_accuracy": "ucc accuracy, bags of 32",
    "kmeans_accuracy": "k-means of features",
    "spectral_accuracy": "spectral",
    "min_js": "min JS",
    "proportion_error": "proportion error",
    "class_count_accuracy": "class counts",
    "report_class_count_accuracy": "class counts as the report divides",
    "reconstruction_error": "reconstruction error",
    "reconstruction_error_shuffled": "of another's features",
}
_COSTS = {"steps": "steps", "seconds": "seconds"}
_CURVES = {
    "total": "loss",
    "sample_accuracy": "accuracy, sample of training images",
    "ucc_accuracy": "ucc accuracy, training bags",
    "ucc": "loss of unique counts",
    "class_counts": "loss of class counts",
    "reconstruction": "loss of reconstruction",
}


# ------------------------------------------------------------------------------------------------------- the summary


class _Failed(TypedDict, total=False):
    failed: str


class _Summary(TypedDict, total=False):
    """What is read again of `summary.json`."""

    folders: dict[str, str]
    variants: dict[str, _Failed]


def folders_in(out: Path) -> dict[str, str]:
    """Return the folders of the variants that were run into a folder, by the variants' names; empty if none were."""
    return read_optional_json(out / "summary.json", _Summary).get("folders", {})


def read_failures(out: Path) -> dict[str, str]:
    """Return the sentence of each variant in a folder that failed when it was last run, by its name."""
    variants = read_optional_json(out / "summary.json", _Summary).get("variants", {})
    return {name: variant["failed"] for name, variant in variants.items() if "failed" in variant}


def write_variants(
    out: Path,
    folders: Mapping[str, str],
    *,
    recipe: str,
    names: Sequence[str],
    failures: Mapping[str, str],
    sweep: grid.Grid | None = None,
) -> dict[str, Any]:
    """Write `summary.json`, `table.md`, `table.csv` and `report.html`, and return the summary.

    For each variant it has what `summarise` says of its finished runs, its "folder", and "failed" if it did.

    folders: of all variants there ever were here, by name. recipe: its name. names: of its variants, in order.
    failures: name → sentence. sweep: where each variant stands in the table of one, which is written too.
    """
    variants: dict[str, Any] = {}
    for name in names:
        folder = out / folders[name]
        runs = summarise(folder, name=name) if folder.is_dir() else {"seeds": [], "figures": {}, "alarms": {}}
        failed = {"failed": failures[name]} if name in failures else {}
        variants[name] = {"folder": folders[name], **runs, **failed}
    summary = {"recipe": recipe, "folders": dict(folders), "variants": variants}
    write_json(out / "summary.json", summary)
    write_csv(out / "table.csv", numbers(summary))
    with atomic_write(out / "table.md") as file:
        file.write(markdown(summary).encode())
    with atomic_write(out / "report.html") as file:
        file.write(_page(out, summary, sweep).encode("utf-8", "replace"))
    if sweep is not None:
        grid.write_grid(out, sweep, summary)
    return summary


# --------------------------------------------------------------------------------------------------------- the table


def columns(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures that a table of the variants shows, those that any of them has, with their titles.

    Scores are those of the test images, or where no class of those is known of the training images.
    """
    found = {key for variant in summary["variants"].values() for key in variant["figures"]}
    split = next((s for s in ("test", "train", "all") if any(f"{s}_{score}" in found for score in _SCORES)), "")
    scores = {f"{split}_{score}": title.format(split=split) for score, title in _SCORES.items()}
    return {key: title for key, title in (scores | _COSTS).items() if key in found}


def rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the table as texts, the header first: name, mean ± standard deviation of each figure, seeds, and notes.

    The last column says what failed, has not been run or was stopped by time; there is none if there is nothing to say.
    """
    shown = columns(summary)
    table = [["variant", *shown.values(), "seeds", "note"]]
    for name, variant in summary["variants"].items():
        seeds = " ".join(map(str, variant["seeds"]))
        table.append([name, *(_cell(variant["figures"], key) for key in shown), seeds, _note(variant)])
    return table if any(row[-1] for row in table[1:]) else [row[:-1] for row in table]


def _cell(found: Mapping[str, Any], key: str) -> str:
    """Return a figure as it stands in the table; where all seeds have as many steps there is no spread to tell."""
    if key not in found:
        return ""
    if key in _COSTS:
        return with_spread({**found[key], "spread": found[key]["spread"] or None}, "{:,.0f}".format)
    return with_spread(found[key])


def _note(variant: Mapping[str, Any]) -> str:
    notes = ["time was up"] if "stopped_early" in variant else []
    if "failed" in variant:
        notes.append(f"failed: {variant['failed']}")
    elif not variant["seeds"]:
        notes.append("not run")
    return "; ".join(notes)


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the table as GitHub writes tables."""
    return markdown_table(rows(summary))


def numbers(summary: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the table as columns of plain numbers: for each figure its mean and, as `<figure>_sd`, its spread."""
    variants = summary["variants"]
    table: dict[str, list[Any]] = {
        "variant": list(variants),
        "folder": [variant["folder"] for variant in variants.values()],
        "seeds": [" ".join(map(str, variant["seeds"])) for variant in variants.values()],
    }
    for key in columns(summary):
        found = [variant["figures"].get(key, {}) for variant in variants.values()]
        table[key] = [figure.get("mean") for figure in found]
        table[f"{key}_sd"] = [figure.get("spread") for figure in found]
    return table | {"note": [_note(variant) for variant in variants.values()]}


# ---------------------------------------------------------------------------------------------------------- the page


def _page(out: Path, summary: Mapping[str, Any], sweep: grid.Grid | None) -> str:
    header, *body = rows(summary)
    variants = summary["variants"]
    links = [
        [(seed, quote(f"{v['folder']}/seed-{seed}/report.html")) for seed in v["seeds"]] for v in variants.values()
    ]
    colours = zip(variants, figures.palette(len(variants)), strict=True)
    context = {
        "title": summary["recipe"],
        "sweep": None if sweep is None else grid.section(out, sweep, summary),
        "facts": _facts([variant["machine"] for variant in variants.values() if "machine" in variant]),
        "header": header,
        "rows": body,
        "seeds_column": header.index("seeds"),
        "links": links,
        "colours": list(colours),
        "curves": curves(out, summary),
        "settings": differences(out, summary),
        "alarms": [(name, seed, text) for name, v in variants.items() for seed, a in v["alarms"].items() for text in a],
    }
    return templates().get_template("variants.html.jinja").render(context)


_FACTS = {"trained_on": "Trained on", "processor": "Processor", "threads": "Threads", "torch": "torch", "git": "Commit"}


def _facts(machines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return what all variants ran on, as (name, value)."""
    found = {name: {plain(machine.get(key)) for machine in machines} for key, name in _FACTS.items()}
    return [(name, values.pop()) for name, values in found.items() if len(values) == 1 and "" not in values]


def curves(out: Path, summary: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the learning curves of the finished runs, ("steps" or "seconds", one figure each for loss and scores).

    A figure has a line for each run, in the colour of its variant, from `metrics.jsonl`.
    """
    histories = {
        name: [RunFolder(out / variant["folder"] / f"seed-{seed}").history() for seed in variant["seeds"]]
        for name, variant in summary["variants"].items()
    }
    found = []
    for axis in ("steps", "seconds"):
        drawn = [(title, _chart(histories, key, axis, title)) for key, title in _CURVES.items()]
        found.append((axis, [{"name": title, "svg": svg} for title, svg in drawn if svg]))
    return [(axis, charts) for axis, charts in found if charts]


def _chart(histories: Mapping[str, Sequence[Any]], key: str, axis: str, title: str) -> str:
    """Return a figure as SVG, empty if no run has two points of it."""
    series: dict[str, list[list[figures.Point]]] = {}
    for name, runs in histories.items():
        series[name] = []
        for history in runs:
            lines = [line for line in history if is_number(line.get("step")) and is_number(line.get("seconds"))]
            places = timeline(lines)[0] if axis == "steps" else [float(line["seconds"]) for line in lines]
            series[name] += strokes_of(lines, places, key)
    strokes = [stroke for some in series.values() for stroke in some]
    if not any(len(stroke) > 1 for stroke in strokes):
        return ""
    last = max(stroke[-1][0] for stroke in strokes)
    return figures.line_chart(series, [("", 0.0, last)], label=f"{title} over {axis}, a line for each run", axis=axis)


def differences(out: Path, summary: Mapping[str, Any]) -> Table:
    """Return the settings in which the variants that were run differ: a row each, a column for each variant.

    Seeds are none of them.
    """
    paths = {name: out / variant["folder"] / "recipe.toml" for name, variant in summary["variants"].items()}
    settings = {name: dict(flatten(read_toml(path))) for name, path in paths.items() if path.exists()}
    keys = dict.fromkeys(key for table in settings.values() for key in table if key not in ("seed", "seeds"))
    table = [[key, *(plain(setting.get(key)) for setting in settings.values())] for key in keys]
    differing = [row for row in table if len(set(row[1:])) > 1]
    return Table("Settings that differ", ["name", *settings], differing, len(differing))
