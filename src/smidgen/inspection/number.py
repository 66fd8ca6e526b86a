"""Finds the number of clusters of a collection without a fit (`smidgen clusters`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from smidgen.config import Config
from smidgen.csv_tables import write_csv
from smidgen.data.chosen_classes import as_classes
from smidgen.data.datasets import Dataset, as_paths, exclude_patterns
from smidgen.data.values import as_text
from smidgen.errors import unknown
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.files import atomic_write, write_json
from smidgen.hardware import torch_threads
from smidgen.listener import Listener
from smidgen.maths.cluster_count import MOST
from smidgen.options import convert, field_types
from smidgen.reports.cluster_numbers import parts_chart, score_chart
from smidgen.reports.level_chart import standalone
from smidgen.setup.clusters import AUTO
from smidgen.setup.encoder import embedded
from smidgen.setup.number_of_clusters import NumberOfClusters, find_number_of_clusters
from smidgen.setup.plan import make_plan

FILES = (
    "cluster_numbers.csv",
    "cluster_numbers.json",
    "cluster_numbers.svg",
    "cluster_numbers_parts.svg",
    "cluster_merges.csv",
)
"""What `write_count` writes into a folder."""


@dataclass(frozen=True, eq=False)
class Count:
    """The number of clusters of a collection: how it was found, in which images, and what compared them.

    encoder: whose embeddings were compared, None for pixels or ready embeddings.
    """

    number: NumberOfClusters
    images: Dataset
    encoder: str | None

    def summary(self) -> dict[str, Any]:
        """Return the result as JSON values: the best number, the range, and the curve."""
        table = self.number.as_table()
        del table["asked"]
        columns = self.number.curve.columns()
        curve = [
            dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)
        ]
        about = {"data": self.images.name, "n_images": len(self.images), "encoder": self.encoder}
        return {**about, **table, "curve": curve}


def count_clusters(
    data: Any,
    *,
    evidence: Evidence | Resolved | None = None,
    most: int = MOST,
    seed: int = 0,
    listener: Listener | None = None,
    **settings: Any,
) -> Count:
    """Return how many clusters suit a collection best, as a scored curve over numbers from 2 to `most`.

    data: anything `open_dataset` takes; of a collection with a test split, its training images.
    evidence: about these images: classes that it names, and counts in bags, are least numbers, and how well cuts agree
        with it counts in the score.
    settings: others of `Config`: how images are read, the encoder, device and threads.
    Raises InputError for what is wrong with any of them, for fewer than 10 images, and where all images are the same.

    >>> found = count_clusters("digits", most=30, threads=1)
    >>> found.number.curve.low <= 10 <= found.number.curve.high
    True
    """
    listener = listener or Listener()
    known = [name for name in field_types(Config) if name not in ("data", "n_clusters", "seed", "evidence")]
    for name in settings:
        if name not in known:
            raise unknown("setting", name, known)
    most = convert("most", most, Annotated[int, Meta(ge=2)], strict=True)
    for name, read in (("exclude", exclude_patterns), ("classes", as_classes), ("value_range", as_text)):
        if name in settings:
            settings[name] = read(settings[name])
    config = Config(data=as_paths(data) or "array", n_clusters=AUTO, seed=seed, **settings)  # type: ignore[arg-type]
    with torch_threads(config.threads):
        plan = make_plan(config, data=data, evidence=evidence, listener=listener)
        train = embedded(plan.datasets[:1], plan.extractor, device=plan.config.device, listener=listener)[0]
        inputs, encoder = plan.compared_inputs(train, listener)
        found = find_number_of_clusters(inputs.images, plan.evidence, seed=seed, listener=listener, most=most)
    return Count(found, plan.datasets[0], encoder)


def write_count(count: Count, folder: Path | str) -> None:
    """Write the curve as CSV, JSON and SVG and the tree of merges as CSV into a folder, made if missing."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = count.number.curve.columns()
    write_csv(folder / FILES[0], columns)
    write_json(folder / FILES[1], count.summary())
    curve = {name: np.asarray(column, dtype=float) for name, column in columns.items()}
    for name, chart in ((FILES[2], score_chart(curve)), (FILES[3], parts_chart(curve))):
        with atomic_write(folder / name) as file:
            file.write(standalone(chart).encode())
    write_csv(folder / FILES[4], count.number.tree_columns(count.images.ids))
