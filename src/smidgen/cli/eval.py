"""`smidgen eval`: how well clusters agree with known classes, on a run's own images or on new ones."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import printable, progress
from smidgen.cli.data import SPLITS, add_several_data, add_skipping, add_value_range, require_data
from smidgen.cli.machine import add_machine, machine
from smidgen.cli.parsing import one_of, text
from smidgen.cli.predict import open_run, require_run
from smidgen.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from smidgen.reports.tables import Assignments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", type=text, help="the run folder")
    add_several_data(parser, "new images of known classes (default: the run's own)", optional=True)
    parser.add_argument(
        "--split",
        metavar="NAME",
        default=None,
        type=one_of("split", SPLITS),
        help="train, test or all (default: each split of the run; of new images: test of a named dataset, else all)",
    )
    add_value_range(parser, "that of the images that the run was trained on")
    add_skipping(parser)
    add_machine(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors and results")


@dataclass(frozen=True)
class Scored:
    """Images of one split with their clusters and classes, as numbers into the run's and the data's names."""

    split: str
    clusters: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    class_names: tuple[str, ...]
    cluster_map: np.ndarray
    of_bags: Mapping[str, float]


def run(args: argparse.Namespace) -> int:
    """Score, and print what came out."""
    from smidgen.reports.tables import read_assignments
    from smidgen.run_folder import RunFolder

    known = read_assignments(RunFolder.open(args.run).path)
    names: tuple[str, ...] = known.cluster_names
    with machine(args) as device:
        if args.data is None:
            parts = _own_parts(known, args)
        else:
            part, names = _new_part(known, args, device=device)
            parts = [part]
    results = {part.split: _scores(part, names) for part in parts}
    if args.json:
        print(json.dumps({"run": args.run, "data": args.data, **results}, indent=2))
    else:
        print("\n\n".join("\n".join(_shown(split, result)) for split, result in results.items()))
    return 0


def _own_parts(known: Assignments, args: argparse.Namespace) -> list[Scored]:
    from smidgen.reports.tables import read_optional_json
    from smidgen.run_folder import RunFolder

    if not known.class_names:
        raise InputError(
            f"The images of {args.run!r} have no known classes to score by: give labelled images,"
            " `smidgen eval RUN DATA`."
        )
    metrics = read_optional_json(RunFolder.open(args.run).path / "metrics.json")
    splits = [s for s in ("test", "train", "all") if (known.splits == s).any() and args.split in (None, "all", s)]
    parts = []
    for split in splits:
        rows = known.splits == split
        part = Scored(
            split=split,
            clusters=known.clusters[rows],
            classes=known.classes[rows],
            confidence=known.confidence[rows],
            class_names=known.class_names,
            cluster_map=known.class_of,
            of_bags=_bag_scores(metrics, split),
        )
        if (part.classes >= 0).any():
            parts.append(part)
    if not parts:
        raise InputError(f"{args.run!r} has no images of known class in split {args.split!r}.")
    return parts


def _new_part(known: Assignments, args: argparse.Namespace, *, device: str) -> tuple[Scored, tuple[str, ...]]:
    """Return new images as the run's model sees them, and the names of its clusters."""
    import numpy as np

    from smidgen.data.datasets import DATASETS
    from smidgen.evaluation.bag_methods import score_bags
    from smidgen.run_folder import RunFolder

    require_run(args.run)
    require_data(args.data)
    args.split = args.split or ("test" if args.data in DATASETS else "all")
    with progress(quiet=args.quiet or args.json) as console:
        model, dataset = open_run(args, console, device=device)
        looked = model.look(dataset.images, groups=dataset.rows_by_split(), progress=console.of("look"))
        seed = RunFolder.open(args.run).setting("seed")
        scores = score_bags(model, [dataset], [looked], seed=seed, decode=False, progress=console.of("score bags"))
    assignments = looked[0]
    if dataset.classes is None:
        raise InputError(
            f"The images in {args.data!r} have no known classes: scores need one folder per class, or labels."
        )
    # A cluster stands for the class whose name it was matched to on training images.
    numbers = {name: k for k, name in enumerate(dataset.class_names)}
    stands_for = {
        cluster: known.class_names[known.class_of[k]]
        for k, cluster in enumerate(known.cluster_names)
        if known.class_names and known.class_of[k] >= 0
    }
    part = Scored(
        split=dataset.split,
        clusters=assignments.argmax(1),
        classes=dataset.classes,
        confidence=assignments.max(1),
        class_names=tuple(dataset.class_names),
        cluster_map=np.array([numbers.get(stands_for.get(name, ""), -1) for name in model.cluster_names]),
        of_bags=_bag_scores(scores.metrics, dataset.split),
    )
    return part, model.cluster_names


_OF_BAGS = {
    "ucc_accuracy": "unique counts of balanced bags",
    "paper_ucc_accuracy": "the same of bags of 32",
    "class_count_accuracy": "numbers of images of each class in such bags",
    "kmeans_accuracy": "k-means of these images' features",
    "spectral_accuracy": "spectral clustering of these images' features",
}
"""The accuracies of methods that describe bags, and what is right."""


def _bag_scores(metrics: Mapping[str, Any], split: str) -> dict[str, float]:
    """Return the scores of methods that describe bags for one split, without its name."""
    named = {name: metrics.get(f"{split}_{name}") for name in (*_OF_BAGS, "proportion_error", "min_js")}
    return {name: value for name, value in named.items() if isinstance(value, float)}


def _scores(part: Scored, cluster_names: tuple[str, ...]) -> dict[str, Any]:
    from smidgen.evaluation.scores import named_accuracy, per_cluster_table, score_assignments

    n_clusters = len(cluster_names)
    scores: dict[str, Any] = {"n_images": len(part.clusters), "n_scored": int((part.classes >= 0).sum())}
    scores |= score_assignments(part.classes, part.clusters, n_clusters=n_clusters)
    if (part.cluster_map >= 0).any():
        scores["mapped_accuracy"] = named_accuracy(part.classes, part.clusters, cluster_map=part.cluster_map)
    scores |= part.of_bags
    table = per_cluster_table(
        part.classes,
        part.clusters,
        n_clusters=n_clusters,
        confidences=part.confidence,
        class_names=part.class_names,
    )
    rows = [
        dict(zip(table, row, strict=True)) for row in zip(*(column.tolist() for column in table.values()), strict=True)
    ]
    for row, name, stands_for in zip(rows, cluster_names, part.cluster_map.tolist(), strict=True):
        row |= {"cluster": name, "most": row.pop("class")}
        row["matched"] = part.class_names[stands_for] if stands_for >= 0 else None
    scores["clusters"] = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN is not JSON
    return scores


_EXPLAINED = {
    "accuracy": "best one-to-one match on these images",
    "mapped_accuracy": "clusters matched to classes on the training images",
}


def _shown(split: str, scores: dict[str, Any]) -> list[str]:
    from smidgen.cli.list import table
    from smidgen.reports.tables import percent

    lines = [f"{split}: {scores['n_scored']:,} images of known class"]
    for name in (*_EXPLAINED, "nmi", "ami", "ari", "purity", *_OF_BAGS):
        if name in scores:
            value = f"{scores[name]:.3f}" if name in ("nmi", "ami", "ari") else percent(scores[name])
            title = name.upper() if len(name) == 3 else name.replace("_", " ")
            lines.append(f"  {title:<21}{value:>8}   {(_EXPLAINED | _OF_BAGS).get(name, '')}".rstrip())
    header = ("cluster", "images", "confidence", "most are", "purity", "stands for")
    rows = [
        (
            printable(row["cluster"]),
            f"{row['size']:,}",
            "" if row.get("confidence") is None else f"{row['confidence']:.2f}",
            printable(row["most"] or ""),
            "" if row["purity"] is None else percent(row["purity"]),
            printable(row["matched"] or ""),
        )
        for row in scores["clusters"]
    ]
    return [*lines, "", *(f"  {line}" for line in table([header, *rows], right=(1, 2, 4)).splitlines())]
