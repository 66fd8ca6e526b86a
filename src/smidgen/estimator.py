"""smidgen in scikit-learn's grammar: `ImageClusterer`, a clusterer of folders, arrays and embeddings."""

from __future__ import annotations

import dataclasses
import math
import numbers
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from smidgen import fitting
from smidgen.config import Config
from smidgen.data.chosen_classes import as_classes
from smidgen.data.datasets import Dataset, as_paths, exclude_patterns, list_images, open_like
from smidgen.data.names import name_of
from smidgen.data.rows import Rows, as_array, listed, refused, rows_of
from smidgen.data.shapes import is_vector
from smidgen.data.values import as_text
from smidgen.errors import InputError
from smidgen.evaluation.bag_methods import predict_bags_of
from smidgen.evaluation.bag_predictions import BagPredictions
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import torch_threads
from smidgen.listener import Listener
from smidgen.maths.entropy import mutual_information
from smidgen.model import Model
from smidgen.training.interrupts import Interrupted


class ImageClusterer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Clusters images with as much supervision as there is: none, or labels, counts, proportions or pairs as evidence.

    Parameters, all of them optional:

    n_clusters: how many clusters; "auto" for the number that suits X and the evidence best; None for as many as
        classes are in a named dataset, in `classes`, or named by the evidence, otherwise "auto".
    method: a name in `smidgen list methods`. encoder: the net that makes embeddings, see `smidgen list encoders`; a
        pretrained one is used as it is. None is "lite2" for photographs and "conv" for small grey images. fine_tune:
        train a pretrained one further; under "fusion", the images are first clustered by the encoder as it is.
    steps: short for the option of this name, for methods that have it. options: the others, by name; see
        `smidgen list methods NAME`. The shorthand wins.
    max_seconds: how long training may take, None for as long as its steps do. A fit that the clock ends is not
        repeatable bit for bit.
    size, resize, value_range, allow_bad, exclude, classes: how images become arrays, and which, see `open_dataset`.
        New images are read as those that it was fitted on.
    random_state: an integer of at least 0, which the result then depends on alone; a RandomState to draw one from; or
        None for another result every time. Global generators are neither used nor changed.
    device: "auto", "cpu", "cuda", … n_threads: of torch on the CPU, None for as many as it has. Other numbers of
        threads may change the last bits.
    out: a run folder to write, with a report to look at; overwrite: replace the run that is in it; issues: look for
        copies, outliers and poor images for the report.
    verbose: 1 says on stderr what happens.

    Wherever images are wanted, `X` is one of

    - a folder, archive, manifest or the name of a dataset, a glob, or several folders, as
      `open_dataset` takes them. Where it has a training and a test split, `fit` trains on the one and scores on the
      other; everything else takes the training split too, so that the same X gives the same rows. Files that cannot be
      read have no row, and a warning says so.
    - images one by one: a list, array or column of a table of paths of files, of Pillow's images or of arrays, whose
      sizes may differ. Each has its row, in order, and they have no splits.
    - images (n, h, w), (n, h, w, c) or (n, c, h, w), integers, floats or bool;
    - ready embeddings (n, features), floats of any scale: a matrix, data frame or list of lists. They are clustered
      as they are, and images whose pixels were laid in a row are embeddings too.

    Learned attributes:

    labels_: (n,) int64, the cluster of each training image. cluster_names_: (n_clusters,) texts, those of the classes
    that the evidence names, then numbers; `cluster_names_[labels_]` are the images' names. image_ids_: (n,) texts, as
    run folders have them. n_features_in_: numbers per image. metrics_: as in `metrics.json`, with scores where classes
    are known. config_: all settings of the fit, the seed among them. model_: the trained `Model`.

    >>> X = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.0, 9.1]])
    >>> model = ImageClusterer(n_clusters=2, method="kmeans", random_state=0).fit(X)
    >>> bool(model.labels_[0] == model.labels_[1] != model.labels_[2] == model.labels_[3])
    True
    >>> model.predict_proba([[9.0, 8.0]]).shape
    (1, 2)
    """

    def __init__(
        self,
        n_clusters: int | Literal["auto"] | None = None,
        *,
        method: str = "fusion",
        encoder: str | None = None,
        fine_tune: bool = False,
        steps: int | None = None,
        options: Mapping[str, Any] | None = None,
        max_seconds: float | None = None,
        size: int | None = None,
        resize: Literal["crop", "pad", "squash"] = "crop",
        value_range: Any = None,
        allow_bad: float = 0.05,
        exclude: str | Sequence[str] = (),
        classes: str | Sequence[str] = (),
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        n_threads: int | None = None,
        out: str | Path | None = None,
        overwrite: bool = False,
        issues: bool = True,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.method = method
        self.encoder = encoder
        self.fine_tune = fine_tune
        self.steps = steps
        self.options = options
        self.max_seconds = max_seconds
        self.size = size
        self.resize = resize
        self.value_range = value_range
        self.allow_bad = allow_bad
        self.exclude = exclude
        self.classes = classes
        self.random_state = random_state
        self.device = device
        self.n_threads = n_threads
        self.out = out
        self.overwrite = overwrite
        self.issues = issues
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    # ------------------------------------------------------------------------------------------------------- fitting

    def fit(
        self, X: Any, y: Any = None, *, evidence: Evidence | Resolved | Sequence[Any] | np.ndarray | None = None
    ) -> Self:
        """Find clusters in the images and return the estimator.

        y: ignored, as in every clusterer. What is known of the images is their evidence.
        evidence: what is known, see `Evidence`; or {image id or row: label}; or, where X is an array, labels (n,) of
            its rows, -1, None or NaN where unknown. Only these follow their rows into the folds of a cross-validation.
        Raises InputError (a ValueError) for what is wrong with X, the evidence or a parameter, RunError if `out` cannot
        be used, TrainingError if training cannot go on.
        """
        data = self._checked(X, reset=True)
        try:
            outcome = fitting.fit(
                self._config(data),
                data=data,
                evidence=_as_evidence(evidence, data),
                out=self.out,
                overwrite=self.overwrite,
                listener=_Spoken() if self.verbose else None,
            )
        except Interrupted as stop:
            if stop.signal == signal.SIGINT:
                raise KeyboardInterrupt from None  # as everywhere in Python
            signal.raise_signal(stop.signal)
            raise
        assert outcome.train is not None
        assert outcome.assignments is not None
        _warn_of(outcome.train)
        self._take(outcome.model)
        self.labels_ = outcome.assignments.argmax(1)
        self.image_ids_ = outcome.train.ids
        self.metrics_, self.config_ = outcome.metrics, outcome.config
        return self

    def _config(self, data: Any) -> Config:
        given = {} if self.steps is None else {"steps": self.steps}
        if not isinstance(self.options, Mapping | None):
            raise InputError(f"`options` must be a mapping of names to values, got {self.options!r}.")
        return Config(
            data=as_paths(data.entries if isinstance(data, Rows) else data) or "array",  # type: ignore[arg-type]
            method=self.method,
            n_clusters=self.n_clusters,
            size=self.size,
            resize=self.resize,
            value_range=as_text(self.value_range),
            encoder=self.encoder,
            fine_tune=self.fine_tune,
            seed=_seed(self.random_state),
            device=self.device,
            threads=self.n_threads,
            allow_bad=self.allow_bad,
            exclude=exclude_patterns(self.exclude),
            classes=as_classes(self.classes),
            max_seconds=self.max_seconds,
            issues=self.issues,
            options={**(self.options or {}), **given},
        )

    def _take(self, model: Model) -> None:
        self.model_ = model
        self.cluster_names_ = np.array(model.cluster_names, dtype=object)
        self.n_features_in_ = math.prod(model.shape)

    # ------------------------------------------------------------------------------------------------------ applying

    def predict(self, X: Any) -> np.ndarray:
        """Return the cluster of each image, (n,) int64; `cluster_names_` of these are their names."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return assignments (n, n_clusters) float32, rows sum to one; an image's do not depend on the others."""
        images = self._images(X)
        with torch_threads(self.n_threads):
            return self.model_.assign(images)

    def predict_bags(self, X: Any, bags: Any) -> BagPredictions:
        """Return how many different clusters each bag of images of X holds, and the share of each cluster.

        bags: name → images, or a list of bags, as `Evidence.from_bags` takes them, images being ids or rows of X; or
            the path of a CSV file bag,image. Images of X that could not be read are left out of their bags.
        The result has `bag_names`, `unique_counts`, `law` (the probability of 1, 2, … clusters), `shares` (bags,
        n_clusters), `head` (what the head for bags of `ucc` or `rcc` says) and `columns(cluster_names)`, a table.
        Raises InputError for an image that is not in X.

        >>> X = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0], [9.0, 9.1]])
        >>> model = ImageClusterer(n_clusters=2, method="kmeans", random_state=0).fit(X)
        >>> model.predict_bags(X, [[0, 1], [1, 2]]).unique_counts.tolist()
        [1, 2]
        """
        named = Evidence.from_files(bags=bags) if isinstance(bags, str | Path) else Evidence.from_bags(bags)
        images = self._dataset(X)
        skipped = [bad.id for bad in images.skipped]
        resolved = named.resolve(images.ids, skipped=skipped, kind_of_images="images of X", data=images.name)
        with torch_threads(self.n_threads):
            return predict_bags_of(self.model_, self.model_.assign_and_encode(images.images), resolved)

    def transform(self, X: Any) -> np.ndarray:
        """Return embeddings (n, features) float32."""
        images = self._images(X)
        with torch_threads(self.n_threads):
            return self.model_.encode(images)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mutual information of image and cluster in nats; higher is better. No labels: `y` is ignored.

        From 0 (all images in one cluster, or every one of them undecided) to ln(n_clusters) (all decided, clusters of
        equal size): H(mean assignment) − mean H(assignment), by Bridle, Heading and MacKay (NIPS 1991). It compares
        settings of one method that learns its assignments, n_clusters among them; under `kmeans`, whose confidences
        are not calibrated, it only grows with n_clusters.
        """
        return float(mutual_information(torch.from_numpy(self.predict_proba(X)).double()))

    @property
    def _n_features_out(self) -> int:
        """The length of an embedding, for the names of `get_feature_names_out`."""
        shape = self.model_.shape
        kind = np.float32 if is_vector(shape) else np.uint8
        return self.model_.encode(np.zeros((0, *shape), dtype=kind)).shape[1]

    # -------------------------------------------------------------------------------------------------------- images

    def _checked(self, X: Any, *, reset: bool) -> Any:
        """Return paths, a name and images one by one as they are, others as an array: images, or a matrix of floats."""
        X = _given(X)
        if _is_files(X) or _n_dimensions(X) >= 3:
            if reset and hasattr(self, "feature_names_in_"):
                del self.feature_names_in_  # of a data frame that it was fitted on before
            return X if _is_files(X) else as_array(X)
        kinds = [np.float32, np.float64]
        try:
            return validate_data(self, X, reset=reset, dtype=kinds, ensure_min_samples=2 if reset else 1)
        except (ValueError, TypeError) as error:
            if "float() argument must be" in str(error) and not hasattr(X, "__array__"):
                kind = type(X[0] if isinstance(X, list | tuple) else X).__name__
                raise refused(f"{'a list of ' if isinstance(X, list | tuple) else 'a '}{kind}") from error
            if "could not convert string" not in str(error):
                raise
            raise InputError(
                "X is a table with text in it, and embeddings are numbers: give the column of paths alone, X['path'],"
                " or the columns of numbers."
            ) from error

    def _images(self, X: Any) -> np.ndarray:
        """Return the images of X as the model wants them: (n, channels, height, width)."""
        return self._dataset(X).images

    def _dataset(self, X: Any) -> Dataset:
        """Return X as a dataset whose images are as the model wants them."""
        check_is_fitted(self)
        shape = self.model_.shape
        takes_vectors = is_vector(shape)
        X = _given(X)
        if not _is_files(X) and (_n_dimensions(X) not in (3, 4)) != takes_vectors:
            raise InputError(
                f"This model was fitted on {'ready embeddings' if takes_vectors else 'images'}, and was given"
                f" {'images' if takes_vectors else 'a matrix'}: give it what it was fitted on."
            )
        how: dict[str, Any] = {
            "resize": self.model_.preprocessing.resize,
            "value_range": self.model_.preprocessing.value_range,
            "allow_bad": self.allow_bad,
            "exclude": self.exclude,
            "classes": self.classes,
        }
        dataset = open_like(self._checked(X, reset=False), shape, split="train", **how)
        _warn_of(dataset)
        return dataset

    # ------------------------------------------------------------------------------------------------------- keeping

    def save(self, folder: Path | str) -> None:
        """Write the model as a folder that `load` and `smidgen predict` read; raises NotFittedError before `fit`."""
        check_is_fitted(self)
        self._named_model().save(folder)

    def _named_model(self) -> Model:
        """Return the model with the names in `cluster_names_`, which may have been set by hand."""
        names, n_clusters = np.asarray(self.cluster_names_, dtype=object), len(self.model_.cluster_names)
        if names.shape != (n_clusters,):
            raise InputError(f"`cluster_names_` must be {n_clusters} names, got shape {names.shape}.")
        if not all(isinstance(name, str) and _is_name(name) for name in names):
            raise InputError(f"`cluster_names_` must be UTF-8 texts that are not empty, got {names.tolist()}.")
        return dataclasses.replace(self.model_, cluster_names=tuple(map(str, names)))

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "auto", n_threads: int | None = None) -> Self:
        """Return a fitted estimator of a folder written by `save`, or of a run folder.

        It predicts as the one that was saved; what is known of the training images only (labels_, image_ids_,
        metrics_, config_) it does not have. Raises RunError if there is no model.
        """
        model = Model.load(folder, device=device)
        estimator = cls(
            model.method.problem.n_clusters,
            method=model.name,
            options=dataclasses.asdict(model.method.config),
            size=model.preprocessing.size,
            resize=model.preprocessing.resize,
            device=device,
            n_threads=n_threads,
        )
        estimator._take(model)
        return estimator


class _Spoken(Listener):
    """Writes a run's messages to stderr, and its progress, ten times per task."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def log(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        now = (what, 10 * done // max(total, 1))
        if now != self._last:
            self._last = now
            sys.stderr.write(f"{what} {done:,} of {total:,}{note and f', {note}'}\n")


def _is_name(text: str) -> bool:
    try:
        return name_of(text) != ""
    except ValueError:  # half characters
        return False


def _given(X: Any) -> Any:
    """Return images given one by one as `Rows`, anything else unchanged."""
    rows = rows_of(X)
    return listed(X) if rows is None else rows


def _is_files(X: Any) -> bool:
    """Return whether there is something to be opened: paths, a name, or images one by one."""
    return isinstance(X, Rows) or as_paths(X) is not None


def _n_dimensions(X: Any) -> int:
    return int(X.ndim) if hasattr(X, "ndim") else as_array(X).ndim


def _seed(random_state: Any) -> int:
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    try:
        return int(check_random_state(random_state).randint(2**31 - 1))
    except ValueError as error:
        raise InputError(
            f"`random_state` must be a seed (a whole number), None or a numpy.random.RandomState, got {random_state!r}."
        ) from error


def _as_evidence(evidence: Any, data: Any) -> Evidence | Resolved | None:
    """Return labels in the order of an array's rows as evidence; evidence is returned unchanged."""
    if evidence is None or isinstance(evidence, Evidence | Resolved):
        return evidence
    if isinstance(evidence, Mapping):
        return Evidence.from_labels(evidence)
    if as_paths(data) is not None:
        raise InputError("Labels by row go with arrays only: name the images, `Evidence.from_labels(labels, ids=…)`.")
    shape = (
        tuple(evidence.shape)
        if hasattr(evidence, "shape")
        else (len(evidence),)
        if hasattr(evidence, "__len__")
        else ()
    )
    if shape != (len(data),):
        raise InputError(
            f"`evidence` must be an `Evidence` or one label for each of {len(data)} rows, got"
            f" {type(evidence).__name__} of shape {shape}."
        )
    if isinstance(data, Rows):  # by id: images that cannot be read have no row
        return Evidence.from_labels(evidence, ids=[item.id for item in list_images(data) or ()])
    return Evidence.from_labels(evidence)


def _warn_of(dataset: Dataset) -> None:
    """Warn of images without a row, and of values that look as if they were read by the wrong range."""
    for doubt in dataset.doubts:
        warnings.warn(doubt, stacklevel=3)
    if dataset.skipped:
        first = dataset.skipped[0]
        warnings.warn(
            f"{len(dataset.skipped)} images of {dataset.name!r} could not be read and have no row, first {first.id!r}"
            f" ({first.reason}).",
            stacklevel=3,
        )
