"""Opens the images of a fit: those to train on and, if any, those to test on."""

from __future__ import annotations

from typing import Any

from smidgen.config import Config
from smidgen.data.datasets import Dataset, open_dataset, open_splits
from smidgen.data.shapes import is_vector
from smidgen.data.subsets import choose_images
from smidgen.errors import InputError
from smidgen.listener import Listener
from smidgen.setup.encoder import other_size

_CLASSES_SAID = 6


Read = tuple[Dataset, Dataset | None, tuple[str, ...]]
"""Training images, test images and notes on both."""


class ImageReader:
    """Opens the images of fits, and keeps those that it read last: the fits of a recipe mostly share theirs.

    What changes on the disk meanwhile is not noticed.
    """

    def __init__(self) -> None:
        self._kept: tuple[dict[str, Any], Any, Any, Read] | None = None

    def open(
        self, config: Config, listener: Listener, *, data: Any = None, test: Any = None
    ) -> tuple[Dataset, Dataset | None]:
        """Return the training images and, where there are any, the test images, read as the configuration says.

        data, test: in place of those of the configuration.
        """
        train, held_out, notes = self._read(config, listener, data, test)
        train = choose_images(train, images=config.images, imbalance=config.imbalance, seed=config.seed)
        for note in notes:
            listener.log(note)
        listener.log(_in_words(train, held_out))
        return train, held_out

    def _read(self, config: Config, listener: Listener, data: Any, test: Any) -> Read:
        options: dict[str, Any] = {
            "size": config.size,
            "channels": config.channels,
            "resize": config.resize,
            "value_range": config.value_range,
            "allow_bad": config.allow_bad,
            "exclude": config.exclude,
            "classes": config.classes,
            "other_size": other_size(config),
        }
        asked = options | {"data": config.data, "test": config.test}
        if self._kept is not None:
            *before, read = self._kept
            if before[0] == asked and before[1] is data and before[2] is test:
                return read
        self._kept = None  # not two of them at once
        options["progress"] = lambda done, total: listener.progress("read images", done, total)
        read = _read(config, config.data if data is None else data, config.test if test is None else test, options)
        self._kept = asked, data, test, read
        return read


def open_data(
    config: Config, data: Any, test: Any, listener: Listener, *, reader: ImageReader | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return the training images and, where there are any, the test images, see `ImageReader.open`."""
    return (reader or ImageReader()).open(config, listener, data=data, test=test)


def _read(config: Config, data: Any, test: Any, options: dict[str, Any]) -> Read:
    train, held_out = open_splits(data, **options)
    if train.holds_vectors:
        _refuse_settings_of_images(config)
    notes = [*train.notes, *train.doubts]
    if test is not None:
        if not train.holds_vectors:
            options |= {"channels": train.shape[0], "size": train.shape[-1], "value_range": train.value_range}
        if held_out is not None:
            notes.append("Scores are on the test images that were given, not on the collection's own test split.")
        held_out = open_dataset(test, split="test", **options)
    if held_out is not None:
        _require_alike(train, held_out)
        notes += [note for note in (*held_out.notes, *held_out.doubts) if note not in notes]
    return train, held_out, tuple(notes)


def _in_words(train: Dataset, held_out: Dataset | None) -> str:
    what, size = "images", f"{'×'.join(map(str, train.shape[1:]))} pixels"
    if train.holds_vectors:
        what, size = "embeddings", f"{train.shape[0]:,} features"
    others = "" if held_out is None else f", {len(held_out):,} test {what}"
    bad = f"; {len(train.skipped)} could not be read (bad_images.csv)" if train.skipped else ""
    return f"{len(train):,} training {what} of {size}{others}{bad}.{_about_classes(train)}"


def _refuse_settings_of_images(config: Config) -> None:
    for name in ("size", "channels", "value_range"):
        if getattr(config, name) is not None:
            raise InputError(f"`{name}` is about images, and {config.data!r} holds ready embeddings: leave it out.")


def _about_classes(train: Dataset) -> str:
    """Return which classes the images have, where folders or files tell: what was taken for one must be seen."""
    if train.items is None or train.classes is None:
        return ""
    names = [repr(name) for name in train.class_names[:_CLASSES_SAID]]
    more = f", … ({len(train.class_names):,} in all)" if len(train.class_names) > _CLASSES_SAID else ""
    return f" Classes: {', '.join(names)}{more}."


def _require_alike(train: Dataset, test: Dataset) -> None:
    """Raise InputError if a model of the training data cannot be evaluated on the test data."""
    if train.shape != test.shape:
        raise InputError(
            f"The training data are {_kind(train)} and the test data {_kind(test)}: give both as the same, or leave the"
            " test data out."
        )


def _kind(data: Dataset) -> str:
    """Return a description of a dataset."""
    if is_vector(data.shape):
        return f"embeddings of {data.shape[0]:,} features"
    channels, height, width = data.shape
    return f"{'grey' if channels == 1 else 'colour'} images of {width}×{height} pixels"
