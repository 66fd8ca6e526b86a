"""Inspects a collection of images and what `fit` would make of it, before a fit."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from smidgen.config import Config
from smidgen.data.chosen_classes import as_classes
from smidgen.data.datasets import Dataset, as_paths, open_dataset
from smidgen.data.images import BadImage, Resize, image_size
from smidgen.data.values import as_text
from smidgen.embedding.run import embed_images
from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility
from smidgen.evidence.findings import Finding
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import choose_device
from smidgen.inspection.advice import advice, refusals
from smidgen.inspection.issues import Issue, issue_columns
from smidgen.inspection.search import find_issues
from smidgen.listener import Listener
from smidgen.maths.cluster_count import LEAST_POINTS
from smidgen.nets.pretrained import pretrained_encoder
from smidgen.setup.clusters import clusters_of_evidence, least_clusters
from smidgen.setup.configuration import class_count
from smidgen.setup.encoder import other_size


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a collection.

    dataset: the images of all splits. splits: that of each image, (n,), "" where there is none.
    sizes: (width, height) in the files, with how many images have it. copies: groups of rows with the same bytes.
    issues: those found, by kind, the worst first.
    evidence: how many statements there are of each kind. findings: what they leave open, or contradict.
    refusals: why `fit` would refuse all this, as sentences. advice: what is worth knowing, as sentences.
    """

    dataset: Dataset
    splits: list[str]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    copies: list[list[int]] = field(default_factory=list)
    issues: dict[str, list[Issue]] = field(default_factory=dict)
    evidence: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    def issue_table(self) -> dict[str, list[object]]:
        """Return all issues as the columns image, split, kind, score and group."""
        issues = [issue for issues in self.issues.values() for issue in issues]
        return issue_columns(issues, self.dataset.ids.tolist(), self.splits)


def inspect_collection(
    data: Any,
    *,
    n_clusters: int | Literal["auto"] | None = None,
    evidence: Evidence | None = None,
    encoder: str | None = None,
    size: int | None = None,
    resize: Resize = "crop",
    value_range: Any = None,
    allow_bad: float = 0.05,
    exclude: str | Sequence[str] = (),
    classes: str | Sequence[str] = (),
    keep_contradictory_pairs: bool = False,
    device: str = "auto",
    listener: Listener | None = None,
) -> Inspection:
    """Return what is in a collection: sizes, copies, outliers, poor images, and what `fit` would refuse.

    data, size, resize, value_range, allow_bad, exclude, classes: as `open_dataset` takes them; unreadable images are
        listed in the result, however many there are.
    n_clusters: how many clusters are meant to be asked for, as `fit` takes it.
    evidence: about the training images; keep_contradictory_pairs: as `Evidence.resolve` takes it.
    encoder: a pretrained net among whose embeddings outliers and look-alikes are found; None is none.
    device: what it runs on. listener: receives progress.

    Raises InputError for what is wrong with the arguments, and for ready embeddings, which hold no pictures.

    >>> found = inspect_collection("digits", n_clusters=2000)
    >>> found.sizes.most_common(1), len(found.issues.get("duplicate", []))
    ([((8, 8), 1797)], 0)
    >>> found.refusals
    ['1,438 images cannot make 2000 clusters: add images or pass `n_clusters=1438`.']
    """
    listener = listener or Listener()
    config = Config(
        data=as_paths(data) or "array",  # type: ignore[arg-type]
        n_clusters=n_clusters,
        size=size,
        resize=resize,
        value_range=as_text(value_range),
        encoder=encoder,
        device=choose_device(device),
        allow_bad=allow_bad,
        exclude=(exclude,) if isinstance(exclude, str) else tuple(exclude),
        classes=as_classes(classes),
        keep_contradictory_pairs=keep_contradictory_pairs,
    )
    dataset = _open(data, config, listener)
    found = _look(dataset, config, listener)
    wanted, needed, known = _clusters_and_evidence(found, evidence or Evidence(), config)
    found = replace(found, refusals=refusals(found, n_clusters=needed, allow_bad=allow_bad))
    if isinstance(known, InputError):
        found = replace(found, refusals=[*found.refusals, str(known)])
    elif evidence is not None:
        found = replace(found, evidence=known.sizes(), findings=feasibility(known, wanted))
    return replace(found, advice=advice(found, n_clusters=wanted))


def _open(data: Any, config: Config, listener: Listener) -> Dataset:
    dataset = open_dataset(
        data,
        split="all",
        size=config.size,
        resize=config.resize,
        value_range=config.value_range,
        allow_bad=1.0,
        other_size=other_size(config),
        exclude=config.exclude,
        classes=config.classes,
        progress=lambda done, total: listener.progress("read images", done, total),
    )
    if dataset.holds_vectors:
        raise InputError(f"{dataset.name!r} holds ready embeddings: there are no pictures to look at.")
    return dataset


def _look(dataset: Dataset, config: Config, listener: Listener) -> Inspection:
    """Return what is in a dataset: sizes as the files have them, groups of the same bytes, and images with issues."""
    sizes = np.zeros((len(dataset), 2), dtype=np.int64)
    rows_of: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(dataset)):
        try:
            content = dataset.content(row) if dataset.items is None else dataset.items[row].read()
            sizes[row] = dataset.images.shape[:1:-1] if dataset.items is None else image_size(content)
        except BadImage:  # gone since it was read
            continue
        rows_of[hashlib.sha256(content).digest()].append(row)
        if row % 64 == 0 or row == len(dataset) - 1:
            listener.progress("compare", row + 1, len(dataset))
    issues = find_issues(
        [dataset.images],
        embeddings=None if config.encoder is None else _embedded(dataset, config.encoder, config.device, listener),
        look_alikes=True,
        sizes=sizes,
        content=dataset.content,
        progress=listener.progress,
    )
    by_kind: dict[str, list[Issue]] = {}
    for issue in issues:
        by_kind.setdefault(issue.kind, []).append(issue)
    return Inspection(
        dataset,
        [dataset.split_of(row) for row in range(len(dataset))],
        sizes=Counter((width, height) for width, height in sizes.tolist() if width),
        copies=[rows for rows in rows_of.values() if len(rows) > 1],
        issues=by_kind,
    )


def _embedded(dataset: Dataset, encoder: str, device: str, listener: Listener) -> np.ndarray:
    if encoder == "conv":
        raise InputError("The encoder 'conv' is trained by `fit`: before that it has no embeddings, see the others.")
    net = pretrained_encoder(encoder, flip=True)  # as `fit` does, so that both find it in the cache
    return embed_images(
        dataset.images, net, device=device, progress=lambda done, total: listener.progress("embed", done, total)
    )


def _clusters_and_evidence(
    found: Inspection, evidence: Evidence, config: Config
) -> tuple[int, int, Resolved | InputError]:
    """Return what `fit` goes by: the number of clusters, the images it needs for them, and the evidence or its refusal.

    Where `fit` finds the number itself, it is the least that the evidence leaves possible.
    """
    dataset = found.dataset
    rows = [row for row, split in enumerate(found.splits) if split in ("", "train")]
    asked = class_count(config.data, config.classes) if config.n_clusters is None else config.n_clusters
    known = Resolved.nothing(len(rows))
    refusal: InputError | None = None
    try:
        known = evidence.resolve(
            dataset.ids[rows],
            n_clusters=asked if isinstance(asked, int) else None,
            skipped=[bad.id for bad in dataset.skipped],
            keep_contradictory_pairs=config.keep_contradictory_pairs,
            data=dataset.name,
        )
    except InputError as error:
        refusal = error
    if asked is None:
        asked = clusters_of_evidence(known)
    least = max(2, least_clusters(known))
    wanted, needed = (asked, asked) if isinstance(asked, int) else (least, max(least, LEAST_POINTS))
    return wanted, needed, refusal or known
