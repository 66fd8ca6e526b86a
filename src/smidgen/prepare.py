"""What a fit needs before it starts: the configuration with every choice made, the data opened, the problem stated."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from smidgen.config import Config
from smidgen.data.datasets import DATASETS, Dataset, open_dataset, open_splits
from smidgen.data.decoding import NATIVE_LIMIT
from smidgen.data.subsets import choose_images
from smidgen.data.values import as_text
from smidgen.errors import InputError, unknown
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility
from smidgen.evidence.files import FILES
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import choose_device, choose_precision
from smidgen.methods import METHODS, ON_EMBEDDINGS, check_options, make_config, method_class
from smidgen.methods.base import Method, Problem
from smidgen.model import Model, embed
from smidgen.nets.encoders import is_projected, is_trained_here
from smidgen.nets.pretrained import SCRATCH, encoder_size, pretrained_encoder
from smidgen.nets.timm_encoder import PretrainedEncoder

DEFAULT_CLUSTERS = 10
PREFERRED = "lite2"
"""The encoder for photographs, see `choose_encoder`."""

IMAGE_DEFAULTS = ("conv", "wide-residual")
"""The encoders that methods have by default: nets for images, for which "vectors" stands in on embeddings."""

SMALL = 64
"""Pixels a side up to which grey images may be writing."""

_FINDINGS_SAID = 4
_CLASSES_SAID = 6


class Listener:
    """Hears what a run says and how far it is; this one hears nothing. The command line's prints."""

    def say(self, text: str) -> None:
        """Hear a sentence."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Hear that `done` of `total` are done."""


def starting_run(config: Config) -> Model | None:
    """Return the model of the run that `config.init_from` names, None where it names none.

    Raises RunError if there is no model, InputError if it has no net to start from.
    """
    if config.init_from is None:
        return None
    other = Model.load(config.init_from)
    if other.extractor is None and other.method.starting_point is None:
        raise InputError(f"The run {config.init_from!r} has no net to start from: leave out `--init-from`.")
    return other


def resolve(config: Config, listener: Listener | None = None, *, start: Model | None = None) -> Config:
    """Return the configuration with every open choice made, so that it says all that a run depends on.

    start: what `starting_run` returns, where it is at hand.
    """
    if config.method not in METHODS:
        raise unknown("method", config.method, METHODS)
    n_clusters = config.n_clusters
    if n_clusters is None:
        known = DATASETS.get(config.data) if isinstance(config.data, str) else None
        n_clusters = known.n_classes if known else DEFAULT_CLUSTERS
        if known is None and listener is not None:
            listener.say(f"No number of clusters was given: looking for {n_clusters} (`--clusters` changes it).")
    device = choose_device(config.device)
    config = _with_encoder(config, start or starting_run(config))
    check_options(config.method, config.options)
    options = config.options  # of some methods they depend on the images
    if config.method not in ON_EMBEDDINGS:
        options = dataclasses.asdict(make_config(config.method, options))
    return dataclasses.replace(
        config,
        n_clusters=n_clusters,
        value_range=as_text(config.value_range),
        options=options,
        threads=config.threads or torch.get_num_threads(),
        device=device,
        precision=choose_precision(config.precision, device),
    )


def _with_encoder(config: Config, other: Model | None) -> Config:
    """Return the configuration with the encoder where it belongs: `encoder` is frozen, `options` has what is trained.

    Another run's encoder is taken for what it was there.
    """
    encoder, options = config.encoder, dict(config.options)
    if other is not None:
        _refuse_strangers(config, other)
        if other.extractor is not None:
            encoder = encoder or other.extractor.name
        if (trained_there := _net_to_start_from(other, config)) is not None:
            options.setdefault("encoder", trained_there)
    wanted = encoder or options.get("encoder")
    if other is None and is_projected(wanted):
        raise InputError(f"The encoder {wanted!r} comes from another run: name that one, `--init-from RUN`.")
    trained = encoder is not None and (config.fine_tune or is_trained_here(encoder))
    if config.fine_tune and encoder is None and options.get("encoder") is None:
        raise InputError("Which encoder is to be trained further? Name it: `--encoder lite0 --fine-tune`.")
    if config.weights is not None and (encoder is None or trained):
        raise InputError("`--weights` go with a frozen encoder: name the net they belong to, `--encoder NAME`.")
    if trained:
        options.setdefault("encoder", encoder)
        encoder = None
    return dataclasses.replace(config, encoder=encoder, options=options)


def _refuse_strangers(config: Config, other: Model) -> None:
    """Raise InputError where `--encoder` names other embeddings than those that the other run's nets work on."""
    named, own = config.encoder, None if other.extractor is None else other.extractor.name
    if named is None or config.fine_tune or named == own or (own is None and is_trained_here(named)):
        return
    works = "trained a net on images or ready embeddings" if own is None else f"works on the embeddings of {own!r}"
    raise InputError(
        f"The run {config.init_from!r} {works}, and none of that goes with `--encoder {named}`: leave out one of"
        " `--encoder` and `--init-from`."
    )


def _net_to_start_from(other: Model, config: Config) -> str | None:
    """Return the name of the net that another run offers, None where the method has no place for one.

    On embeddings `fusion` has none: it looks at them as its form for embeddings does.
    """
    if not hasattr(make_config(config.method), "encoder"):
        return None
    looks_anew = config.method in ON_EMBEDDINGS and other.name in ON_EMBEDDINGS.values()
    trains_the_extractor = other.extractor is not None and (config.fine_tune or config.method in ON_EMBEDDINGS)
    start = other.method.starting_point
    return None if looks_anew or trains_the_extractor or start is None else start.encoder


def choose_encoder(
    config: Config, train: Dataset, listener: Listener, *, start: Model | None = None
) -> tuple[Config, PretrainedEncoder | None]:
    """Return the configuration with every choice made that depends on the images, and the encoder to embed them with.

    start: what `starting_run` returns, where it is at hand.

    Where none is named, `PREFERRED` is for methods that have a form for embeddings, unless images are small and grey:
    those may be writing, which nets trained on photographs know little of, and a small net learns it in a minute.
    """
    name = config.encoder
    small_and_grey = train.images.shape[1] == 1 and max(train.images.shape[2:]) <= SMALL
    if name is not None and train.holds_vectors:
        raise InputError(f"The encoder {name!r} wants images, and these are embeddings: leave `--encoder` out.")
    undecided = name is None and config.method in ON_EMBEDDINGS and "encoder" not in config.options
    if undecided and not train.holds_vectors and not small_and_grey:
        name = PREFERRED
        listener.say(f"Images are embedded by {name!r}, a net trained on ImageNet's labels (`--encoder` changes it).")
    extractor = None
    if name is not None:
        extractor = _extractor(name, config, start or starting_run(config))
    method = config.method
    if extractor is not None or (train.holds_vectors and "encoder" not in config.options):
        method = ON_EMBEDDINGS.get(method, method)
    options = dataclasses.asdict(make_config(method, config.options))
    if (extractor is not None or train.holds_vectors) and options.get("encoder") in IMAGE_DEFAULTS:
        options["encoder"] = "vectors"
    return dataclasses.replace(config, encoder=name, method=method, options=options), extractor


def _extractor(name: str, config: Config, start: Model | None) -> PretrainedEncoder:
    """Return the encoder to embed images with: another run's own where that is what is asked for, weights and all."""
    other = None if start is None else start.extractor
    if other is not None and other.name == name and config.weights is None:
        return other
    return pretrained_encoder(name, weights=config.weights, flip=True)


def embedded(
    datasets: list[Dataset], extractor: PretrainedEncoder | None, *, device: str, listener: Listener
) -> list[Dataset]:
    """Return datasets with embeddings for images, the same rows and ids; as they are where there is no extractor."""
    if extractor is None:
        return datasets
    return [
        dataclasses.replace(
            dataset,
            images=embed(
                dataset.images,
                extractor,
                device=device,
                progress=lambda done, total: listener.progress("embed images", done, total),
                say=listener.say,
            ),
            items=None,
        )
        for dataset in datasets
    ]


def as_if_embedded(dataset: Dataset, extractor: PretrainedEncoder | None) -> Dataset:
    """Return a dataset of embeddings that are all zero: enough to say what would run."""
    if extractor is None:
        return dataset
    zero = np.zeros((1, extractor.features, 1, 1), dtype=np.float32)
    return dataclasses.replace(dataset, images=np.broadcast_to(zero, (len(dataset), *zero.shape[1:])), items=None)


def open_evidence(config: Config) -> Evidence | None:
    """Return what the files in `config.evidence` say, None if there are none; InputError naming file and line."""
    for kind in config.evidence:
        if kind not in FILES:
            raise unknown("kind of evidence", kind, FILES)
    return Evidence.from_files(**config.evidence) if config.evidence else None


def used_evidence(method: Method) -> dict[str, int]:
    """Return how much there is of each kind of evidence that the method learns from, with the bags if any is of bags.

    Images, bags or pairs, as in `Resolved.sizes`.
    """
    sizes = method.problem.evidence.sizes()
    used = {kind for kind in method.evidence_used if kind in sizes}
    if used & {"counts", "proportions", "presence"}:
        used.add("bags")
    return {kind: n for kind, n in sizes.items() if kind in used}


def evidence_in_words(method: Method) -> dict[str, int]:
    """Return `used_evidence` as a manifest has it, and what bags are drawn from under a name that says so."""
    drawn, sizes = method.draws_bags_from, method.problem.evidence.sizes()
    learned = {kind: n for kind, n in used_evidence(method).items() if kind not in drawn}
    return learned | {f"{kind} to draw bags from": sizes[kind] for kind in drawn}


def tell_of_evidence(method: Method, listener: Listener) -> None:
    """Say what is known, what of it the method makes no use of, and what it leaves undetermined or contradicts."""
    evidence, n_clusters = method.problem.evidence, method.problem.n_clusters
    sizes = evidence.sizes()
    if not sizes:
        return
    listener.say(f"Evidence: {', '.join(f'{n:,} {kind}' for kind, n in sizes.items())}.")
    for kind in method.draws_bags_from:
        drawn = f"Fresh bags are drawn from the {sizes[kind]:,} {kind}"
        listener.say(f"{drawn} at each step: {method.name!r} is told of them what a bag holds, not of single images.")
    for remark in method.remarks:
        listener.say(remark)
    spare = [k for k in sizes if k != "bags" and k not in (*method.evidence_used, *method.draws_bags_from)]
    if not method.evidence_used:
        listener.say(f"{method.name!r} makes no use of evidence: this run goes as if it had none (`fusion` uses it).")
        return
    if spare:
        listener.say(f"{method.name!r} makes no use of {', '.join(spare)} (`fusion` does).")
    findings = [finding for finding in feasibility(evidence, n_clusters) if finding.level != "note"]
    for finding in findings[:_FINDINGS_SAID]:
        listener.say(str(finding))
    if len(findings) > _FINDINGS_SAID:
        listener.say(f"… and {len(findings) - _FINDINGS_SAID} more: `smidgen check` says all about evidence.")


def resolve_evidence(config: Config, train: Dataset, evidence: Evidence | Resolved | None) -> Resolved:
    """Return what is known of the training images, as index arrays.

    Without evidence all known classes are the labels of methods that need them: to learn from, or to draw bags from.
    """
    n_clusters = config.n_clusters or DEFAULT_CLUSTERS
    if len(train) < n_clusters:
        raise InputError(f"{n_clusters} clusters were wanted of {len(train)} images: ask for fewer clusters.")
    if isinstance(evidence, Evidence):
        skipped = [bad.id for bad in train.skipped]
        evidence = evidence.resolve(
            train.ids,
            n_clusters=n_clusters,
            skipped=skipped,
            keep_contradictory_pairs=config.keep_contradictory_pairs,
            data=train.name,
        )
    evidence = evidence or Resolved.nothing(len(train))
    if evidence.n_images != len(train):
        raise InputError(
            f"The evidence is about {evidence.n_images} images, and there are {len(train)} training images: resolve it"
            " against these images."
        )
    if method_class(config.method).wants_classes and train.classes is not None and not evidence.sizes():
        evidence = dataclasses.replace(
            evidence, labels=torch.from_numpy(train.classes.astype(np.int64)), class_names=tuple(train.class_names)
        )
    n_named = max(len(evidence.class_names), int(evidence.labels.max()) + 1)
    if n_named > n_clusters:
        raise InputError(
            f"The evidence names {n_named} classes, and there are {n_clusters} clusters: ask for more clusters."
        )
    return evidence


def make_problem(config: Config, train: Dataset, evidence: Resolved) -> Problem:
    """Return what a method may know of the training set."""
    mean, std = _channel_statistics(train.images)
    return Problem(
        n_images=len(train),
        image_shape=tuple(train.images.shape[1:]),
        n_clusters=config.n_clusters or DEFAULT_CLUSTERS,
        mean=mean,
        std=std,
        evidence=evidence,
    )


def open_data(config: Config, data: Any, test: Any, listener: Listener) -> tuple[Dataset, Dataset | None]:
    """Return the training images and, where there are any, the test images, read as the configuration says."""
    options: dict[str, Any] = {
        "size": config.size,
        "channels": config.channels,
        "resize": config.resize,
        "value_range": config.value_range,
        "allow_bad": config.allow_bad,
        "exclude": config.exclude,
        "other_size": other_size(config),
        "progress": lambda done, total: listener.progress("read images", done, total),
    }
    train, held_out = open_splits(config.data if data is None else data, **options)
    notes = [*train.notes, *train.doubts]
    train = choose_images(train, images=config.images, imbalance=config.imbalance, seed=config.seed)
    test = config.test if test is None else test
    if test is not None:
        shape = train.images.shape[1:]
        if not train.holds_vectors:
            options |= {"channels": shape[0], "size": shape[-1], "value_range": train.value_range}
        if held_out is not None:
            notes.append("Scores are on the test images that were given, not on the collection's own test split.")
        held_out = open_dataset(test, split="test", **options)
    if held_out is not None:
        _require_alike(train, held_out)
        notes += [note for note in (*held_out.notes, *held_out.doubts) if note not in notes]
    for note in notes:
        listener.say(note)
    what, size = "images", f"{'×'.join(map(str, train.images.shape[2:]))} pixels"
    if train.holds_vectors:
        what, size = "embeddings", f"{train.images.shape[1]:,} features"
    others = "" if held_out is None else f", {len(held_out):,} test {what}"
    bad = f"; {len(train.skipped)} could not be read (bad_images.csv)" if train.skipped else ""
    listener.say(f"{len(train):,} training {what} of {size}{others}{bad}.{_about_classes(train)}")
    return train, held_out


def _about_classes(train: Dataset) -> str:
    """Return which classes the images have, where folders or files tell: what was taken for one must be seen."""
    if train.items is None or train.classes is None:
        return ""
    names = [repr(name) for name in train.class_names[:_CLASSES_SAID]]
    more = f", … ({len(train.class_names):,} in all)" if len(train.class_names) > _CLASSES_SAID else ""
    return f" Classes: {', '.join(names)}{more}."


def _require_alike(train: Dataset, test: Dataset) -> None:
    """Raise InputError if what is learned from the training data cannot be tried on the test data."""
    if (train.images.shape[1:], train.images.dtype) != (test.images.shape[1:], test.images.dtype):
        raise InputError(
            f"The training data are {_kind(train)} and the test data {_kind(test)}: give both as the same, or leave the"
            " test data out."
        )


def _kind(data: Dataset) -> str:
    """Return what a dataset holds, in words."""
    if data.holds_vectors:
        return f"embeddings of {data.images.shape[1]:,} features"
    channels, height, width = data.images.shape[1:]
    return f"{'grey' if channels == 1 else 'colour'} images of {width}×{height} pixels"


def other_size(config: Config) -> int:
    """Return the side of images that are not of one small size: what the encoder reads best, where one may be used."""
    name = config.encoder or config.options.get("encoder")
    if name is not None and (not is_trained_here(name) or name.startswith(SCRATCH)):
        return encoder_size(name)
    on_embeddings = config.method in ON_EMBEDDINGS and "encoder" not in config.options
    return encoder_size(PREFERRED) if on_embeddings else NATIVE_LIMIT


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel in [0, 1], exactly and without a float copy of the images.

    Of ready embeddings: per feature, as they are.
    """
    if images.dtype != np.uint8:
        if images.strides[0] == 0:
            images = images[:1]  # zeros that stand for embeddings
        vectors = images.reshape(images.shape[:2])
        means = vectors.mean(0, dtype=np.float64)
        blocks = (vectors[start : start + 1024] - means for start in range(0, len(vectors), 1024))
        variances = sum((block**2).sum(0) for block in blocks) / len(vectors)
        return tuple(means.tolist()), tuple(np.sqrt(variances).tolist())
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(images), 1024):
        for c in range(images.shape[1]):
            counts[c] += np.bincount(images[start : start + 1024, c].ravel(), minlength=256)
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return tuple(float(m) for m in mean), tuple(math.sqrt(v) for v in variance)
