"""Probes of a finished run's net: on its own images, where the run folder keeps the results, or on others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smidgen.config import from_table
from smidgen.data.datasets import Dataset
from smidgen.errors import InputError, RunError
from smidgen.evaluation.probes import KNN_SETTINGS
from smidgen.evaluation.stage_probes import IMAGES, TRAINED, StageScores, choose_images, probe_stages
from smidgen.files import write_json
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.reports.page import write_page
from smidgen.run_folder import RunFolder
from smidgen.setup.images import open_data

KNN_COLUMNS = tuple(f"knn_{k}" for k, _ in KNN_SETTINGS)
"""The columns of the weighted k-NN's accuracies, by the number of neighbours."""


def probe_run(
    run: Path | str,
    *,
    images: int = IMAGES,
    device: str = "cpu",
    listener: Listener | None = None,
) -> list[StageScores]:
    """Return how well probes read the classes from each stage of a run's net, on the run's own images.

    They are written to `tables/probes.csv`, those of the trained net also to `metrics.json` as `probe_<stage>_<probe>`,
    and the report is renewed. Probes learn from training images of known class and are scored on test images; where no
    test image has one, on a fifth of the training images.

    images: the most for each purpose, drawn at random by the run's seed. Raises RunError for a run that has not
    finished or whose images have changed, InputError if there are no known classes.
    """
    listener = listener or Listener()
    with RunFolder.reopen(run) as folder:
        datasets = _own_images(folder, listener)
        model = Model.load(run, device=device)
        scores = probe(model, datasets, images=images, seed=folder.setting("seed"), listener=listener)
        folder.write_table("probes", as_columns(scores))
        kept = {name: value for name, value in folder.metrics.items() if not name.startswith("probe_")}
        write_json(folder.path / "metrics.json", kept | as_metrics(scores))
        write_page(folder.path)
    return scores


def probe(
    model: Model, datasets: Sequence[Dataset], *, images: int = IMAGES, seed: int, listener: Listener | None = None
) -> list[StageScores]:
    """Return the scores of each stage of a model's net, of the same net with random weights, and of the pixels.

    datasets: images as the model wants them, to learn from and to be scored on; or one, of which a fifth is held out.
    """
    listener = listener or Listener()
    chosen = choose_images(datasets, most=images, seed=seed)
    listener.log(f"Probes learn from {len(chosen.train):,} images and are scored on {len(chosen.test):,}.")
    return list(probe_stages(model, chosen, seed=seed, progress=listener.progress))


def _own_images(folder: RunFolder, listener: Listener) -> list[Dataset]:
    """Return the images of a run, opened as the fit opened them."""
    config = from_table(folder.config)
    places = {name: folder.place_of(name) for name in ("data", "test")}
    if config.data == "array":
        raise InputError(
            f"The images of {str(folder.path)!r} came as an array, which is gone: give them again, as in"
            " `smidgen eval RUN DATA --probes`."
        )
    config = dataclasses.replace(config, **places)
    train, test = open_data(config, None, None, listener)
    _require_unchanged(folder, train)
    return [train] if test is None else [train, test]


def _require_unchanged(folder: RunFolder, train: Dataset) -> None:
    expected = folder.manifest.get("fingerprints", {}).get("training images")
    if expected is not None and expected != train.fingerprint():
        raise RunError(
            f"The images of {str(folder.path)!r} are not those that it was fitted on any more: bring them back, or give"
            " others, as in `smidgen eval RUN DATA --probes`."
        )


def as_columns(scores: Sequence[StageScores]) -> dict[str, list[Any]]:
    """Return the columns of `tables/probes.csv`."""
    return {name: [row[name] for row in map(as_row, scores)] for name in as_row(scores[0])}


def as_row(scores: StageScores) -> dict[str, Any]:
    """Return a row of `tables/probes.csv`: accuracies to four digits, "" where there is none."""
    knn = dict(zip(KNN_COLUMNS, scores.knn, strict=True))
    accuracies = {"linear": scores.linear, **knn, "logistic": scores.logistic}
    return {
        "net": scores.net,
        "stage": scores.stage,
        "features": scores.features,
        **{name: "" if value is None else round(value, 4) for name, value in accuracies.items()},
        "seconds": round(scores.seconds, 1),
        "learned_from": scores.learned_from,
        "scored_on": scores.scored_on,
    }


def as_metrics(scores: Sequence[StageScores]) -> dict[str, float]:
    """Return the accuracies of the trained net's stages as `metrics.json` names them."""
    rows = [as_row(each) for each in scores if each.net == TRAINED]
    return {
        f"probe_{row['stage']}_{name}": row[name]
        for row in rows
        for name in ("linear", *KNN_COLUMNS, "logistic")
        if row[name] != ""
    }
