"""`smidgen check`: what a collection of images holds, and what might go wrong with it, before anything is fitted."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, printable, progress, with_option_names
from smidgen.cli.data import DATA_HELP, add_reading, add_several_data, require_data
from smidgen.cli.evidence import add_evidence, evidence_paths
from smidgen.cli.files import require_new_file
from smidgen.cli.machine import add_machine, machine
from smidgen.cli.parsing import text, whole_number
from smidgen.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from smidgen.data.datasets import Dataset
    from smidgen.evidence.evidence import Evidence
    from smidgen.evidence.findings import Finding
    from smidgen.inspection.issues import Issue

_EXAMPLES = 3
_FEW_PER_CLUSTER = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_several_data(parser, DATA_HELP)
    parser.add_argument("--clusters", metavar="N", type=whole_number(1), help="how many clusters you mean to ask for")
    add_reading(parser)
    add_evidence(parser)
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        type=text,
        help="look for outliers and look-alikes among this encoder's embeddings, see `smidgen list encoders`",
    )
    add_machine(parser)
    parser.add_argument(
        "--out", metavar="FILE.csv", type=text, help="write every image that deserves a look to a table"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace that table if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


@dataclass
class Findings:
    """What was found. sizes: (width, height) in the files, with how often; groups: rows with the same content.

    issues: what deserves a look, by kind, the worst first.
    """

    dataset: Dataset
    splits: list[str]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    groups: list[list[int]] = field(default_factory=list)
    issues: dict[str, list[Issue]] = field(default_factory=dict)


def run(args: argparse.Namespace) -> int:
    """Print what was found; 2 if `smidgen fit` would refuse it."""
    from smidgen.data.datasets import DATASETS, open_dataset

    require_data(args.data)
    if args.out is not None:
        require_new_file(Path(args.out), overwrite=args.overwrite)
    paths, heard = evidence_paths(args), list[str]()
    with progress(quiet=args.quiet, hear=heard.append) as console, machine(args) as device:
        evidence = _read_evidence(paths)
        dataset = open_dataset(
            args.data,
            split="all",
            size=args.size,
            resize=args.resize,
            value_range=args.value_range,
            allow_bad=1.0,
            other_size=_other_size(args),
            exclude=args.exclude,
            progress=console.of("read images"),
        )
        if dataset.holds_vectors:
            raise InputError(f"{args.data!r} holds ready embeddings: there are no pictures to look at.")
        found = look(dataset, console, encoder=args.encoder, device=device)
        n_clusters = args.clusters or (DATASETS[args.data].n_classes if args.data in DATASETS else 10)
        refusals = _refusals(found, n_clusters=n_clusters, allow_bad=args.allow_bad)
        known, findings = ({}, []) if evidence is None else _about_evidence(evidence, found, args, n_clusters, refusals)
    found.dataset = replace(found.dataset, notes=(*found.dataset.notes, *heard))
    advice = _advice(found, n_clusters=n_clusters)
    if args.out is not None:
        _write(Path(args.out), found)
    if args.json:
        about = {"evidence": {"sizes": known, "findings": [vars(finding) for finding in findings]}} if paths else {}
        print(json.dumps(_summary(found) | about | {"refusals": refusals, "advice": advice}, indent=2))
    else:
        sizes = [f"{'evidence':<12}{', '.join(f'{n:,} {kind}' for kind, n in known.items())}"] if known else []
        print("\n".join(map(printable, [*_shown(found), *sizes])))
        titled = {"`smidgen fit` would refuse this": refusals, "worth knowing": advice}
        for title, sentences in (titled | {"about the evidence": list(map(str, findings))}).items():
            if sentences:
                print("\n".join((f"\n{title}:", *(f"  - {printable(sentence)}" for sentence in sentences))))
    return 2 if refusals else 0


def _other_size(args: argparse.Namespace) -> int:
    """Return the side of images that are not of one small size, as `smidgen fit` has it."""
    from smidgen.config import Config
    from smidgen.setup.encoder import other_size

    return other_size(Config(data=args.data, encoder=args.encoder))


def look(dataset: Dataset, console: Progress, *, encoder: str | None = None, device: str = "cpu") -> Findings:
    """Return what is in a dataset: sizes as the files have them, groups of the same bytes, and images with issues.

    encoder: the net whose embeddings outliers and look-alikes are found among; None is none. device: what it runs on.
    """
    import numpy as np

    from smidgen.data.images import BadImage, image_size
    from smidgen.inspection.search import find_issues

    found = Findings(dataset, [dataset.split_of(row) for row in range(len(dataset))])
    sizes = np.zeros((len(dataset), 2), dtype=np.int64)
    rows_of: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(dataset)):
        try:
            content = dataset.content(row) if dataset.items is None else dataset.items[row].read()
            size = dataset.images.shape[:1:-1] if dataset.items is None else image_size(content)
        except BadImage:  # gone since it was read
            continue
        sizes[row] = size
        found.sizes[(int(size[0]), int(size[1]))] += 1
        rows_of[hashlib.sha256(content).digest()].append(row)
        if row % 64 == 0 or row == len(dataset) - 1:
            console.update("compare", row + 1, len(dataset))
    found.groups = [rows for rows in rows_of.values() if len(rows) > 1]
    embeddings = None if encoder is None else _embedded(dataset, encoder, console, device)
    issues = find_issues(
        [dataset.images],
        embeddings=embeddings,
        look_alikes=True,
        sizes=sizes,
        content=dataset.content,
        progress=console.update,
    )
    for issue in issues:
        found.issues.setdefault(issue.kind, []).append(issue)
    return found


def _read_evidence(paths: Mapping[str, str]) -> Evidence | None:
    from smidgen.evidence.evidence import Evidence

    return Evidence.from_files(**paths) if paths else None


def _about_evidence(
    evidence: Evidence, found: Findings, args: argparse.Namespace, n_clusters: int, refusals: list[str]
) -> tuple[dict[str, int], list[Finding]]:
    """Return how much evidence there is and what it leaves open; adds to `refusals` why `smidgen fit` refuses it."""
    from smidgen.evidence.feasibility import feasibility

    rows = [row for row, split in enumerate(found.splits) if split in ("", "train")]
    skipped = [bad.id for bad in found.dataset.skipped]
    try:
        resolved = evidence.resolve(
            found.dataset.ids[rows],
            n_clusters=n_clusters,
            skipped=skipped,
            keep_contradictory_pairs=args.keep_contradictory_pairs,
            data=found.dataset.name,
        )
    except InputError as error:
        refusals.append(with_option_names(str(error)))
        return {}, []
    return resolved.sizes(), feasibility(resolved, n_clusters)


def _embedded(dataset: Dataset, encoder: str, console: Progress, device: str) -> np.ndarray:
    from smidgen.embedding.run import embed_images
    from smidgen.nets.pretrained import pretrained_encoder

    net = pretrained_encoder(encoder, flip=True)  # as `fit` does, so that both find it in the cache
    return embed_images(dataset.images, net, device=device, progress=console.of("embed"))


def _write(path: Path, found: Findings) -> None:
    """Write all issues as a table: image, split, kind, score and group."""
    from smidgen.csv_tables import write_csv
    from smidgen.inspection.issues import issue_columns

    issues = [issue for issues in found.issues.values() for issue in issues]
    write_csv(path, issue_columns(issues, found.dataset.ids.tolist(), found.splits))


def _refusals(found: Findings, *, n_clusters: int, allow_bad: float) -> list[str]:
    """Return why `smidgen fit` would refuse, as sentences."""
    from smidgen.data.datasets import allowing, too_many_bad

    n_train = sum(split in ("", "train") for split in found.splits)
    sentences = []
    good, bad = Counter(found.splits), Counter(skipped.split or "" for skipped in found.dataset.skipped)
    for split in ("", "train", "test"):
        total = good[split] + bad[split]
        if too_many_bad(bad[split], total=total, allow_bad=allow_bad):
            enough = allowing(bad[split], total=total)
            sentences.append(
                f"{bad[split]:,} of {total:,} {split and f'{split} '}images cannot be read: repair or remove"
                f" them{enough and f', or pass `--allow-bad {enough}`'}."
            )
    if n_train < n_clusters:
        sentences.append(
            f"{n_train:,} images cannot make {n_clusters} clusters: add images or pass `--clusters {max(n_train, 1)}`."
        )
    return sentences


def _advice(found: Findings, *, n_clusters: int) -> list[str]:
    """Return what is worth knowing, as sentences."""
    dataset, sentences = found.dataset, list(map(with_option_names, found.dataset.doubts))
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
    near = _near_leaks(found)
    if near:
        sentences.append(f"{near:,} test images are near copies of training images: scores on them flatter.")
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


def _near_leaks(found: Findings) -> int:
    """Return how many test images are in one group with a training image without being the same bytes as any."""
    copies = [*found.issues.get("duplicate", []), *found.issues.get("near_duplicate", [])]
    trained = {issue.group for issue in copies if found.splits[issue.row] == "train"}
    same = {row for rows in found.groups if any(found.splits[row] == "train" for row in rows) for row in rows}
    return sum(found.splits[i.row] == "test" and i.group in trained and i.row not in same for i in copies)


def _summary(found: Findings) -> dict[str, Any]:
    dataset = found.dataset
    classes = Counter() if dataset.classes is None else Counter(dataset.classes.tolist())
    return {
        "data": dataset.name,
        "n_images": len(dataset),
        "splits": {split: n for split, n in Counter(found.splits).items() if split},
        "image_shape": [int(length) for length in dataset.images.shape[1:]],
        "value_range": dataset.value_range.as_table(),
        "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in found.sizes.most_common(20)],
        "classes": {name: classes[row] for row, name in enumerate(dataset.class_names)} if classes else {},
        "skipped": [{"image": bad.id, "reason": bad.reason} for bad in dataset.skipped],
        "ignored": dataset.ignored,
        "notes": list(dataset.notes),
        "duplicates": [[str(dataset.ids[row]) for row in rows] for rows in found.groups],
        "issues": {
            kind: {"images": len(issues), "worst": [_as_table(dataset, issue) for issue in issues[:_EXAMPLES]]}
            for kind, issues in found.issues.items()
        },
    }


def _as_table(dataset: Dataset, issue: Issue) -> dict[str, Any]:
    return {"image": str(dataset.ids[issue.row]), "score": round(issue.score, 4), "group": issue.group}


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
        ("copies", _shown_copies(found)),
        ("unreadable", f"{len(summary['skipped']):,}"),
    ]
    notes = map(with_option_names, found.dataset.notes)
    rows += [("read as" if row == 0 else "", note) for row, note in enumerate(notes)]
    lines = [f"{name:<12}{value}" for name, value in rows]
    reasons = Counter(bad["reason"] for bad in summary["skipped"])
    at = lines.index(f"{'unreadable':<12}{len(summary['skipped']):,}") + 1
    lines[at:at] = [
        f"{'':<12}{n:,}: {reason}, {_examples([b['image'] for b in summary['skipped'] if b['reason'] == reason])}"
        for reason, n in reasons.most_common(8)
    ]
    return lines + _shown_issues(summary["issues"])


def _shown_copies(found: Findings) -> str:
    """Return how many images could go: those with the pixels of another one, whether or not in the same bytes."""
    alike = found.issues.get("duplicate", [])
    pixels = len(alike) - len({issue.group for issue in alike})
    same_bytes = sum(len(rows) - 1 for rows in found.groups)
    return f"{max(pixels, same_bytes):,}" + (f", {same_bytes:,} of them the same file" if pixels > same_bytes else "")


def _shown_issues(issues: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each kind: how many images, what it means, and the worst of them."""
    from smidgen.inspection.issues import KINDS

    if not issues:
        return []
    lines = ["", "worth a look (`--out FILE.csv` lists them all):"]
    for kind, about in issues.items():
        worst = ", ".join(f"{image['image']!r} ({image['score']:.3g})" for image in about["worst"])
        more = ", …" if about["images"] > len(about["worst"]) else ""
        lines += [f"  {about['images']:>7,} {kind.replace('_', ' ')}: {KINDS[kind]}", f"{'':10}{worst}{more}"]
    return lines


def _examples(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_EXAMPLES])) + (", …" if len(names) > _EXAMPLES else "")


def _shown_classes(classes: dict[str, int]) -> str:
    if not classes:
        return "not known"
    if len(classes) <= 12:
        return f"{len(classes)}: " + ", ".join(f"{name} {n:,}" for name, n in classes.items())
    return f"{len(classes)}, of {min(classes.values()):,} to {max(classes.values()):,} images"
