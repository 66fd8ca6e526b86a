"""`smidgen check`: inspect a collection before a fit: its contents and possible problems."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import Progress, printable, progress, with_option_names
from smidgen.cli.data import DATA_HELP, add_reading, add_several_data, require_data
from smidgen.cli.evidence import add_evidence, evidence_paths
from smidgen.cli.files import require_new_file
from smidgen.cli.machine import add_machine, machine
from smidgen.cli.parsing import clusters, text
from smidgen.evidence.kinds import kind_of

if TYPE_CHECKING:
    from smidgen.data.datasets import Dataset
    from smidgen.inspection.collection import Inspection
    from smidgen.inspection.issues import Issue

_EXAMPLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_several_data(parser, DATA_HELP)
    parser.add_argument(
        "--clusters", metavar="N", type=clusters, help="the number of clusters you plan to fit, or auto"
    )
    add_reading(parser)
    add_evidence(parser)
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        type=text,
        help="find outliers and look-alikes by this encoder's embeddings, see `smidgen list encoders`",
    )
    add_machine(parser)
    parser.add_argument("--out", metavar="FILE.csv", type=text, help="write every flagged image to a table")
    parser.add_argument("--overwrite", action="store_true", help="replace that table if it exists")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 2 if `smidgen fit` would refuse it."""
    require_data(args.data)
    if args.out is not None:
        require_new_file(Path(args.out), overwrite=args.overwrite)
    paths, heard = evidence_paths(args), list[str]()
    with progress(quiet=args.quiet, on_warning=heard.append) as console, machine(args) as device:
        found = _inspect(args, paths, console, device=device)
    found = replace(found, dataset=replace(found.dataset, notes=(*found.dataset.notes, *heard)))
    if args.out is not None:
        from smidgen.csv_tables import write_csv

        write_csv(Path(args.out), found.issue_table())
    if args.json:
        print(json.dumps(_summary(found, with_evidence=bool(paths)), indent=2))
    else:
        print("\n".join(map(printable, [*_shown(found), *_sentences(found)])))
    return 2 if found.refusals else 0


def _inspect(args: argparse.Namespace, paths: Mapping[str, str], console: Progress, *, device: str) -> Inspection:
    from smidgen.cli.listener import ConsoleListener
    from smidgen.evidence.evidence import Evidence
    from smidgen.inspection.collection import inspect_collection

    return inspect_collection(
        args.data,
        n_clusters=args.clusters,
        evidence=Evidence.from_files(min_confidence=None, **paths) if paths else None,
        encoder=args.encoder,
        size=args.size,
        resize=args.resize,
        value_range=args.value_range,
        allow_bad=args.allow_bad,
        exclude=args.exclude,
        classes=args.classes,
        keep_contradictory_pairs=args.keep_contradictory_pairs,
        device=device,
        listener=ConsoleListener(console),
    )


def _summary(found: Inspection, *, with_evidence: bool = False) -> dict[str, Any]:
    dataset = found.dataset
    evidence = {"sizes": found.evidence, "findings": [vars(finding) for finding in found.findings]}
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
        "duplicates": [[str(dataset.ids[row]) for row in rows] for rows in found.copies],
        "issues": {
            kind: {"images": len(issues), "worst": [_as_table(dataset, issue) for issue in issues[:_EXAMPLES]]}
            for kind, issues in found.issues.items()
        },
        **({"evidence": evidence} if with_evidence else {}),
        "refusals": [with_option_names(sentence) for sentence in found.refusals],
        "advice": [with_option_names(sentence) for sentence in found.advice],
    }


def _as_table(dataset: Dataset, issue: Issue) -> dict[str, Any]:
    return {"image": str(dataset.ids[issue.row]), "score": round(issue.score, 4), "group": issue.group}


def _shown(found: Inspection) -> list[str]:
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
    lines += _shown_issues(summary["issues"])
    known = ", ".join(f"{n:,} {kind_of(kind).noun}" for kind, n in found.evidence.items())
    return lines + ([f"{'evidence':<12}{known}"] if known else [])


def _sentences(found: Inspection) -> Iterator[str]:
    """Yield the lines on reasons for `smidgen fit` to refuse, on advice, and on the evidence."""
    titled = {
        "`smidgen fit` would refuse this": found.refusals,
        "advice": found.advice,
        "about the evidence": list(map(str, found.findings)),
    }
    for title, sentences in titled.items():
        if sentences:
            yield from ("", f"{title}:", *(f"  - {with_option_names(sentence)}" for sentence in sentences))


def _shown_copies(found: Inspection) -> str:
    """Return how many images could go: those with the pixels of another one, whether or not in the same bytes."""
    alike = found.issues.get("duplicate", [])
    pixels = len(alike) - len({issue.group for issue in alike})
    same_bytes = sum(len(rows) - 1 for rows in found.copies)
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
