"""Self-training: an encoder is fine-tuned from the assignments that another run found with it, and from evidence.

Idea. A run on a frozen encoder knows most classes, but only as far as the encoder tells them apart. Its assignments are
targets good enough to train the last stages of the encoder too. (Without a run to start from they are those of k-means
and labels on the encoder's embeddings.) An exponential moving average of the network (the teacher) labels weak views,
which together with the run's own assignments are targets for strong views where they are sure. How sure is measured for
each class by itself, and classes that the teacher prefers are held back, or the easy ones would take over. Images of
bags with counts or proportions have another target: what they are likely to be, given the bag and what the teacher last
predicted of its images (a step of EM). All other evidence adds its log-likelihood. The result is kept only if it is
better by what this fine-tuning was not trained on.

Source. Teacher and strong views after FixMatch (Sohn et al., NeurIPS 2020) and Mean Teacher (Tarvainen & Valpola, NIPS
2017), thresholds after FreeMatch (Wang et al., ICLR 2023), the debiased teacher after Wang et al., "Debiased
Learning from Naturally Imbalanced Pseudo-Labels" (CVPR 2022); docs/methods.md §10. Written from the equations.

Equation → function
    q = (1 − β) softmax(z_teacher − τ log p̄) + β p_first                    SelfTraining.targets
    q = P(class | bags, (1 − β) p_teacher + β p_first) of images in bags    SelfTraining.judge_bags
    t_k = (mean of q_k) / max · mean of max q, each over many steps         maths.thresholds
    mean [max q > t_argmax q or label known] · CE(q, strong view)           self_training_loss
    −log P(evidence | p), each averaged over its own items                  terms.EvidenceTerms
    kept if held-out evidence is likelier, or neighbours agree more         SelfTraining.finish, tuning_judge.Judge
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import weak_and_strong
from smidgen.errors import InputError
from smidgen.evidence.bag_labels import kinds_given_bags, labels_given_bags, sets_of_counts
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.terms import LEAST_BETWEEN, EvidenceTerms
from smidgen.hardware import to_device
from smidgen.maths.kmeans import kmeans
from smidgen.maths.matching import in_order_of_classes
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.maths.thresholds import thresholds
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.feature_layer import CLUSTERS_STRENGTH, Layer
from smidgen.methods.tuning_judge import Judge
from smidgen.nets.average import Average
from smidgen.nets.composed import ChainedEncoder, EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import HeadedNet
from smidgen.nets.projection import NORM
from smidgen.nets.timm_encoder import unmirrored
from smidgen.options import Count, CountOrZero, Options, Several, Share, Weight, option

PASSES, LEAST_STEPS = 5, 200
E_STEPS = 10
"""How often it is estimated what the images of bags are likely to be."""

MEMORY = 0.99
"""Of the moving averages of what the teacher predicts and how sure it is."""


@dataclass(frozen=True, eq=False)
class SelfTrainingConfig(Options):
    """Settings of `self-training`."""

    encoder: EncoderOption = option("conv", "the trained encoder: that of the run to start from")
    steps: Count | None = option(None, "optimiser steps; none is five passes over the images, 200 at least")
    batch_size: Several = option(64, "images per step, besides those of evidence")
    learning_rate: Weight = option(1e-4, "of AdamW for the encoder, at its peak")
    head_rate: Weight = option(1e-3, "of AdamW for the linear layer on it, at its peak")
    weight_decay: Weight = option(1e-2, "of AdamW")
    frozen_stages: CountOrZero | None = option(
        None, "number of first stages of a pretrained encoder that are frozen; none is all but the last two"
    )
    trust: Share = option(0.5, "β, weight of the assignments of the run to start from in the targets")
    debias: Weight = option(0.5, "τ, how much the teacher's mean prediction is held against it")
    decay: Share = option(0.99, "of the EMA teacher")
    evidence: Weight = option(
        1.0,
        "loss weight of each kind of evidence, but for counts and proportions, which are targets; 0: these are none",
    )
    wrong: Share = option(0.1, "assumed fraction of wrong evidence; proportions are taken to be right")
    bag_images: Count = option(
        96, "most images in the bags of one step, but at least one bag, for what is known of bags and is no target"
    )
    statements: Count = option(16, "labels, and pairs, per step")
    keep: Literal["better", "always"] = option(
        "better", "whether the run to start from stays as it is unless held-out evidence or neighbours speak for more"
    )


def self_training_loss(logits: Tensor, targets: Tensor, least: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy with targets that are sure, averaged over all images, and which are, (batch,) 0 or 1.

    logits: (batch, clusters), on strong views. targets: (batch, clusters), rows sum to one, no gradient.
    least: (clusters,), the confidence above which a target is sure, by its class. known: (batch,) bool, images whose
    label is known, which are sure whatever the teacher says against it.
    """
    confidence, labels = targets.max(1)
    sure = ((confidence > least[labels]) | known).float()
    return (F.cross_entropy(logits, targets, reduction="none") * sure).mean(), sure


class SelfTraining(Method):
    """See the module's docstring; clusters are those of the run to start from, named by the evidence."""

    name = "self-training"
    training_only = (
        "net.", "origin.", "first", "prior", "seen", "confidence", "known", "terms.", "judge.",
        "predicted", "posteriors", "in_bags", "sets",
    )  # fmt: skip
    evidence_use = EvidenceUse(kinds=LEARNED)

    first: Tensor
    prior: Tensor
    seen: Tensor
    confidence: Tensor
    known: Tensor
    judged: Tensor
    sets: Tensor
    predicted: Tensor
    posteriors: Tensor
    in_bags: Tensor

    def __init__(self, config: SelfTrainingConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        self._has_layer = self._has_weights = False  # of a run to start from
        self.weak, self.strong = weak_and_strong(problem.shape)
        n_clusters = problem.n_clusters
        self.judge = Judge(problem.evidence, n_clusters, epsilon=config.wrong)
        used = self.judge.learned
        self.terms = EvidenceTerms(
            used, n_clusters, epsilon=config.wrong, images=config.bag_images, statements=config.statements
        )
        self.evidence_use = dataclasses.replace(self.evidence_use, chance_losses=self.terms.chance_losses())
        encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        self.net = HeadedNet(encoder, n_clusters)
        self.teacher = Average(self.net, decay=config.decay)
        self.origin = Average(self.net, decay=0)
        encoder.freeze(config.frozen_stages)
        self.register_buffer("first", torch.zeros(0, n_clusters))
        self.register_buffer("prior", torch.full((n_clusters,), 1 / n_clusters))
        self.register_buffer("seen", torch.full((n_clusters,), 1 / n_clusters))
        self.register_buffer("confidence", torch.ones(()))
        self.register_buffer("known", used.labels, persistent=False)
        self.register_buffer("sets", sets_of_counts(used, n_clusters), persistent=False)
        self._has_posteriors = config.evidence > 0 and bool({*used.sizes()} & {*kinds_given_bags(self.sets)})
        self.register_buffer("predicted", torch.zeros(0, n_clusters))
        self.register_buffer("posteriors", torch.zeros(0, n_clusters))
        self.register_buffer("in_bags", torch.zeros(problem.n_images, dtype=torch.bool))
        self.register_buffer("judged", torch.zeros(3))  # before, after, and whether the later one is kept

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"."""
        passes = -(-PASSES * self.problem.n_images // self.config.batch_size)
        steps = self.config.steps or max(LEAST_STEPS, passes)
        begins = range(0, steps, max(LEAST_BETWEEN, steps // E_STEPS)) if self._has_posteriors else (0,)
        return [Stage("train", steps, begins=(*begins,), loss_should_decrease=False)]

    def train(self, mode: bool = True) -> Self:
        """Let batch norm keep the statistics of the run to start from: those of a few strong views are others."""
        super().train(mode)
        for module in self.net.modules() if self._has_weights else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW, with a rate of its own for the encoder."""
        config = self.config
        encoder = [p for p in self.net.encoder.parameters() if p.requires_grad]
        groups = [{"params": encoder, "lr": config.learning_rate}] if encoder else []
        groups.append({"params": list(self.net.heads.parameters()), "lr": config.head_rate})
        return [torch.optim.AdamW(groups, weight_decay=config.weight_decay)]

    def start_from(self, start: StartingPoint) -> None:
        """Take a run's encoder, and the layer of its assignments if it has one; InputError where they do not fit."""
        super().start_from(start)
        if start.head is not None:
            if len(start.head[0]) != self.problem.n_clusters:
                raise InputError(
                    f"The run to start from has {len(start.head[0])} clusters and {self.problem.n_clusters} are wanted:"
                    " ask for as many."
                )
            self._take(start.head)
            self._has_layer = True
        self._has_weights = True
        for net in (self.net, self.origin.net):
            net.load_state_dict(self.teacher.net.state_dict())

    @torch.no_grad()
    def _take(self, layer: Layer) -> None:
        """Take the weight (clusters, features) and bias (clusters,) of a softmax layer on the encoder's embeddings."""
        for net in (self.net, self.teacher.net, self.origin.net):
            net.heads.linear.weight.copy_(layer[0])
            net.heads.linear.bias.copy_(layer[1])

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Note what the run to start from says of each image, and how it is to be understood by what bags hold."""
        if step == 0:
            self._note_start(embed, generator)
        if self._has_posteriors:
            self.judge_bags()

    def _note_start(self, embed: Embed, generator: torch.Generator) -> None:
        """Note what the run to start from says of each image, its clusters in the order of the classes."""
        embedded, features = self._embed_all(embed)
        if not self._has_layer:
            self._take(self._first_layer(embedded.cpu(), generator))
        p = self._assigned(embedded).cpu()
        if self._has_layer and self.terms.names_classes:
            order = torch.tensor(in_order_of_classes(self.terms.class_evidence(p).numpy()))
            layer = self.teacher.net.heads.linear
            self._take((layer.weight[order.to(layer.weight.device)], layer.bias[order.to(layer.bias.device)]))
            p = p[:, order]
        self.first = p.to(self.prior)
        sample = to_device(self.judge.sample, embedded.device)
        self.judged[0] = self.judge.quality(features, embedded[sample], self.first[sample])
        self.prior, self.seen, self.confidence = self.first.mean(0), self.first.mean(0), self.first.amax(1).mean()
        self.predicted = self.first.clone() if self._has_posteriors else self.predicted

    def _embed_all(self, embed: Embed) -> tuple[Tensor, Tensor]:
        """Return embeddings (n, numbers) of all images, and the features of those to judge by."""
        embedded, judged, sample = [], [], self.judge.sample
        for rows, features in embed.blocks(self._features):
            inside = sample[(sample >= rows.start) & (sample < rows.stop)] - rows.start
            embedded.append(self._embedded(features))
            judged.append(features[to_device(inside, features.device)])
        return torch.cat(embedded), torch.cat(judged)

    @torch.no_grad()
    def judge_bags(self) -> None:
        """Find which counts are wrong, and what images are likely to be, given the bags that they are in."""
        believed = torch.lerp(self.predicted, self.first, self.config.trust)
        self.terms.judge_counts(believed)
        self.posteriors, self.in_bags = labels_given_bags(
            self.terms.evidence, believed, sets=self.sets, right=self.terms.right
        )

    def _first_layer(self, embedded: Tensor, generator: torch.Generator) -> Layer:
        """Return the layer that k-means on embeddings (n, features), and labels where there are any, come to."""
        mean, n_clusters = embedded.mean(0), self.problem.n_clusters
        scale = NORM / (embedded - mean).square().sum(1).mean().sqrt().clamp_min(1e-12)
        x, seed = (embedded - mean) * scale, torch.randint(2**31 - 1, (), generator=generator, device=generator.device)
        clusters = kmeans(x, n_clusters, generator=torch.Generator().manual_seed(int(seed))).labels
        if self.terms.names_classes:
            votes = self.terms.class_evidence(F.one_hot(clusters, n_clusters).float()).numpy()
            clusters = torch.tensor(in_order_of_classes(votes)).argsort()[clusters]
        labels = self.terms.evidence.labels
        is_known = labels >= 0
        targets = F.one_hot(torch.where(is_known, labels, clusters), n_clusters).float()
        others = n_clusters / len(x) if bool(is_known.any()) else 1.0  # as much as one label a class
        weights = torch.where(is_known, 1.0, others)
        weight, bias = softmax_regression(x, targets, weights=weights, strength=CLUSTERS_STRENGTH)
        return weight * scale, bias - (weight @ mean) * scale

    # ------------------------------------------------------------------------------------------------------ learning

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Ask for images as weak and strong views, but for those whose labels are held out; and for evidence."""
        rows = self.judge.rows
        rows = rows[torch.randint(len(rows), (self.config.batch_size,), generator=generator)]
        own = {"weak": Request(rows, self.weak), "strong": Request(rows, self.strong)}
        return own | self.terms.request(generator, view=self.weak, kinds=self._likelihoods)

    @property
    def _likelihoods(self) -> tuple[str, ...]:
        """The losses of evidence but for that which is learned in steps of EM."""
        return self.terms.names(late=True, without=kinds_given_bags(self.sets))

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the loss on targets, and that of each kind of evidence."""
        targets = self.targets(parts["weak"])
        shown = {name: part for name, part in parts.items() if name != "weak"}
        logits = self.net(torch.cat([part.images for part in shown.values()]))[:, 0].float()
        by_part = dict(zip(shown, logits.split([len(part.images) for part in shown.values()]), strict=True))
        least, known = thresholds(self.confidence, self.seen), self.known[parts["weak"].indices] >= 0
        own, sure = self_training_loss(by_part.pop("strong"), targets, least, known)
        p = {name: values.softmax(1) for name, values in by_part.items()}
        stated = self.terms.losses(parts, p, kinds=self._likelihoods)
        total = own + self.config.evidence * sum(stated.values(), start=own.new_zeros(()))
        return {"total": total, "self_label": own, "sure": sure.mean(), **stated}

    @torch.no_grad()
    def targets(self, weak: Part) -> Tensor:
        """Return q (batch, clusters) of images shown as weak views, and note what the teacher is like."""
        with unmirrored(self.teacher.net):  # weak views are mirrored at random
            z = self.teacher.net(weak.images)[:, 0].float()
        p = z.softmax(1)
        self.prior.lerp_(p.mean(0), 1 - MEMORY)
        debiased = (z - self.config.debias * self.prior.clamp_min(1e-6).log()).softmax(1)
        q = torch.lerp(debiased, self.first[weak.indices], self.config.trust)
        if self._has_posteriors:
            places, rows = _first_of_each(weak)
            self.predicted[rows] = p[places]
            q = torch.where(self.in_bags[weak.indices, None], self.posteriors[weak.indices], q)
        q = self._with_labels(q, weak.indices)
        self.seen.lerp_(q.mean(0), 1 - MEMORY)
        self.confidence.lerp_(q.amax(1).mean(), 1 - MEMORY)
        return q

    def _with_labels(self, q: Tensor, rows: Tensor) -> Tensor:
        """Return targets (batch, clusters) of some images with their labels, where known, which may be wrong."""
        labels = self.known[rows]
        given = F.one_hot(labels.clamp_min(0), q.shape[1]).to(q)
        return torch.where(labels[:, None] >= 0, torch.lerp(given, q, self.config.wrong), q)

    def after_step(self, stage: str, step: int) -> None:
        """Let the teacher follow."""
        self.teacher.update(self.net, decay=min(self.config.decay, (1 + step) / (10 + step)))

    # ------------------------------------------------------------------------------------------------------- results

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Keep what was learned, or go back to the run that it started from."""
        features = embed.some(self.judge.sample, self._features)
        embedded = self._embedded(features)
        before, after = float(self.judged[0]), self.judge.quality(features, embedded, self._assigned(embedded))
        is_kept = self.config.keep == "always" or after >= before
        self.judged = torch.tensor([before, after, float(is_kept)]).to(self.judged)
        if not is_kept:
            self.teacher.update(self.origin.net, decay=0)

    @property
    def starting_point(self) -> StartingPoint:
        """The teacher's encoder and linear layer."""
        layer = self.teacher.net.heads.linear
        return StartingPoint(self.config.encoder, self.teacher.net.encoder, (layer.weight, layer.bias))

    def encode(self, images: Tensor) -> Tensor:
        """Return the teacher's embeddings (batch, features)."""
        return self.teacher.net.encoder(images)

    def _features(self, images: Tensor) -> Tensor:
        """Return the teacher's features (batch, numbers) without layers that another run has learned on them."""
        encoder = self.teacher.net.encoder
        return encoder.first(images) if isinstance(encoder, ChainedEncoder) else encoder(images)

    def _embedded(self, features: Tensor) -> Tensor:
        """Return the teacher's embeddings (n, features) of images with such features."""
        encoder = self.teacher.net.encoder
        return encoder.then(features) if isinstance(encoder, ChainedEncoder) else features

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's assignments and embeddings."""
        embeddings = self.encode(images)
        return self._assigned(embeddings), embeddings

    def _assigned(self, embeddings: Tensor) -> Tensor:
        return self.teacher.net.heads(embeddings)[:, 0].float().softmax(1)

    def figures(self) -> dict[str, float | str]:
        """Return what was compared, before and after, and whether what was learned is kept."""
        before, after, kept = self.judged.tolist()
        verdict = "kept" if kept else "undone"
        return {
            "fine_tuning": f"{verdict}: {self.judge.measure} {before:.3f} before, {after:.3f} after",
            "fine_tuning_kept": bool(kept),
        }

    def tables(self, embed: Embed) -> dict[str, dict[str, np.ndarray]]:
        """Return what was compared, before and after, and whether what was learned is kept."""
        before, after, kept = self.judged.tolist()
        what = self.judge.measure
        columns: Mapping[str, Iterable[object]] = {
            "measure": [what], "before": [before], "after": [after], "kept": [bool(kept)]
        }  # fmt: skip
        return {"self_training": {name: np.array(values) for name, values in columns.items()}}


def _first_of_each(part: Part) -> tuple[Tensor, Tensor]:
    """Return where in a part each image is for the first time, and which images these are; the device does not wait."""
    on_host = part.indices.cpu() if part.request is None else part.request.indices
    rows, places = np.unique(on_host.numpy(), return_index=True)
    device = part.indices.device
    return to_device(torch.from_numpy(places), device), to_device(torch.from_numpy(rows), device)
