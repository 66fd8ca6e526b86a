"""The top and the foot of a report: what was fitted to what and how well, and what to do with the result."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from smidgen.evidence.kinds import KINDS, kind_of
from smidgen.reports import tables
from smidgen.reports.names import is_numbered
from smidgen.reports.tables import Assignments, duration, is_number, percent, plain, thousands
from smidgen.run_folder import RunFolder


def title(manifest: Mapping[str, Any], run: RunFolder) -> str:
    """Return the name of the data, or, where that is not known, of the folder."""
    data = manifest.get("data")
    name = data.get("name") if isinstance(data, Mapping) else data
    last = str(name or "").rstrip("/").rpartition("/")[2]  # the facts have the whole path
    return last or run.path.resolve().name


def lead(assignments: Assignments, manifest: Mapping[str, Any]) -> list[str]:
    """Return short phrases: how many images and clusters, by which method, knowing what."""
    splits, counts = np.unique(assignments.splits.astype(str), return_counts=True)
    named = {"train": "training ", "test": "test "} if len(splits) > 1 else {}
    order = sorted(zip(splits, counts, strict=True), key=lambda pair: (pair[0] == "test", pair[0]))
    images = " and ".join(f"{thousands(count)} {named.get(str(split), '')}" for split, count in order)
    n = len(assignments.cluster_names)
    phrases = [f"{images.strip() or '0'} {_plural(len(assignments), 'image')[1]}", " ".join(_plural(n, "cluster"))]
    phrases.extend(_evidence(manifest))
    if n and all(map(is_numbered, assignments.cluster_names)) and not _names_classes(manifest.get("evidence")):
        phrases.append("clusters carry numbers, not names")
    return phrases


def _plural(count: float, word: str) -> tuple[str, str]:
    return thousands(count), word if count == 1 else f"{word}s"


def _names_classes(evidence: Any) -> bool:
    """Return whether there was evidence that names classes: if they are called 1, 2, …, these numbers are names."""
    kinds = evidence if isinstance(evidence, Mapping) else {}
    return any(kind_of(name).class_at is not None for name in KINDS if kinds.get(name))


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


def facts(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
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
    if isinstance(first := manifest.get("frozen"), Mapping):
        about = f"{plain(first.get('method'))} on {plain(first.get('encoder'))}, frozen; its report is in frozen/"
        facts.append(("Started from", about))
    facts.append(("Fine-tuning", plain(metrics.get("fine_tuning"))))
    shape = data.get("shape") if isinstance(data, Mapping) else None
    if isinstance(shape, list) and len(shape) == 3:
        colour = "grey" if shape[0] == 1 else "colour"
        vectors = shape[1:] == [1, 1]
        facts.append(
            ("Embeddings", f"{thousands(shape[0])} numbers each")
            if vectors
            else ("Image size", f"{shape[2]} × {shape[1]}, {colour}")
        )
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


def next_steps(assignments: Assignments, *, has_pictures: bool) -> list[tuple[str, str]]:
    """Return what to do with the result, and the command for it; nothing for a run without images.

    has_pictures: False for ready embeddings, which cannot be sorted into folders.
    """
    if not len(assignments):
        return []
    steps = [("Get a table with each image’s cluster", "smidgen export RUN --to csv --out clusters.csv")]
    if has_pictures:
        steps.insert(
            0, ("Sort the images into a folder for each cluster", "smidgen export RUN --to folders --out sorted")
        )
    steps.append(("Find the clusters of new images", "smidgen predict RUN NEW_IMAGES"))
    if not assignments.class_names:
        words = "Teach it names: write some images’ classes into a table with columns image and label, and fit again"
        steps.append((words, "smidgen fit DATA --labels labels.csv --out NEW_RUN"))
    return steps


def _moment(value: Any) -> str:
    """Return an ISO 8601 time as people write it."""
    return plain(value).replace("T", " ").replace("+00:00", " UTC")


def command(manifest: Mapping[str, Any]) -> str:
    """Return the command that makes the run again, in the same folder: one that resumes or refuses would not.

    >>> command({"command": ["smidgen", "fit", "mnist", "--out", "runs/a", "--resume"]})
    'smidgen fit mnist --out runs/a --overwrite'
    """
    command = manifest.get("command") or ""
    if not isinstance(command, list):
        return str(command)
    words = [str(word) for word in command if word not in ("--resume", "--overwrite")]
    return shlex.join([*words, "--overwrite"] if "fit" in words[:2] or "run" in words[:2] else words)


_SCORES = {"named_accuracy": "Named accuracy", "accuracy": "Accuracy", "nmi": "NMI", "ami": "AMI", "ari": "ARI"}
_MEANINGS = {
    "named_accuracy": "by the clusters’ own names",
    "accuracy": "best one-to-one match",
    "nmi": "normalised mutual information",
    "ami": "mutual information adjusted for chance",
    "ari": "adjusted Rand index",
}


def tiles(assignments: Assignments, metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the key figures: the scores of the test split where there are any, then what is always known."""
    splits = [s for s in ("test", "train", "all") if any(is_number(metrics.get(f"{s}_{key}")) for key in _SCORES)]
    for key, name in _SCORES.items() if splits else ():
        value = metrics.get(f"{splits[0]}_{key}")
        if is_number(value):
            notes = _score_notes(key, splits, metrics)
            if key == "accuracy" and (right := _right_by_map(assignments, splits[0])) is not None:
                if assignments.has_more_clusters:
                    words = "each cluster stands for its most frequent class among training images"
                    yield _tile(f"Accuracy by majority, {splits[0]}", percent(right), words)
                else:
                    notes.append(f"{percent(right)} by the match on training images")
            yield _tile(f"{name}, {splits[0]}", _shown_score(key, value), *notes)
    sizes = np.bincount(assignments.clusters, minlength=len(assignments.cluster_names))
    if len(sizes):
        wanted = metrics.get("n_clusters")
        empty = int(wanted) - len(sizes) if is_number(wanted) else 0
        spread = f"{thousands(sizes.min())} to {thousands(sizes.max())} images"
        ends = [metrics.get(f"n_clusters_{end}") for end in ("low", "high")]
        found = (
            f"found by the run, {ends[0]} to {ends[1]} within one standard error" if all(map(is_number, ends)) else ""
        )
        yield _tile("Clusters", thousands(len(sizes)), spread, found, f"{empty} more are empty" if empty > 0 else "")
    known = assignments.confidence[~np.isnan(assignments.confidence)]
    if len(known):
        below = f"{percent((known < 0.5).mean())} of images below 50 %"
        yield _tile("Mean confidence", percent(known.mean()), below)


def _right_by_map(assignments: Assignments, split: str) -> float | None:
    """Return the share of test images that are of the class their cluster got in training; None without any."""
    judged = assignments.in_split(split)
    if split != "test" or not judged.any() or not assignments.in_split("train").any():
        return None
    return 1 - float(assignments.mistaken()[judged].mean())


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
    words += [f"{split} {_shown_score(key, value)}" for split, value in others if is_number(value)]
    frozen = metrics.get(f"frozen_{splits[0]}_{key}")
    return words + ([f"before fine-tuning {_shown_score(key, frozen)}"] if is_number(frozen) else [])
