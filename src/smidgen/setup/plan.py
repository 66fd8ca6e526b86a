"""The plan of a fit: everything opened and checked before anything is embedded, trained or written."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from smidgen.config import PATHS, Config, as_table
from smidgen.data.datasets import DATASETS, Dataset, find_data
from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import forked_rng
from smidgen.listener import Listener
from smidgen.methods import make_method
from smidgen.methods.base import Method, Problem
from smidgen.model import Model
from smidgen.nets.timm_encoder import PretrainedEncoder
from smidgen.setup.clusters import AUTO, choose_clusters
from smidgen.setup.configuration import resolve
from smidgen.setup.encoder import (
    as_if_embedded,
    choose_encoder,
    compared,
    embedded,
    encoder_in_words,
    encoder_to_compare,
)
from smidgen.setup.evidence import open_evidence, report_evidence, resolve_evidence
from smidgen.setup.fine_tuning import frozen_fit, has_two_fits
from smidgen.setup.images import ImageReader, open_data
from smidgen.setup.method import Choice, choose_method
from smidgen.setup.number_of_clusters import NumberOfClusters, find_number_of_clusters
from smidgen.setup.problem import make_problem
from smidgen.setup.start import start_from, starting_run


@dataclass(frozen=True)
class Plan:
    """A fit with its choices made and inputs opened.

    config: with every choice made, but the number of clusters where it is "auto" until images are embedded. choice:
    which method `fusion` is, where it was asked for. datasets: the images, of training and, where there is one, of the
    test set. extractor: what embeds them; None where the method sees the images. evidence: about the training images;
    given: as it was given, to be resolved again once the number of clusters is known. start: the model of the run to
    start from. method: a new one, made with zeros for embeddings.
    """

    config: Config
    choice: Choice | None
    datasets: list[Dataset]
    extractor: PretrainedEncoder | None
    evidence: Resolved
    given: Evidence | Resolved | None
    start: Model | None
    method: Method

    def inputs(self, listener: Listener) -> list[Dataset]:
        """Return the method's inputs: embeddings of the images, which takes a while, or the images themselves."""
        return embedded(self.datasets, self.extractor, device=self.config.device, listener=listener)

    def compared_inputs(self, inputs: Dataset, listener: Listener) -> tuple[Dataset, str | None]:
        """Return what the number of clusters is found by, and the encoder of it; None for pixels and ready vectors.

        inputs: for training, from `inputs`; other methods than those of embeddings see pixels there.
        """
        if self.extractor is not None:
            return inputs, self.extractor.name
        encoder = encoder_to_compare(self.config, self.datasets[0])
        if encoder is None:
            return inputs, None
        listener.log(f"Images are compared by the embeddings of {encoder!r} to find the number of clusters.")
        return compared(self.datasets[0], encoder, device=self.config.device, listener=listener), encoder

    def with_number_of_clusters(self, inputs: Dataset, listener: Listener) -> tuple[Plan, NumberOfClusters | None]:
        """Return the plan with the number of clusters that "auto" comes to, and how; as it is where it has a number.

        inputs: for training, from `inputs`.
        """
        if self.config.n_clusters != AUTO:
            return self, None
        inputs, _ = self.compared_inputs(inputs, listener)
        found = find_number_of_clusters(inputs.images, self.evidence, seed=self.config.seed, listener=listener)
        listener.log(found.in_words())
        config = dataclasses.replace(self.config, n_clusters=found.curve.best)
        evidence = resolve_evidence(config, self.datasets[0], self.given)
        method = _planned_method(config, self.datasets[0], self.extractor, evidence, self.start, listener)
        return dataclasses.replace(self, config=config, evidence=evidence, method=method), found

    def ready_method(self, inputs: Dataset) -> Method:
        """Return the method to train on these training inputs."""
        if self.extractor is None:
            return self.method
        method = new_method(self.config, make_problem(self.config, inputs, self.evidence))
        if self.start is not None:
            start_from(method, self.start, fine_tune=False)
        return method

    def fingerprints(self) -> dict[str, str]:
        """Return fingerprints of this fit's inputs, by content; nothing is embedded.

        An input that there is none of is left out.
        """
        found = {}
        for split, dataset in zip(("training", "test"), self.datasets, strict=False):
            found[f"{split} images"] = dataset.fingerprint()
            if dataset.classes is not None:
                found[f"classes of the {split} images"] = _of_classes(dataset)
        if self.evidence.sizes():
            found["evidence"] = self.evidence.fingerprint()
        if self.extractor is not None:
            found["weights of the encoder"] = self.extractor.fingerprint()
        if self.start is not None:
            found["run to start from"] = _of_weights(self.start)
        return found

    def summary(self) -> dict[str, Any]:
        """Return what would run, as JSON values."""
        train, problem = self.datasets[0], self.method.problem
        return {
            "data": self.config.data,
            "train_images": len(train),
            "test_images": sum(map(len, self.datasets[1:])),
            "skipped": sum(len(dataset.skipped) for dataset in self.datasets),
            "image_shape": list(train.shape),
            "value_range": train.value_range.as_table(),
            "encoder": encoder_in_words(self.config),
            "classes": list(train.class_names) if train.classes is not None else [],
            "n_clusters": AUTO if self.config.n_clusters == AUTO else problem.n_clusters,
            "method": self.config.method,
            **({} if self.choice is None else {"method_choice": self.choice.as_table()}),
            "options": msgspec.to_builtins(dict(self.config.options)),
            "evidence": problem.evidence.sizes(),
            "stages": {stage.name: stage.steps for stage in self.method.stages()},
            "parameters": sum(p.numel() for p in self.method.parameters()),
            "seed": self.config.seed,
            "device": self.config.device,
            "threads": self.config.threads,
        }


def make_plan(
    config: Config,
    *,
    data: Any = None,
    test: Any = None,
    evidence: Evidence | Resolved | None = None,
    start: Model | None = None,
    reader: ImageReader | None = None,
    listener: Listener,
) -> Plan:
    """Make every choice of a fit, open its inputs and check all that can be checked before training.

    data, test, evidence: as `fit` takes them. start: the model to start from, in place of that of `config.init_from`.
    reader: of the images, for several fits of the same ones. listener: receives what was chosen, opened and known.
    Where a configuration stands for two fits it is the second's.
    Raises InputError for what is wrong with any of them, RunError for the run to start from. Nothing is written.
    """
    evidence = open_evidence(config) if evidence is None else evidence
    start = starting_run(config) if start is None else start
    config = resolve(config, start=start)
    train, held_out = open_data(config, data, test, listener, reader=reader)
    config, choice = choose_method(config, train, listener)
    config, extractor = choose_encoder(config, train, listener, start=start)
    open_config, resolved = config, resolve_evidence(config, train, evidence)
    config = choose_clusters(config, train, resolved, listener)
    if config != open_config:
        resolved = resolve_evidence(config, train, evidence)  # no count is above it
    datasets = [dataset for dataset in (train, held_out) if dataset is not None]
    heard = Listener() if config.n_clusters == AUTO else listener  # what evidence determines depends on the number
    method = _planned_method(config, train, extractor, resolved, start, heard)
    return Plan(config, choice, datasets, extractor, resolved, evidence, start, method)


def plan_summary(config: Config, *, listener: Listener) -> dict[str, Any]:
    """Return what a configuration would run, as JSON values; where it stands for two fits, the first as "frozen"."""
    if not has_two_fits(config):
        return make_plan(config, listener=listener).summary()
    reader = ImageReader()
    frozen = make_plan(frozen_fit(config), reader=reader, listener=listener).summary()
    return make_plan(config, reader=reader, listener=Listener()).summary() | {"frozen": frozen}


def _planned_method(
    config: Config,
    train: Dataset,
    extractor: PretrainedEncoder | None,
    evidence: Resolved,
    start: Model | None,
    listener: Listener,
) -> Method:
    """Return a new method, made with zeros for embeddings, and report the evidence that it learns from."""
    method = new_method(config, make_problem(config, as_if_embedded(train, extractor), evidence))
    if start is not None:
        start_from(method, start, fine_tune=config.fine_tune)  # may refuse
    report_evidence(method, listener)
    return method


def new_method(config: Config, problem: Problem) -> Method:
    """Return a new method of a configuration; raises InputError if it does not go with the problem."""
    with forked_rng(config.device):
        torch.manual_seed(config.seed)
        method = make_method(config.method, config.options, problem)
    method.stages()  # may refuse too
    return method


def absolute_paths(config: Config) -> dict[str, str | list[str]]:
    """Return where the files and folders that a configuration names are, by setting, wherever the program runs."""
    table = as_table(config)
    given = {name: table[name] for name in PATHS if name in table}
    given |= {f"evidence.{kind}": path for kind, path in table.get("evidence", {}).items()}
    found: dict[str, str | list[str]] = {}
    for name, value in given.items():
        places = [_place(path, is_data=name in ("data", "test")) for path in _each(value)]
        absolute = [str(place.absolute()) for place in places if place is not None]
        if len(absolute) == len(places):
            found[name] = absolute[0] if isinstance(value, str) else absolute
    return found


def _each(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _place(path: str, *, is_data: bool) -> Path | None:
    """Return where a path leads, None for a named dataset, an array ("array") and what is not there."""
    if is_data and path in DATASETS:
        return None
    try:
        place = find_data(path) if is_data else Path(path).expanduser()
    except InputError:
        return None
    return place if place.exists() else None


def _of_classes(dataset: Dataset) -> str:
    hasher = hashlib.sha256(repr(dataset.class_names).encode(errors="replace"))
    hasher.update(np.ascontiguousarray(dataset.classes).data)
    return hasher.hexdigest()


def _of_weights(model: Model) -> str:
    """Return the sha256, as hex, over what a run may take from another one."""
    about = dataclasses.asdict(model.preprocessing), dataclasses.asdict(model.method.config)
    hasher = hashlib.sha256(repr((model.name, about)).encode())
    if model.extractor is not None:
        hasher.update(model.extractor.fingerprint().encode())
    for name, value in sorted(model.method.state_dict().items()):
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        whole = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # an expanded one has no stride
        hasher.update(whole.flatten().view(torch.uint8).numpy().data)
    return hasher.hexdigest()
