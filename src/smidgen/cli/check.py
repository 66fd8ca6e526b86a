"""`smidgen check`: what a collection of images holds, and what might go wrong with it, before anything is fitted."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, printable, progress
from smidgen.cli.data import add_data, add_reading, require_data
from smidgen.cli.parsing import whole_number

if TYPE_CHECKING:
    from smidgen.data.datasets import Dataset

_EXAMPLES = 3
_FEW_PER_CLUSTER = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    parser.add_argument("--clusters", metavar="N", type=whole_number(1), help="how many clusters you mean to ask for")
    add_reading(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


@dataclass
class Findings:
    """What was found. sizes: (width, height) in the files, with how often; groups: rows with the same content."""

    dataset: Dataset
    splits: list[str]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    groups: list[list[int]] = field(default_factory=list)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 2 if `smidgen fit` would refuse it."""
    from smidgen.data.datasets import DATASETS, open_dataset

    require_data(args.data)
    with progress(quiet=args.quiet) as console:
        dataset = open_dataset(
            args.data,
            split="all",
            size=args.size,
            resize=args.resize,
            allow_bad=1.0,
            progress=console.of("read images"),
        )
        found = look(dataset, console)
    default = DATASETS[args.data].n_classes if args.data in DATASETS else 10
    n_clusters = args.clusters or default
    refusals = _refusals(found, n_clusters=n_clusters, allow_bad=args.allow_bad)
    advice = _advice(found, n_clusters=n_clusters)
    if args.json:
        print(json.dumps(_summary(found) | {"refusals": refusals, "advice": advice}, indent=2))
    else:
        print("\n".join(map(printable, _shown(found))))
        for title, sentences in (("`smidgen fit` would refuse this", refusals), ("worth knowing", advice)):
            if sentences:
                print("\n".join((f"\n{title}:", *(f"  - {printable(sentence)}" for sentence in sentences))))
    return 2 if refusals else 0


def look(dataset: Dataset, console: Progress) -> Findings:
    """Return what is in a dataset: sizes as the files have them, and groups of images that are the same to the byte."""
    from smidgen.data.images import BadImage, image_size

    found = Findings(dataset, [_split_of(dataset, row) for row in range(len(dataset))])
    rows_of: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(dataset)):
        try:
            content = dataset.images[row].tobytes() if dataset.items is None else dataset.items[row].read()
            size = dataset.images.shape[:1:-1] if dataset.items is None else image_size(content)
        except BadImage:  # gone since it was read
            continue
        found.sizes[(int(size[0]), int(size[1]))] += 1
        rows_of[hashlib.sha256(content).digest()].append(row)
        if row % 64 == 0 or row == len(dataset) - 1:
            console.update("compare", row + 1, len(dataset))
    found.groups = [rows for rows in rows_of.values() if len(rows) > 1]
    return found


def _split_of(dataset: Dataset, row: int) -> str:
    """Return "train", "test", "elsewhere", or "" in a collection without splits."""
    if dataset.items is not None:
        return dataset.items[row].split or ""
    split = str(dataset.ids[row]).partition("/")[0]
    return "" if split == "all" else split


def _refusals(found: Findings, *, n_clusters: int, allow_bad: float) -> list[str]:
    """Return why `smidgen fit` would refuse, as sentences."""
    n_good, n_bad = len(found.dataset), len(found.dataset.skipped)
    n_train = n_good - sum(split not in ("", "train") for split in found.splits)
    sentences = []
    if n_bad > allow_bad * (n_good + n_bad):
        share = -(-100 * n_bad // (n_good + n_bad)) / 100
        sentences.append(
            f"{n_bad:,} of {n_good + n_bad:,} images cannot be read: repair or remove them, or pass"
            f" `--allow-bad {share:g}`."
        )
    if n_train < n_clusters:
        sentences.append(
            f"{n_train:,} images cannot make {n_clusters} clusters: add images or pass `--clusters {max(n_train, 1)}`."
        )
    return sentences


def _advice(found: Findings, *, n_clusters: int) -> list[str]:
    """Return what is worth knowing, as sentences."""
    dataset, sentences = found.dataset, []
    n_train = sum(split in ("", "train") for split in found.splits)
    if n_clusters <= n_train < _FEW_PER_CLUSTER * n_clusters:
        sentences.append(
            f"{n_train:,} images are few for {n_clusters} clusters ({n_train / n_clusters:.0f} each):"
            " expect rough ones, or pass fewer `--clusters`."
        )
    spare = sum(len(rows) - 1 for rows in found.groups)
    if spare:
        ids = [str(dataset.ids[row]) for row in found.groups[0][:2]]
        sentences.append(f"{spare:,} images are exact copies of others, for example {ids[0]!r} and {ids[1]!r}.")
    leaks = sum({"train", "test"} <= {found.splits[row] for row in rows} for rows in found.groups)
    if leaks:
        sentences.append(f"{leaks:,} images are in both train and test: scores on the test images flatter.")
    if dataset.classes is not None:
        torn = sum(len({int(dataset.classes[row]) for row in rows}) > 1 for rows in found.groups)
        if torn:
            sentences.append(f"{torn:,} groups of exact copies are in several classes.")
        sentences.append(
            "Classes are used for scores only; no method is shown them unless it is asked to be supervised."
        )
    side = dataset.images.shape[-1]
    width, height = max(found.sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    if max(width, height) > 2 * side:
        sentences.append(f"Images of up to {width} × {height} are made into {side} × {side}: `--size` changes that.")
    return sentences


def _summary(found: Findings) -> dict[str, Any]:
    dataset = found.dataset
    classes = Counter() if dataset.classes is None else Counter(dataset.classes.tolist())
    return {
        "data": dataset.name,
        "n_images": len(dataset),
        "splits": {split: n for split, n in Counter(found.splits).items() if split},
        "image_shape": [int(length) for length in dataset.images.shape[1:]],
        "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in found.sizes.most_common(20)],
        "classes": {name: classes[row] for row, name in enumerate(dataset.class_names)} if classes else {},
        "skipped": [{"image": bad.id, "reason": bad.reason} for bad in dataset.skipped],
        "ignored": dataset.ignored,
        "duplicates": [[str(dataset.ids[row]) for row in rows] for rows in found.groups],
    }


def _shown(found: Findings) -> list[str]:
    summary = _summary(found)
    channels, height, width = summary["image_shape"]
    splits = ", ".join(f"{n:,} {split}" for split, n in summary["splits"].items())
    sizes = [f"{w} × {h}" for w, h in found.sizes]
    areas = sorted(found.sizes, key=lambda size: size[0] * size[1])
    if len(sizes) > 1:
        ends = [f"{w} × {h}" for w, h in (areas[0], areas[-1])]
        sizes = [f"{len(sizes):,} different, {ends[0]} to {ends[1]}"]
    rows = [
        ("images", f"{summary['n_images']:,}{f' ({splits})' if splits else ''}"),
        (
            "size",
            f"{sizes[0] if sizes else 'unknown'}; seen as {width} × {height}, {'grey' if channels == 1 else 'colour'}",
        ),
        ("classes", _shown_classes(summary["classes"])),
        ("copies", f"{sum(len(rows) - 1 for rows in found.groups):,}"),
        ("unreadable", f"{len(summary['skipped']):,}"),
    ]
    if summary["ignored"]:
        rows.append(("passed over", f"{summary['ignored']:,} files of other kinds"))
    lines = [f"{name:<12}{value}" for name, value in rows]
    reasons = Counter(bad["reason"] for bad in summary["skipped"])
    at = lines.index(f"{'unreadable':<12}{len(summary['skipped']):,}") + 1
    lines[at:at] = [
        f"{'':<12}{n:,}: {reason}, {_examples([b['image'] for b in summary['skipped'] if b['reason'] == reason])}"
        for reason, n in reasons.most_common(8)
    ]
    return lines


def _examples(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_EXAMPLES])) + (", …" if len(names) > _EXAMPLES else "")


def _shown_classes(classes: dict[str, int]) -> str:
    if not classes:
        return "not known"
    if len(classes) <= 12:
        return f"{len(classes)}: " + ", ".join(f"{name} {n:,}" for name, n in classes.items())
    return f"{len(classes)}, of {min(classes.values()):,} to {max(classes.values()):,} images"
