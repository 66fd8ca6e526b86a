"""Writes the results of a finished fit to its run folder: scores, assignments, thumbnails, and a manifest."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smidgen import __version__
from smidgen.config import Config
from smidgen.csv_tables import Column, write_csv
from smidgen.data.datasets import Dataset
from smidgen.evaluation.calibration import calibration_scores
from smidgen.evaluation.explained import Explained, images_of_worst_bags
from smidgen.evaluation.scores import named_accuracy, score_assignments
from smidgen.evidence.resolved import Resolved
from smidgen.inspection.issues import issue_columns
from smidgen.inspection.search import find_issues
from smidgen.maths.entropy import entropy
from smidgen.methods.base import Method
from smidgen.nets.encoder import Encoder
from smidgen.reports.page import gallery_rows
from smidgen.reports.predictions import cluster_table
from smidgen.reports.tables import match_classes, read_assignments
from smidgen.run_folder import RunFolder
from smidgen.setup.encoder import encoder_in_words
from smidgen.setup.number_of_clusters import NumberOfClusters
from smidgen.training.embed import map_images

MOST_INSPECTED = 200_000
"""Images of a run among which issues are looked for: more would take longer than many a training."""


def score_split(
    split: str,
    dataset: Dataset,
    assignments: np.ndarray,
    n_clusters: int,
    *,
    names: Sequence[str] = (),
    matched: Sequence[str] = (),
) -> dict[str, float]:
    """Return the scores of one split as `metrics.json` has them, each name with the split before it.

    names: the classes that the first clusters are named after; where the dataset has any of them, "named_accuracy" is
    the share of images whose cluster carries the name of their class.
    matched: the class that each cluster was matched to on other images, as `matched_classes` finds it;
    "mapped_accuracy" is the share of images that are of it. "calibration_error" and "brier" compare confidence with
    being of the class that the cluster is named after, was matched to, or is matched to here.
    """
    if dataset.classes is None or not (dataset.classes >= 0).any():
        return {}
    scores = score_assignments(dataset.classes, assignments.argmax(1), n_clusters=n_clusters)
    rows = {name: row for row, name in enumerate(dataset.class_names)}
    clusters = assignments.argmax(1)
    maps = {}
    for score, named in {"named_accuracy": names, "mapped_accuracy": matched}.items():
        if set(named) & rows.keys():
            maps[score] = np.array([rows.get(name, -1) for name in named] + [-1] * (n_clusters - len(named)))
            scores[score] = named_accuracy(dataset.classes, clusters, cluster_map=maps[score])
    own = matched_classes(dataset, assignments, n_clusters)
    cluster_map = next(iter(maps.values()), np.array([rows.get(name, -1) for name in own]))
    known = dataset.classes >= 0
    right = cluster_map[clusters[known]] == dataset.classes[known]
    scores |= calibration_scores(assignments.max(1)[known], right)
    return {f"{split}_{name}": value for name, value in scores.items()}


def matched_classes(dataset: Dataset, assignments: np.ndarray, n_clusters: int) -> list[str]:
    """Return the name of the class that each cluster stands for by these images, empty where it stands for none.

    assignments: (n, clusters), soft. See `reports.tables.match_classes`.
    """
    if dataset.classes is None:
        return []
    known = dataset.classes >= 0
    shape = (n_clusters, len(dataset.class_names))
    found = match_classes(assignments[known].argmax(1), dataset.classes[known], shape=shape)
    return [dataset.class_names[row] if row >= 0 else "" for row in found]


def estimated_shares(assignments: np.ndarray, cluster_names: Sequence[str]) -> dict[str, float]:
    """Return cluster → its estimated share of the images: the mean of their assignments (n, clusters).

    >>> estimated_shares(np.array([[1.0, 0.0], [0.5, 0.5]]), ["cat", "dog"])
    {'cat': 0.75, 'dog': 0.25}
    """
    shares = assignments.mean(0, dtype=np.float64)
    return {name: round(float(share), 6) for name, share in zip(cluster_names, shares / shares.sum(), strict=True)}


def write_assignments(
    path: Path, datasets: list[Dataset], assignments: list[np.ndarray], cluster_names: tuple[str, ...]
) -> None:
    """Write `assignments.csv`: one row per image with its cluster, confidence, and class where known."""
    columns: dict[str, list[Any]] = {"image": [], "split": [], "cluster": [], "confidence": []}
    if any(d.classes is not None for d in datasets):
        columns["class"] = []
    for dataset, soft in zip(datasets, assignments, strict=True):
        columns["image"] += list(dataset.ids)
        columns["split"] += [dataset.split] * len(dataset)
        columns["cluster"] += [cluster_names[k] for k in soft.argmax(1)]
        columns["confidence"] += [f"{c:.6f}" for c in soft.max(1)]
        if "class" in columns:
            columns["class"] += _class_texts(dataset)
    write_csv(path, columns)


def _class_texts(dataset: Dataset) -> list[str]:
    """Return the class name of each image, empty where it is unknown."""
    if dataset.classes is None:
        return [""] * len(dataset)
    return [dataset.class_names[row] if row >= 0 else "" for row in dataset.classes]


def write_clusters(run: RunFolder) -> None:
    """Write `tables/clusters.csv`, a row for each cluster, from what `assignments.csv` says."""
    run.write_table("clusters", cluster_table(read_assignments(run.path)))


def write_thumbnails(run: RunFolder, datasets: list[Dataset]) -> None:
    """Write `thumbnails.parquet`, the pictures that the report shows, so that it needs the images no more.

    Of ready embeddings there are none, and the report shows placeholders.
    """
    if datasets[0].holds_vectors:
        return
    rows = gallery_rows(run.path)
    first_of_test = len(datasets[0])
    pictures = [
        datasets[int(row >= first_of_test)].thumbnail(int(row - first_of_test * (row >= first_of_test))) for row in rows
    ]
    run.write_thumbnails(rows, pictures)


def write_number_of_clusters(run: RunFolder, number: NumberOfClusters, ids: np.ndarray) -> None:
    """Write `tables/cluster_numbers.csv`, the scored curve, and `tables/cluster_merges.csv`, the tree of merges."""
    run.write_table("cluster_numbers", number.curve.columns())
    run.write_table("cluster_merges", number.tree_columns(ids))


def write_filters(run: RunFolder, method: Method) -> None:
    """Write `filters.npy`, the weights (filters, channels, height, width) of the net's first convolution, if any."""
    start = method.starting_point
    filters = start.net.first_filters() if start is not None and isinstance(start.net, Encoder) else None
    if filters is not None:
        run.write_array("filters.npy", filters.detach().float().cpu().numpy())


def write_explained(
    run: RunFolder,
    explained: Explained,
    evidence: Resolved,
    clusters: np.ndarray,
    image_ids: Sequence[str] | np.ndarray,
) -> None:
    """Write `tables/evidence_<kind>.csv`, and `evidence_images.csv`: the images of the bags that contradict most.

    clusters: (images,) of the training images. To be called before `write_thumbnails`, which looks at these tables.
    """
    for kind, table in explained.tables.items():
        run.write_table(f"evidence_{kind}", table)
    images = images_of_worst_bags(explained.tables, evidence, clusters=clusters, image_ids=image_ids)
    if images["bag"]:
        run.write_table("evidence_images", images)


def write_pseudo_labels(
    run: RunFolder, method: Method, datasets: Sequence[Dataset], inputs: Sequence[Dataset], *, device: torch.device
) -> None:
    """Write `tables/pseudo_labels.csv` if the method gives pseudo-labels: image, split, label, entropy.

    label: of training images the one they were last given, of others the one they would be given. entropy: of the
    net's prediction, in bits. inputs: what the method sees, images or their embeddings.
    """
    found = method.pseudo_labels()
    if found is None:
        return

    def bits(images: torch.Tensor) -> torch.Tensor:
        return entropy(found.predict(images)[:, found.head].softmax(1)) / math.log(2)

    kept = [] if found.labels is None else [found.labels[found.head].cpu().numpy()]
    others = inputs[len(kept) :]
    given = [map_images(found.label, each.images, method=method, device=device)[:, found.head] for each in others]
    entropies = [map_images(bits, each.images, method=method, device=device).numpy() for each in inputs]
    columns: dict[str, Column] = {
        "image": [image for dataset in datasets for image in dataset.ids],
        "split": [dataset.split for dataset in datasets for _ in dataset.ids],
        "label": np.concatenate([*kept, *(each.long().numpy() for each in given)]),
        "entropy": [f"{value:.4f}" for value in np.concatenate(entropies)],
    }
    run.write_table("pseudo_labels", columns)


def write_issues(
    run: RunFolder, datasets: list[Dataset], *, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Write `tables/issues.csv`, the images that deserve a look (`inspection.search`), if there are any.

    Outliers are those of the run's `embeddings.npy`. Of ready embeddings there is nothing to look at.
    """
    if datasets[0].holds_vectors:
        return
    embeddings = np.load(run.path / "embeddings.npy", mmap_mode="c", allow_pickle=False)
    images = [dataset.images for dataset in datasets]
    sizes = [np.zeros((len(d), 2), dtype=np.int32) if d.sizes is None else d.sizes for d in datasets]  # 0: unknown
    firsts = np.cumsum([0, *map(len, datasets)])

    def content(row: int) -> bytes:
        place = int(np.searchsorted(firsts, row, side="right")) - 1
        return datasets[place].content(row - int(firsts[place]))

    issues = find_issues(images, embeddings=embeddings, sizes=np.concatenate(sizes), content=content, progress=progress)
    if issues:
        ids = [image for dataset in datasets for image in dataset.ids]
        splits = [dataset.split for dataset in datasets for _ in dataset.ids]
        run.write_table("issues", issue_columns(issues, ids, splits))


def write_skipped(run: RunFolder, datasets: Sequence[Dataset]) -> None:
    """Write `bad_images.csv`, the images that could not be read and why, if there are any."""
    skipped = [bad for dataset in datasets for bad in dataset.skipped]
    if skipped:
        write_csv(
            run.path / "bad_images.csv",
            {"image": [bad.id for bad in skipped], "reason": [bad.reason for bad in skipped]},
        )


def describe(
    config: Config, train: Dataset, test: Dataset | None = None, *, fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest: what runs, on what, with which versions."""
    return {
        "smidgen": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "git": _git_commit(),
        "seed": config.seed,
        "threads": config.threads,
        "device": config.device,
        "method": config.method,
        "encoder": encoder_in_words(config),
        "command": ["smidgen", *sys.argv[1:]] if Path(sys.argv[0]).name.startswith("smidgen") else None,
        "started": now(),
        "trained_on": f"{len(train):,} images of {train.name} ({train.split})",
        "data": {
            "name": train.name,
            "train_images": len(train),
            "test_images": 0 if test is None else len(test),
            "skipped": len(train.skipped),
            "shape": list(train.shape),
            "value_range": train.value_range.as_table(),
            "classes": list(train.class_names),
            "fingerprint": fingerprints["training images"],
        },
        "fingerprints": dict(fingerprints),
    }


def now() -> str:
    """Return the time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_commit(package: Path = Path(__file__).parent) -> str | None:
    """Return the commit of the checkout that this package runs from, None where it is installed.

    An installed one may well lie in a repository, in its virtual environment, but that one is another project's.
    """
    root = package.parent.parent
    if not (root / ".git").exists() or not _is_ours(root / "pyproject.toml"):
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _is_ours(project: Path) -> bool:
    try:
        return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["name"] == "smidgen"
    except (OSError, ValueError, KeyError, TypeError):
        return False
