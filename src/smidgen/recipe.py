"""The only place where everything is wired together: a configuration and data in, a finished run folder out."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from smidgen.config import Config, as_table
from smidgen.data.datasets import DATASETS, Dataset, open_dataset, open_splits
from smidgen.data.evidence import Evidence, Resolved
from smidgen.data.evidence_files import FILES
from smidgen.data.feasibility import feasibility
from smidgen.errors import InputError, unknown
from smidgen.evaluation.watch import Watch, collapse_alarms
from smidgen.methods import METHODS, make_config, make_method
from smidgen.methods.base import Method, Problem
from smidgen.methods.terms import NAMING
from smidgen.model import Model, Preprocessing
from smidgen.record import (
    describe,
    now,
    peak_memory_mb,
    score_split,
    write_assignments,
    write_issues,
    write_skipped,
    write_thumbnails,
)
from smidgen.reports.page import write_page
from smidgen.runs import RunFolder, write_json
from smidgen.training.callbacks import Callback, MetricsLog, Ticker
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.interrupts import Interrupts
from smidgen.training.loop import Settings, Trainer, make_embed

DEFAULT_CLUSTERS = 10
_FINDINGS_SAID = 4


class Listener:
    """Hears what a run says and how far it is; this one hears nothing. The command line's prints."""

    def say(self, text: str) -> None:
        """Hear a sentence."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Hear that `done` of `total` are done."""


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
    listener: Listener | None = None,
) -> Outcome:
    """Fit a method to images and return the trained model with its scores; with `out`, write a run folder.

    data, test: anything `open_dataset` takes, in place of `config.data` and `config.test`.
    evidence: about the training images, in place of the files in `config.evidence`.
    resume: go on in `out` from its newest checkpoint; overwrite: empty it first.
    Raises InputError for what is wrong with the arguments or the data, RunError for the folder, TrainingError if
    training cannot go on, Interrupted on SIGTERM or Ctrl-C (resume then goes on exactly).
    """
    listener, began = listener or Listener(), time.monotonic()
    if out is not None:
        RunFolder.check(out, resume=resume, overwrite=overwrite)
    evidence = open_evidence(config) if evidence is None else evidence
    config = resolve(config, listener)
    with Interrupts().listening() as interrupts, torch_threads(config.threads):
        train, held_out = open_data(config, data, test, listener)
        problem = make_problem(config, train, evidence)
        fitting = _Fit(config, train, held_out, problem, listener, interrupts, began)  # may refuse: no folder before
        run = None if out is None else RunFolder.start(out, as_table(config), resume=resume, overwrite=overwrite)
        try:
            if run is not None and run.finished:
                listener.say(f"The run in {str(out)!r} has finished already: nothing is left to do.")
                return _finished(run, config)
            return fitting.run(run)
        finally:
            if run is not None:
                run.close()


def resolve(config: Config, listener: Listener | None = None) -> Config:
    """Return the configuration with every open choice made, so that it says all that a run depends on."""
    if config.method not in METHODS:
        raise unknown("method", config.method, METHODS)
    n_clusters = config.n_clusters
    if n_clusters is None:
        known = DATASETS.get(config.data)
        n_clusters = known.n_classes if known else DEFAULT_CLUSTERS
        if known is None and listener is not None:
            listener.say(f"No number of clusters was given: looking for {n_clusters} (`--clusters` changes it).")
    for name, least in (("n_clusters", 1), ("seed", 0), ("threads", 1), ("checkpoint_every", 1)):
        value = n_clusters if name == "n_clusters" else getattr(config, name)
        if value is not None and value < least:
            raise InputError(f"`{name}` must be {least} or above, got {value}.")
    options = dict(config.options)
    if config.init_from is not None:
        options.setdefault("encoder", Model.load(config.init_from).method.config.encoder)
    method_config = make_config(config.method, options)
    device = choose_device(config.device)
    return dataclasses.replace(
        config,
        n_clusters=n_clusters,
        options=dataclasses.asdict(method_config),
        threads=config.threads or torch.get_num_threads(),
        device=device,
        precision=_precision(config.precision, device),
    )


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


def tell_of_evidence(method: Method, listener: Listener) -> None:
    """Say what is known, what of it the method makes no use of, and what it leaves undetermined or contradicts."""
    evidence, n_clusters = method.problem.evidence, method.problem.n_clusters
    sizes = evidence.sizes()
    if not sizes:
        return
    listener.say(f"Evidence: {', '.join(f'{n:,} {kind}' for kind, n in sizes.items())}.")
    spare = [kind for kind in sizes if kind != "bags" and kind not in method.evidence_used]
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


def make_problem(config: Config, train: Dataset, evidence: Evidence | Resolved | None) -> Problem:
    """Return what a method may know of the training set; `supervised` without evidence is given all known classes."""
    n_clusters = config.n_clusters or DEFAULT_CLUSTERS
    if len(train) < n_clusters:
        raise InputError(f"{n_clusters} clusters were wanted of {len(train)} images: ask for fewer clusters.")
    if isinstance(evidence, Evidence):
        skipped = [bad.id for bad in train.skipped]
        evidence = evidence.resolve(train.ids, n_clusters=n_clusters, skipped=skipped)
    evidence = evidence or Resolved.nothing(len(train))
    if evidence.n_images != len(train):
        raise InputError(
            f"The evidence is about {evidence.n_images} images, and there are {len(train)} training images: resolve it"
            " against these images."
        )
    if config.method == "supervised" and train.classes is not None and not evidence.sizes():
        evidence = dataclasses.replace(
            evidence, labels=torch.from_numpy(train.classes.astype(np.int64)), class_names=tuple(train.class_names)
        )
    n_named = max(len(evidence.class_names), int(evidence.labels.max()) + 1)
    if n_named > n_clusters:
        raise InputError(
            f"The evidence names {n_named} classes, and there are {n_clusters} clusters: ask for more clusters."
        )
    mean, std = _channel_statistics(train.images)
    return Problem(
        n_images=len(train),
        image_shape=tuple(train.images.shape[1:]),
        n_clusters=n_clusters,
        mean=mean,
        std=std,
        evidence=evidence,
    )


class _Fit:
    """One fit, from an untrained method to a finished run folder."""

    def __init__(
        self,
        config: Config,
        train: Dataset,
        test: Dataset | None,
        problem: Problem,
        listener: Listener,
        interrupts: Interrupts,
        began: float,
    ) -> None:
        self.config, self.train, self.test, self.problem = config, train, test, problem
        self.listener, self.interrupts, self.began = listener, interrupts, began
        self.run_folder: RunFolder | None = None
        self.device = torch.device(config.device)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.method = make_method(config.method, make_config(config.method, config.options), problem)
        self.method.stages()  # may refuse too
        if config.init_from is not None:
            self.method.start_from(Model.load(config.init_from).method)

    def run(self, run_folder: RunFolder | None) -> Outcome:
        self.run_folder = run_folder
        if self.run_folder is not None:
            self._write_manifest(self.run_folder)
            write_skipped(self.run_folder, [self.train, self.test])
        tell_of_evidence(self.method, self.listener)
        seconds = self._train()
        preprocessing = Preprocessing(self.train.images.shape[-1], self.train.images.shape[1], self.config.resize)
        names = self._class_names
        others = map(str, range(len(names), self.problem.n_clusters))
        names = names + tuple(f"cluster {k}" if k in names else k for k in others)  # a class may be called "3"
        model = Model(self.method.eval(), self.config.method, preprocessing, names, self.device)
        datasets = [d for d in (self.train, self.test) if d is not None]
        assignments = [model.assign(d.images, progress=self._ticks("assign")) for d in datasets]
        metrics = self._metrics(assignments, seconds)
        if self.run_folder is not None:
            self._write(self.run_folder, model, datasets, assignments, metrics)
        return Outcome(model, metrics, self.config, self.train, assignments[0])

    @property
    def _class_names(self) -> tuple[str, ...]:
        """The classes that the first clusters are named after; none where the method learns from no such evidence."""
        named = used_evidence(self.method).keys() & set(NAMING)
        return self.problem.evidence.class_names if named else ()

    def _train(self) -> float:
        callbacks: list[Callback] = [
            Watch(self.train.images, self.train.classes, seed=self.config.seed, device=self.device),
            MetricsLog(None if self.run_folder is None else self.run_folder.path / "metrics.jsonl"),
            Ticker(self._tick),
        ]
        settings = Settings(
            seed=self.config.seed,
            device=self.device,
            bfloat16=self.config.precision == "bfloat16",
            checkpoint_every=self.config.checkpoint_every,
        )
        checkpoints = None if self.run_folder is None else Checkpoints(self.run_folder.path / "checkpoints")
        trainer = Trainer(
            self.method,
            self.train.images,
            settings,
            callbacks=callbacks,
            checkpoints=checkpoints,
            interrupts=self.interrupts,
            say=self.listener.say,
        )
        return trainer.train()

    def _tick(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        note = f"loss {losses['total']:.3f}" if losses else "looking at all images"
        self.listener.progress(stage, step, steps, note=note)

    def _ticks(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self.listener.progress(what, done, total)

    def _metrics(self, assignments: list[np.ndarray], seconds: float) -> dict[str, Any]:
        metrics: dict[str, Any] = {
            "n_images": len(self.train),
            "n_clusters": self.problem.n_clusters,
            "method": self.config.method,
            "seconds": round(seconds, 2),
        }
        for dataset, soft in zip((self.train, self.test), assignments, strict=False):
            if dataset is not None:
                split = "train" if dataset is self.train else "test"
                metrics |= score_split(split, dataset, soft, self.problem.n_clusters, names=self._class_names)
        alarms = collapse_alarms(assignments[0])
        return metrics | ({"alarms": alarms} if alarms else {}) | {"peak_memory_mb": peak_memory_mb(self.device)}

    # ------------------------------------------------------------------------------------------------ the run folder

    def _write_manifest(self, run: RunFolder) -> None:
        path = run.path / "manifest.json"
        known = self.problem.evidence
        evidence = {**used_evidence(self.method), "fingerprint": known.fingerprint()}
        manifest = describe(self.config, self.train, self.test) | {"evidence": evidence}
        if path.exists():
            before = run.manifest
            if before["data"]["fingerprint"] != manifest["data"]["fingerprint"]:
                raise InputError(
                    f"The images of {self.config.data!r} are not those that this run was started with:"
                    " use another --out."
                )
            if before.get("evidence") != manifest["evidence"]:
                raise InputError("The evidence is not that which this run was started with: use another --out.")
            manifest["started"] = before["started"]
        write_json(path, manifest)

    def _write(
        self,
        run: RunFolder,
        model: Model,
        datasets: list[Dataset],
        assignments: list[np.ndarray],
        metrics: dict[str, Any],
    ) -> None:
        model.save(run.path / "model")
        embeddings = [model.encode(d.images, progress=self._ticks("embed")) for d in datasets]
        run.write_array("embeddings.npy", np.concatenate(embeddings))
        write_assignments(run.path / "assignments.csv", datasets, assignments, model.cluster_names)
        embed = make_embed(self.method, self.train.images, device=self.device)
        for name, table in self.method.tables(embed).items():
            run.write_table(name, table)
        write_issues(run, datasets, progress=self.listener.progress)
        write_json(run.path / "metrics.json", metrics)
        self.listener.progress("report", 0, 1)
        write_thumbnails(run, datasets)
        write_page(run.path)
        self.listener.progress("report", 1, 1)
        metrics["seconds_total"] = round(time.monotonic() - self.began, 2)
        write_json(run.path / "metrics.json", metrics)
        write_json(run.path / "manifest.json", run.manifest | {"finished": now()})  # last: until then it is unfinished


def _finished(run: RunFolder, config: Config) -> Outcome:
    return Outcome(Model.load(run.path, device=config.device), run.metrics, config)


def open_data(config: Config, data: Any, test: Any, listener: Listener) -> tuple[Dataset, Dataset | None]:
    """Return the training images and, where there are any, the test images, read as the configuration says."""
    options: dict[str, Any] = {
        "size": config.size,
        "channels": config.channels,
        "resize": config.resize,
        "allow_bad": config.allow_bad,
        "progress": lambda done, total: listener.progress("read images", done, total),
    }
    train, held_out = open_splits(config.data if data is None else data, **options)
    test = config.test if test is None else test
    if test is not None:
        shape = train.images.shape[1:]
        if not train.holds_vectors:
            options |= {"channels": shape[0], "size": shape[-1]}
        held_out = open_dataset(test, split="test", **options)
        if held_out.images.shape[1:] != shape or held_out.images.dtype != train.images.dtype:
            raise InputError(f"The test data are of shape {held_out.images.shape[1:]}, the training data of {shape}.")
    what, size = "images", f"{'×'.join(map(str, train.images.shape[2:]))} pixels"
    if train.holds_vectors:
        what, size = "embeddings", f"{train.images.shape[1]:,} features"
    others = "" if held_out is None else f", {len(held_out):,} test {what}"
    bad = f"; {len(train.skipped)} could not be read (bad_images.csv)" if train.skipped else ""
    listener.say(f"{len(train):,} training {what} of {size}{others}{bad}.")
    return train, held_out


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel in [0, 1], exactly and without a float copy of the images.

    Of ready embeddings: per feature, as they are.
    """
    if images.dtype != np.uint8:
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


def choose_device(name: str) -> str:
    """Return the device to compute on, "auto" being an accelerator if there is one; InputError if it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}): try `--device auto`."
        ) from None
    return name


def _precision(wanted: str, device: str) -> Literal["float32", "bfloat16"]:
    """Return the precision of training: "auto" is bfloat16 where the device computes it fast."""
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    if device.startswith("cuda"):
        fast = torch.cuda.is_bf16_supported()
    else:
        able = torch.cpu.get_capabilities()
        fast = device == "cpu" and bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bfloat16" if fast else "float32"


@contextlib.contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """Let torch use `n` threads in the body, or as many as it does where that is None."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
