"""The evidence of a fit: read, resolved against the training images, and reported to the user."""

from __future__ import annotations

import numpy as np
import torch

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility
from smidgen.evidence.kinds import kind_of
from smidgen.evidence.resolved import Resolved
from smidgen.listener import Listener
from smidgen.methods import method_class
from smidgen.methods.base import Method

_FINDINGS_SAID = 4


def open_evidence(config: Config) -> Evidence | None:
    """Return what the files in `config.evidence` say, None if there are none; InputError naming file and line."""
    if config.min_confidence is None and not config.evidence:
        return None
    return Evidence.from_files(min_confidence=config.min_confidence, **config.evidence)


def used_evidence(method: Method) -> dict[str, int]:
    """Return how much there is of each kind of evidence that the method learns from, with the bags if any is of bags.

    Images, bags or pairs, as in `Resolved.sizes`.
    """
    sizes = method.problem.evidence.sizes()
    used = {kind for kind in method.evidence_use.kinds if kind in sizes}
    if any(kind_of(kind).about == "bags" for kind in used):
        used.add("bags")
    return {kind: n for kind, n in sizes.items() if kind in used}


def evidence_in_words(method: Method) -> dict[str, int]:
    """Return `used_evidence` as a manifest has it, and what bags are drawn from under a name that says so."""
    drawn, sizes = method.evidence_use.bags_drawn_from, method.problem.evidence.sizes()
    learned = {kind: n for kind, n in used_evidence(method).items() if kind not in drawn}
    return learned | {f"{kind} to draw bags from": sizes[kind] for kind in drawn}


def report_evidence(method: Method, listener: Listener) -> None:
    """Report the evidence, what of it the method does not use, and what it leaves undetermined or contradicts."""
    evidence, n_clusters = method.problem.evidence, method.problem.n_clusters
    sizes, use = evidence.sizes(), method.evidence_use
    if not sizes:
        return
    listener.log(f"Evidence: {', '.join(f'{n:,} {kind_of(kind).noun}' for kind, n in sizes.items())}.")
    for kind in use.bags_drawn_from:
        drawn = f"Bags are sampled from the {sizes[kind]:,} {kind}"
        listener.log(f"{drawn} at each step: {method.name!r} learns from the content of bags, not from single images.")
    for note in use.notes:
        listener.log(note)
    spare = [k for k in sizes if k != "bags" and k not in (*use.kinds, *use.bags_drawn_from)]
    if not use.kinds:
        listener.log(f"{method.name!r} makes no use of evidence: this run goes as if it had none (`fusion` uses it).")
        return
    if spare:
        listener.log(
            f"{method.name!r} makes no use of {', '.join(kind_of(kind).noun for kind in spare)} (`fusion` does)."
        )
    findings = [finding for finding in feasibility(evidence, n_clusters) if finding.level != "note"]
    for finding in findings[:_FINDINGS_SAID]:
        listener.log(str(finding))
    if len(findings) > _FINDINGS_SAID:
        listener.log(f"… and {len(findings) - _FINDINGS_SAID} more: `smidgen check` lists them all.")


def resolve_evidence(config: Config, train: Dataset, evidence: Evidence | Resolved | None) -> Resolved:
    """Return the evidence about the training images, as index arrays.

    Without evidence all known classes are the labels of methods that need them: to learn from, or to draw bags from.
    As long as the number of clusters is open, any number of classes and any count passes.
    """
    n_clusters = config.n_clusters if isinstance(config.n_clusters, int) else None
    if n_clusters is not None and len(train) < n_clusters:
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
    if method_class(config.method).evidence_use.needs_labels and train.classes is not None and not evidence.sizes():
        evidence = evidence.replaced(
            labels=torch.from_numpy(train.classes.astype(np.int64)), class_names=tuple(train.class_names)
        )
    n_named = max(len(evidence.class_names), int(evidence.labels.max()) + 1)
    if n_clusters is not None and n_named > n_clusters:
        raise InputError(
            f"The evidence names {n_named} classes, and there are {n_clusters} clusters: ask for more clusters."
        )
    return evidence
