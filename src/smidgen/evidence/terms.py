"""The terms that evidence adds to an objective: which images to ask for, and the losses of what is known about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smidgen.data.batches import Part, Request
from smidgen.data.views import View
from smidgen.evidence.drawing import draw_bags
from smidgen.evidence.kind import Kind, Loss
from smidgen.evidence.kinds import KINDS, LEARNED, kind_of
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import to_device
from smidgen.maths.count_noise import count_noise
from smidgen.maths.counts import bag_numbers, unique_count_log_probabilities
from smidgen.maths.entropy import sharpened

LEAST_BETWEEN = 20
"""Steps between two estimates of which counts are wrong."""

SHARPNESS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Of assignments whose likelihood is compared, to choose from."""

LAW_SHARPNESS = (0.25, 0.5, 1.0)
"""Of assignments from which the law of counts is made, to choose from: they are surer than they are right."""


@dataclass(frozen=True)
class KnownBags:
    """Of which bags of a batch a table of evidence speaks.

    rows: (bags,) of the table, 0 where it does not speak of one. bags, images: the bags of which it does, and their
    images, None for all.
    """

    rows: Tensor
    bags: Tensor | None = None
    images: Tensor | None = None

    def of_bags(self, values: Tensor) -> Tensor:
        """Return the values (bags, …) of these bags."""
        return values if self.bags is None else values[self.bags]

    def of_images(self, values: Tensor) -> Tensor:
        """Return the values (images, …) of their images."""
        return values if self.images is None else values[self.images]


class EvidenceTerms(nn.Module):
    """The evidence of one training set as parts of a batch and as losses, each averaged over its own items.

    Its buffers are made again from the evidence and are not in the checkpoint, but for what is learned of counts.
    statements: how many of each kind about images or pairs a batch asks for; bags: how many bags, of at most `images`
    images together. epsilon: the probability that a statement is wrong.
    The targets of all losses (`Loss.targets`) are buffers by their names: counts_min, counts_max, proportions, …
    """

    def __init__(
        self,
        evidence: Resolved,
        n_clusters: int,
        *,
        bags: int = 20,
        images: int = 1024,
        statements: int = 64,
        epsilon: float = 0.1,
    ) -> None:
        super().__init__()
        self.evidence, self.n_clusters = evidence, n_clusters
        self._statements, self._bags, self._images, self._epsilon = statements, bags, images, epsilon
        self._rows_on_host: dict[str, Tensor] = {}
        self._bags_by_losses: dict[frozenset[str], Tensor] = {}
        there = [kind_of(name) for name in LEARNED if name in evidence.sizes()]
        self.kinds_of_images = [kind for kind in there if kind.about != "bags"]
        self.kinds_of_bags = [kind for kind in there if kind.about == "bags"]
        self._spoken_of = {kind.name: kind.known(evidence) for kind in self.kinds_of_images}
        self.known_bags = evidence.bags_known()
        self._losses: dict[str, dict[str, Loss]] = {}
        for kind in there:
            self._losses[kind.name] = kind.losses(evidence, n_clusters, epsilon=epsilon)
            for loss in self._losses[kind.name].values():
                for name, values in loss.targets.items():
                    self.register_buffer(name, values.clone(), persistent=name in loss.learned)
        for kind in self.kinds_of_bags:
            self._rows(kind)

    def _rows(self, kind: Kind) -> None:
        """Store the statement of each bag, -1 where the kind does not speak of it."""
        bags = kind.known(self.evidence)
        rows = torch.full((len(self.evidence.bag_names),), -1)
        rows[bags] = torch.arange(len(bags))
        self._rows_on_host[kind.name] = rows
        self.register_buffer(f"{kind.name}_row", rows, persistent=False)

    @property
    def names_classes(self) -> bool:
        """Whether any evidence names classes."""
        return any(kind.class_at is not None for kind in (*self.kinds_of_images, *self.kinds_of_bags))

    @property
    def names_classes_of_images(self) -> bool:
        """Whether any evidence names the classes of single images."""
        return any(kind.class_at is not None for kind in self.kinds_of_images)

    def names(self, *, named: bool = True, late: bool = False, without: Collection[str] = ()) -> tuple[str, ...]:
        """Return the names of the losses there are, but for those of some kinds of evidence.

        named: those too that name classes, and need clusters that are matched to the classes. late: those too that
        clusters must have formed for.
        """
        return tuple(
            name
            for kind in (*self.kinds_of_images, *self.kinds_of_bags)
            for name, loss in self._losses[kind.name].items()
            if (named or kind.class_at is None) and (late or not loss.late) and kind.name not in without
        )

    def target(self, name: str) -> Tensor:
        """Return what is given, one of the targets of losses: (statements, …) on the device."""
        return self.get_buffer(name)

    @property
    def right(self) -> Tensor | None:
        """The probability that each count is right, (counts,), see `judge_counts`; None without counts."""
        return self.target("count_right") if len(self.evidence.count_bags) else None

    def request(
        self, generator: torch.Generator, *, view: View | None, kinds: Collection[str] | None = None
    ) -> dict[str, Request]:
        """Return the parts of a batch: one by the name of each kind about images or pairs, and one "bags".

        kinds: names of losses, those about bags say which bags are drawn; None for all.
        """
        requests: dict[str, Request] = {}
        known_bags = self.known_bags if kinds is None else self._bags_of(frozenset(kinds))
        for name in KINDS:
            if name == "bags" and len(known_bags):
                bags = draw_bags(self.evidence, known_bags, generator, bags=self._bags, images=self._images)
                members, offsets = self.evidence.images_of(bags)
                requests[name] = Request(members, view, offsets=offsets, items=bags)
            elif name in self._spoken_of:
                images = self._spoken_of[name]
                items = torch.randint(len(images), (self._statements,), generator=generator)
                requests[name] = Request(images[items].T.flatten(), view, items=items)
        return requests

    def _bags_of(self, losses: frozenset[str]) -> Tensor:
        """Return the bags that some losses are about."""
        if losses not in self._bags_by_losses:
            kinds = [kind.name for kind in self.kinds_of_bags if losses.intersection(self._losses[kind.name])]
            self._bags_by_losses[losses] = self.evidence.bags_known(kinds)
        return self._bags_by_losses[losses]

    def losses(
        self, parts: Mapping[str, Part], assignments: Mapping[str, Tensor], *, kinds: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Return the mean of each loss in the batch.

        assignments: (images, clusters) for each of the parts that `request` asked for and the batch has. kinds: names
        of losses, None for all that need no clusters that have formed.
        """
        kinds, losses = self.names() if kinds is None else kinds, {}
        for kind in self.kinds_of_images:
            if kind.name in parts and kind.name in kinds:
                loss = self._losses[kind.name][kind.name]
                p = assignments[kind.name].chunk(self._spoken_of[kind.name].shape[1])
                losses[kind.name] = loss.of(p, self._given(loss, parts[kind.name].items)).mean()
        for kind in self.kinds_of_bags if "bags" in parts else ():
            for name, loss in self._losses[kind.name].items():
                known = self.known(kind.name, parts["bags"], which=loss.which) if name in kinds else None
                if known is not None:
                    each = loss.of(assignments["bags"], parts["bags"].offsets, self._given(loss, known.rows))
                    losses[name] = known.of_bags(each).mean().float()
        return losses

    def whole_losses(self, p: Tensor) -> dict[str, Tensor]:
        """Return the mean of each loss over all statements, of assignments p (n_images, clusters) of all images."""
        parts = {}
        for name, images in self._spoken_of.items():
            rows = images.T.flatten()
            parts[name] = Part(p[rows.to(p.device)], rows, items=torch.arange(len(images), device=p.device))
        if len(self.known_bags):
            members, offsets = self.evidence.images_of(self.known_bags)
            items = self.known_bags.to(p.device)
            parts["bags"] = Part(p[members.to(p.device)], members, offsets=offsets, items=items)
        assignments = {name: part.images for name, part in parts.items()}
        return self.losses(parts, assignments, kinds=self.names(late=True))

    def log_likelihood(self, p: Tensor) -> float:
        """Return the mean log-likelihood of a statement of each kind, in nats, under assignments of all images.

        p: (n_images, clusters), rows sum to one, clusters in the order of the classes; how sure they are is not judged:
        it is that of the most likely of several sharpnesses.
        """
        found = [self.whole_losses(sharpened(p, sharpness)) for sharpness in SHARPNESS]
        return max(-float(torch.stack([*losses.values()]).mean()) for losses in found)

    def _given(self, loss: Loss, rows: Tensor | None) -> dict[str, Tensor]:
        return {name: self.target(name)[rows] for name in loss.targets}

    def known(self, kind: str, part: Part, *, which: Tensor | None = None) -> KnownBags | None:
        """Return of which bags of a batch a table speaks, None if of none; decided without waiting for the device.

        which: (rows of the table,) bool on the host, for those that count; None for all.
        """
        if kind not in self._rows_on_host:
            return None
        assert part.items is not None
        assert part.offsets is not None
        on_host = self._rows_on_host[kind][part.host_items]
        known = on_host >= 0
        if which is not None and len(which):
            known = known & which[on_host.clamp_min(0)]
        if not bool(known.any()):
            return None
        rows = self.get_buffer(f"{kind}_row")[part.items].clamp_min(0)
        if bool(known.all()):
            return KnownBags(rows)
        of_images = known[bag_numbers(part.offsets.cpu())]
        return KnownBags(rows, *(to_device(mask.nonzero().flatten(), rows.device) for mask in (known, of_images)))

    def begins(self, steps: int, *, passes: int) -> tuple[int, ...]:
        """Return the steps of a stage before which counts are to be judged: evenly spread; the first alone without any.

        >>> EvidenceTerms(Resolved(1), 2).begins(900, passes=3)
        (0,)
        """
        if not len(self.evidence.count_bags):
            return (0,)
        return tuple(range(0, max(steps, 1), max(LEAST_BETWEEN, steps // passes)))

    @torch.no_grad()
    def judge_counts(self, p: Tensor) -> None:
        """Learn the rate of wrong counts, and of each the probability that it is right: `count_noise`, `count_right`.

        p: (n_images, clusters) assignments of all training images, rows sum to one. To be called again as they improve.
        Nothing is done without counts, or where `epsilon` says that none, or all, are wrong.
        """
        if not len(self.evidence.count_bags) or not 0 < self._epsilon < 1:
            return
        members, offsets = self.evidence.images_of(self.evidence.count_bags)
        low, high, admissible = (self.target(name) for name in ("counts_min", "counts_max", "admissible"))
        counts = torch.arange(1, admissible.shape[1] + 1, device=low.device)
        given = (counts >= low[:, None]) & (counts <= high[:, None])
        p, found = p[members.to(p.device)], []
        for sharpness in LAW_SHARPNESS:
            law = unique_count_log_probabilities(sharpened(p, sharpness), offsets, max_count=admissible.shape[1])
            found.append(count_noise(law, given, admissible, expected=self._epsilon))
        best = max(found, key=lambda noise: noise.log_likelihood)
        self.target("count_noise").fill_(best.random)
        self.target("count_right").copy_(best.right)

    def chance_losses(self) -> dict[str, float]:
        """Return the chance-level losses: those of a constant model.

        It predicts the frequencies of labels, counts, proportions, presence and answers in the evidence; for counts of
        equal frequency and ε = 0 the loss is the logarithm of the number of admissible ones.
        """
        every = {name: loss for losses in self._losses.values() for name, loss in losses.items()}
        return {name: float(loss.chance_loss().mean()) for name, loss in every.items() if loss.chance_loss is not None}

    def class_evidence(self, p: Tensor) -> Tensor:
        """Return (clusters, classes) float64: how much speaks for a cluster being a class.

        p: (n_images, clusters) assignments of all training images, on the CPU.
        """
        p = p.double()
        total = torch.zeros(p.shape[1], len(self.evidence.class_names), dtype=torch.float64)
        for kind in (*self.kinds_of_images, *self.kinds_of_bags):
            votes = kind.votes(self.evidence, p, lambda: self._bag_means(p))
            total = total if votes is None else total + votes
        return total

    def _bag_means(self, p: Tensor) -> Tensor:
        numbers = torch.repeat_interleave(torch.arange(len(self.evidence.bag_names)), self.evidence.bag_sizes)
        sums = torch.zeros(len(self.evidence.bag_names), p.shape[1], dtype=p.dtype)
        sums.index_add_(0, numbers, p[self.evidence.members])
        return sums / self.evidence.bag_sizes.clamp_min(1).unsqueeze(1)
