"""Runs a fit: from a configuration and data to a finished run folder. Everything is wired together here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smidgen.config import Config, as_table
from smidgen.data.datasets import Dataset
from smidgen.evaluation.bag_methods import score_bags
from smidgen.evaluation.explained import Explained, explain
from smidgen.evaluation.out_of_fold import Unseen, out_of_fold
from smidgen.evaluation.scores import sample_scores
from smidgen.evaluation.temperature import temperature_of
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.kinds import kind_of
from smidgen.evidence.resolved import Resolved
from smidgen.files import lies_inside, write_json
from smidgen.fine_tuning import about_before, fine_tuned, scores_before
from smidgen.hardware import choose_device, peak_memory_mb, repeatable, reset_peak_memory, torch_threads
from smidgen.listener import Listener
from smidgen.maths.temperature import tempered
from smidgen.model import Model, Preprocessing, extractor_table
from smidgen.nets.pretrained import weights_in_words
from smidgen.outputs import (
    MOST_INSPECTED,
    describe,
    estimated_shares,
    matched_classes,
    now,
    score_split,
    write_assignments,
    write_clusters,
    write_explained,
    write_filters,
    write_issues,
    write_number_of_clusters,
    write_pseudo_labels,
    write_skipped,
    write_thumbnails,
)
from smidgen.reports.page import write_page
from smidgen.run_folder import RunFolder
from smidgen.setup.clusters import AUTO
from smidgen.setup.configuration import class_count
from smidgen.setup.evidence import evidence_in_words, used_evidence
from smidgen.setup.fine_tuning import has_two_fits
from smidgen.setup.images import ImageReader
from smidgen.setup.number_of_clusters import NumberOfClusters
from smidgen.setup.plan import Plan, absolute_paths, make_plan
from smidgen.training.callbacks import Callback, MetricsLog, Ticker
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.contract import check_assignments
from smidgen.training.embed import make_embed
from smidgen.training.interrupts import Interrupts
from smidgen.training.loop import Settings, Trainer
from smidgen.training.monitors.diagnostics import Diagnostics
from smidgen.training.monitors.online_eval import OnlineEval
from smidgen.training.monitors.relabelling import RelabellingMonitor


@dataclass(frozen=True)
class Outcome:
    """A finished fit.

    metrics: as in `metrics.json`. train: the images trained on; assignments: theirs, (n, clusters) float32. Both are
    None for a run that had finished before.
    """

    model: Model
    metrics: dict[str, Any]
    config: Config
    train: Dataset | None = None
    assignments: np.ndarray | None = None


def fit(
    config: Config,
    *,
    data: Any = None,
    test: Any = None,
    evidence: Evidence | Resolved | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reader: ImageReader | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Fit a method to images and return the trained model with its scores; with `out`, write a run folder.

    data, test: anything `open_dataset` takes, in place of `config.data` and `config.test`.
    evidence: about the training images, in place of the files in `config.evidence`.
    resume: go on in `out` from its newest checkpoint; overwrite: empty it first.
    reader: of the images, for several fits of the same ones.
    Raises InputError for what is wrong with the arguments or the data, RunError for the folder, TrainingError if
    training cannot go on, Interrupted on SIGTERM or Ctrl-C (resume then goes on exactly).
    """
    listener, reader = listener or Listener(), reader or ImageReader()
    if out is not None:
        RunFolder.check(out, resume=resume, overwrite=overwrite)
    part = partial(_fit, data=data, test=test, evidence=evidence, reader=reader)
    how: dict[str, Any] = {"out": out, "resume": resume, "overwrite": overwrite, "listener": listener}
    return fine_tuned(part, config, **how) if has_two_fits(config) else part(config, **how)


def _fit(
    config: Config,
    *,
    data: Any,
    test: Any,
    evidence: Evidence | Resolved | None,
    out: Path | str | None,
    resume: bool,
    overwrite: bool,
    reader: ImageReader,
    listener: Listener,
    before: Outcome | None = None,
    whole: Path | str | None = None,
) -> Outcome:
    """Do one fit.

    before: the fit on a frozen encoder that this one goes on from, read from `config.init_from` where there is one.
    whole: the run folder that this fit is the first part of, which is locked too, and which `overwrite` empties.
    """
    began = time.monotonic()
    if out is not None:
        for images in (config.data, config.test):
            if lies_inside(out, images):
                listener.log(f"The run folder {str(out)!r} lies inside the images' folder {images!r}: choose another.")
    device = choose_device(config.device)
    reset_peak_memory(device)
    with Interrupts().listening() as interrupts, torch_threads(config.threads), repeatable(device):
        chosen = _clusters_chosen_for(out) if resume else None
        if before is not None:
            chosen = _clusters_chosen_by(before.metrics)
        is_open = config.n_clusters == AUTO or (config.n_clusters or class_count(config.data, config.classes)) is None
        if chosen is not None and is_open:
            config = dataclasses.replace(config, n_clusters=chosen["best"])
        start = before.model if before is not None and config.init_from is None else None
        plan = make_plan(config, data=data, test=test, evidence=evidence, start=start, reader=reader, listener=listener)
        inputs, number = None, None
        if plan.config.n_clusters == AUTO:
            inputs = plan.inputs(listener)
            plan, number = plan.with_number_of_clusters(inputs[0], listener)
            chosen = None if number is None else number.as_table()
        table, fingerprints = as_table(plan.config), plan.fingerprints()
        if out is not None and resume:
            RunFolder(Path(out)).require_same(table, fingerprints)
            if RunFolder(Path(out)).finished:
                if whole is None:  # or the second of two fits is left
                    listener.log(f"The run in {str(out)!r} has finished already: nothing is left to do.")
                return _finished(RunFolder(Path(out)), plan.config)
        # It may still refuse: nothing is written before.
        fitting = _Fit(
            plan, inputs or plan.inputs(listener), number, chosen, fingerprints, listener, interrupts, began, before
        )
        if out is None:
            return fitting.run(None)
        with ExitStack() as locked:
            if whole is not None:
                locked.enter_context(RunFolder.around(whole, overwrite=overwrite))
            run = locked.enter_context(RunFolder.start(out, table, resume=resume, overwrite=overwrite))
            return fitting.run(run)


class _Fit:
    """One fit, from an untrained method to a finished run folder.

    datasets: the images of the training set and, if there is one, the test set. inputs: what the method receives:
    their embeddings by an extractor, or the images themselves. number: how the number of clusters was found, if it was
    in this call; chosen: the manifest's entry on it, if it was in any. fingerprints: of the inputs. before: the fit on
    a frozen encoder that is fine-tuned here, if any.
    """

    def __init__(
        self,
        plan: Plan,
        inputs: list[Dataset],
        number: NumberOfClusters | None,
        chosen: Mapping[str, Any] | None,
        fingerprints: Mapping[str, str],
        listener: Listener,
        interrupts: Interrupts,
        began: float,
        before: Outcome | None,
    ) -> None:
        self.config, self.extractor, self.fingerprints = plan.config, plan.extractor, fingerprints
        self.choice = plan.choice
        self.datasets, self.inputs = plan.datasets, inputs
        self.number, self.clusters_chosen = number, chosen
        self.train = self.inputs[0]
        self.method = plan.ready_method(self.train)
        self.problem = self.method.problem
        self.listener, self.interrupts, self.began = listener, interrupts, began
        self.before = before
        self.run_folder: RunFolder | None = None
        self.rough: list[str] = []
        self.device = torch.device(plan.config.device)
        self.settings = Settings(
            seed=plan.config.seed,
            device=self.device,
            bfloat16=plan.config.precision == "bfloat16",
            checkpoint_every=plan.config.checkpoint_every,
            max_seconds=plan.config.max_seconds,
        )
        self.diagnostics = Diagnostics(listener.log, options=plan.config.options.keys())
        held_out = self.inputs[1].images if len(self.inputs) > 1 else None
        self.relabelling = RelabellingMonitor(self.train.classes, held_out, seed=plan.config.seed, device=self.device)

    def run(self, run_folder: RunFolder | None) -> Outcome:
        self.run_folder = run_folder
        if self.run_folder is not None:
            if self.number is not None:  # before the manifest, by which a run that goes on takes it for written
                write_number_of_clusters(self.run_folder, self.number, self.datasets[0].ids)
            self._write_manifest(self.run_folder)
            write_skipped(self.run_folder, self.datasets)
        trained = self._train()
        preprocessing = self._preprocessing()
        names = self._class_names
        others = map(str, range(len(names), self.problem.n_clusters))
        names = names + tuple(f"cluster {k}" if k in names else k for k in others)  # a class may be called "3"
        model = Model(self.method.eval(), self.config.method, preprocessing, names, self.device)
        if self._is_undone:
            assert self.before is not None
            model, self.extractor = self.before.model, self.before.model.extractor
        outputs = self._assign_and_encode(model)
        unseen = self._unseen(outputs[0][0])
        if not self._is_undone:
            model, outputs = self._made_honest(model, outputs, unseen)
        assignments, embeddings = [found[0] for found in outputs], [found[1] for found in outputs]
        explained = self._explain(assignments[0], names, unseen)
        if explained.bags is not None:
            model = dataclasses.replace(model, bag_calibration=dataclasses.asdict(explained.bags))
        bags = score_bags(model, self.inputs, outputs, seed=self.config.seed, progress=self._ticks("score bags"))
        trained |= {} if model.temperature == 1 else {"temperature": round(model.temperature, 4)}
        shares = estimated_shares(assignments[0], model.cluster_names)
        metrics = self._metrics(assignments, trained, shares) | explained.wrong_rates | bags.metrics
        model = dataclasses.replace(model, extractor=self.extractor)  # from here on it is shown images
        if self.run_folder is not None:
            self._write(self.run_folder, model, assignments, embeddings, explained, metrics, bags.tables)
        return Outcome(model, metrics, self.config, self.datasets[0], assignments[0])

    @property
    def _is_undone(self) -> bool:
        """Whether the fit on the frozen encoder was better: then its model is that of the whole."""
        return self.before is not None and self.method.figures().get("fine_tuning_kept") is False

    def _preprocessing(self) -> Preprocessing:
        train = self.datasets[0]
        channels, size = (None, None) if train.holds_vectors else (train.shape[0], train.shape[-1])
        return Preprocessing(size, channels, self.config.resize, train.value_range)

    def _assign_and_encode(self, model: Model) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the assignments and embeddings of each split.

        They and the model are written at once: whatever fails later, what was trained for is there.
        """
        outputs: list[tuple[np.ndarray, np.ndarray]] = []
        if self.run_folder is not None:
            dataclasses.replace(model, extractor=self.extractor).save(self.run_folder.path / "model")
        for dataset in self.inputs:
            outputs.append(model.assign_and_encode(dataset.images, progress=self._ticks("assign")))
            check_assignments(self.method, outputs[-1][0])
            self._write_assignments(model, outputs)
        if self.run_folder is not None:
            self.run_folder.write_array("embeddings.npy", np.concatenate([found[1] for found in outputs]))
        return outputs

    def _write_assignments(self, model: Model, outputs: list[tuple[np.ndarray, np.ndarray]]) -> None:
        if self.run_folder is not None:
            path, datasets = self.run_folder.path / "assignments.csv", self.datasets[: len(outputs)]
            write_assignments(path, datasets, [found[0] for found in outputs], model.cluster_names)

    def _made_honest(
        self, model: Model, outputs: list[tuple[np.ndarray, np.ndarray]], unseen: Unseen | None
    ) -> tuple[Model, list[tuple[np.ndarray, np.ndarray]]]:
        """Return the model at the temperature where its confidence is honest, and its outputs; both are written."""
        assignments, embeddings = outputs[0]
        temperature = temperature_of(
            self.method,
            self.train.images,
            assignments,
            embeddings,
            kinds=used_evidence(self.method).keys(),
            unseen=unseen,
            seed=self.config.seed,
        )
        if temperature == 1:
            return model, outputs
        model = dataclasses.replace(model, temperature=temperature)
        outputs = [(tempered(torch.from_numpy(p), temperature).numpy(), other) for p, other in outputs]
        if self.run_folder is not None:
            dataclasses.replace(model, extractor=self.extractor).save(self.run_folder.path / "model")
        self._write_assignments(model, outputs)
        return model, outputs

    @property
    def _class_names(self) -> tuple[str, ...]:
        """The classes that the first clusters are named after; none where the method learns from no such evidence."""
        named = any(kind_of(name).class_at is not None for name in used_evidence(self.method))
        return self.problem.evidence.class_names if named else ()

    @property
    def _kinds(self) -> Collection[str]:
        """The kinds of evidence that the method learned from."""
        return used_evidence(self.method).keys() - {*self.method.evidence_use.bags_drawn_from}

    def _unseen(self, assignments: np.ndarray) -> Unseen | None:
        """Return what is said out of fold of images and pairs that evidence speaks of; None where it does of none."""
        if all(kind_of(kind).about == "bags" for kind in self._kinds):
            return None
        return out_of_fold(
            self.train.images,
            assignments,
            self.problem.evidence,
            seed=self.config.seed,
            device=self.device,
            progress=self._ticks("check evidence"),
        )

    def _explain(self, assignments: np.ndarray, names: tuple[str, ...], unseen: Unseen | None) -> Explained:
        """Return how the assignments explain the evidence that the method learned from."""
        return explain(
            assignments,
            self.problem.evidence,
            image_ids=self.train.ids,
            cluster_names=names,
            kinds=self._kinds,
            unseen=unseen,
        )

    def _train(self) -> dict[str, Any]:
        """Train, and return the seconds and steps that it took, and whether time was up before all steps were done."""
        callbacks: list[Callback] = [
            OnlineEval(
                self.train.images, self.train.classes, score=sample_scores, seed=self.config.seed, device=self.device
            ),
            self.diagnostics,
            self.relabelling,
            MetricsLog(None if self.run_folder is None else self.run_folder.path / "metrics.jsonl"),
            Ticker(self._tick),
        ]
        checkpoints = None
        if self.run_folder is not None:
            checkpoints = Checkpoints(self.run_folder.path / "checkpoints", log=self.listener.log)
        trainer = Trainer(
            self.method,
            self.train.images,
            self.settings,
            callbacks=callbacks,
            checkpoints=checkpoints,
            interrupts=self.interrupts,
            log=self.listener.log,
        )
        trained: dict[str, Any] = {"seconds": round(trainer.train(), 2), "steps": trainer.steps}
        self.rough = [
            f"The result is rough: time was up after {had:,} of the {planned:,} steps of stage {stage!r}: raise"
            " `max_seconds`, or leave it out."
            for stage, (had, planned) in trainer.rough.items()
        ]
        return trained | ({"stopped_early": True} if trainer.stopped_early else {})

    def _tick(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        note = f"loss {losses['total']:.3f}" if losses else "looking at all images"
        self.listener.progress(stage, step, steps, note=note)

    def _ticks(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.listener.progress(what, done, total)

    def _metrics(
        self, assignments: list[np.ndarray], trained: Mapping[str, Any], shares: dict[str, float]
    ) -> dict[str, Any]:
        metrics: dict[str, Any] = {
            "n_images": len(self.train),
            "n_clusters": self.problem.n_clusters,
            "method": self.config.method,
            **trained,
        }
        if "prior" in self.config.options:
            metrics["prior"] = shares
        if self.clusters_chosen is not None:
            metrics |= {f"n_clusters_{end}": self.clusters_chosen[end] for end in ("low", "high")}
        n_clusters, names = self.problem.n_clusters, self._class_names
        matched = [] if names else matched_classes(self.datasets[0], assignments[0], n_clusters)
        for split, dataset, soft in zip(("train", "test"), self.datasets, assignments, strict=False):
            by_match = matched if split == "test" else ()
            metrics |= score_split(split, dataset, soft, n_clusters, names=names, matched=by_match)
        metrics |= self.method.figures()
        if self.before is not None:
            metrics |= scores_before(self.before.metrics, metrics)
        alarms = [*self.rough[:1], *self.diagnostics.final(assignments[0])]
        return metrics | ({"alarms": alarms} if alarms else {}) | {"peak_memory_mb": peak_memory_mb(self.device)}

    # ------------------------------------------------------------------------------------------------ the run folder

    def _write_manifest(self, run: RunFolder) -> None:
        path = run.path / "manifest.json"
        known = self.problem.evidence
        evidence = {**evidence_in_words(self.method), "fingerprint": known.fingerprint()}
        manifest = describe(self.config, *self.datasets, fingerprints=self.fingerprints)
        manifest |= {"evidence": evidence, "paths": absolute_paths(self.config)}
        if self.choice is not None:
            manifest["method_choice"] = self.choice.as_table()
        if self.before is not None:
            manifest["frozen"] = about_before(self.before.config)
        if self.extractor is not None:
            manifest["extractor"] = extractor_table(self.extractor)
            if self.config.init_from is None:  # otherwise that run says it
                manifest["extractor"]["weights"] = weights_in_words(self.extractor.name, own=self.config.weights)
        if self.clusters_chosen is not None:
            manifest["clusters_choice"] = dict(self.clusters_chosen)
        if path.exists():
            manifest["started"] = run.manifest.get("started", manifest["started"])
        write_json(path, manifest)

    def _write(
        self,
        run: RunFolder,
        model: Model,
        assignments: list[np.ndarray],
        embeddings: list[np.ndarray],
        explained: Explained,
        metrics: dict[str, Any],
        more_tables: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        if model.bag_calibration:  # all else of it is written
            model.save(run.path / "model")
        known: dict[Callable[[Tensor], Tensor], np.ndarray] = {}
        if model.method is self.method:
            known[self.method.encode] = embeddings[0]
            if model.temperature == 1:
                known[self.method.assign] = assignments[0]
        embed = make_embed(self.method, self.train.images, device=self.device, known=known)
        for name, table in {**self.method.tables(embed), **more_tables}.items():
            run.write_table(name, {**table, **self.relabelling.columns()} if name == "relabellings" else table)
        write_pseudo_labels(run, self.method, self.datasets, self.inputs, device=self.device)
        write_explained(run, explained, self.problem.evidence, assignments[0].argmax(1), self.train.ids)
        write_clusters(run)
        self._write_issues(run)
        write_json(run.path / "metrics.json", metrics)
        self.listener.progress("report", 0, 1)
        write_thumbnails(run, self.datasets)
        write_filters(run, self.method)
        write_page(run.path)
        self.listener.progress("report", 1, 1)
        before = {} if self.before is None else self.before.metrics
        metrics["seconds_total"] = round(time.monotonic() - self.began + before.get("seconds_total", 0), 2)
        write_json(run.path / "metrics.json", metrics)
        write_json(run.path / "manifest.json", run.manifest | {"finished": now()})  # last: until then it is unfinished

    def _write_issues(self, run: RunFolder) -> None:
        n_images = 0 if self.train.holds_vectors else sum(map(len, self.datasets))
        if self.config.issues and n_images <= MOST_INSPECTED:
            write_issues(run, self.datasets, progress=self.listener.progress)
        elif self.config.issues:
            self.listener.log(
                f"Copies and outliers are looked for among at most {MOST_INSPECTED:,} images, and these are"
                f" {n_images:,}: `smidgen check` looks for them in any number."
            )


def _clusters_chosen_for(out: Path | str | None) -> dict[str, Any] | None:
    """Return how the number of clusters of a run that is there was found by "auto", None where it was not."""
    if out is None or not (Path(out) / "manifest.json").exists():
        return None
    return RunFolder(Path(out)).manifest.get("clusters_choice")


def _clusters_chosen_by(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how a fit that went before found the number of clusters, None where it did not."""
    if "n_clusters_low" not in metrics:
        return None
    return {"best": metrics["n_clusters"], "low": metrics["n_clusters_low"], "high": metrics["n_clusters_high"]}


def _finished(run: RunFolder, config: Config) -> Outcome:
    return Outcome(Model.load(run.path, device=config.device), run.metrics, config)
