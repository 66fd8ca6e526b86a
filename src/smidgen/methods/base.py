"""The contract every method keeps: which images it wants to see, as which views, and what it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.data.batches import Part, Request
from smidgen.data.shapes import ImageShape, Shape, image_shape, is_vector
from smidgen.errors import ContractError, InputError
from smidgen.evidence.resolved import Resolved
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoder import Encoder


@dataclass(frozen=True)
class Problem:
    """The problem: everything about the training set that a method may know.

    shape: of one row: (channels, height, width) of an image, or (features,) of a vector, see `data.shapes`.
    mean, std: per channel over the training images, in [0, 1]; per feature of vectors, as they are.
    evidence: what is known, as index arrays; empty where nothing is.
    """

    n_images: int
    shape: Shape
    n_clusters: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    evidence: Resolved

    @property
    def holds_vectors(self) -> bool:
        """Whether the rows are vectors, such as ready embeddings, and not images; they have no views."""
        return is_vector(self.shape)

    @property
    def image_shape(self) -> ImageShape:
        """(channels, height, width); raises InputError where the rows are vectors, for a method of images only."""
        return image_shape(self.shape)


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    steps: its length in optimiser steps.
    begins: the steps before which `Method.begin` is called: DeepCluster's epochs, SeLa's label updates.
    schedule: the learning rate over the stage (0 … 1) as a fraction of its peak: a name in
        `maths.schedules.SCHEDULES` or any such function; an optimiser's parameter group may have its own `schedule`.
    loss_should_decrease: whether a decreasing loss is expected; False where the method holds it at a level.
    cost: rough time per step, including what precedes it, relative to the other stages; used to split `max_seconds`
        between stages.
    least: the fraction of its steps, 0 … 1, that is always run, even if time is up, as the stage is useless without.
    assigns: whether `Method.assign` is meaningful during the stage; False where clusters are made later. Where it
        is True, assignments are evaluated during training, and even ones raise an alarm.
    clip: largest norm of the gradient; a longer one is scaled down to it. None for no limit.
    Raises ContractError if `steps` is not a whole number, 0 or above.
    """

    name: str
    steps: int
    begins: tuple[int, ...] = (0,)
    schedule: str | Callable[[float], float] = "one-cycle"
    loss_should_decrease: bool = True
    cost: float = 1.0
    least: float = 0.0
    assigns: bool = True
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 0:
            raise ContractError(f"Stage {self.name!r} must have a whole number of steps, 0 or above, got {self.steps}.")


@dataclass(frozen=True)
class EvidenceUse:
    """How a method uses evidence.

    kinds: the kinds of evidence that it learns from, as in `Resolved.sizes`; where one names classes, so are clusters.
    needs_labels: whether all known classes of the training set are its labels where no evidence is given.

    What depends on the training set, empty in the one of a class:
    bags_drawn_from: the kinds of evidence from which bags are only sampled: needed, but without a loss of their own.
    chance_losses: chance-level values of the logged evidence losses, by name: those of a model that ignores the
        images. A loss that stays there means that nothing is learned (`training.monitors.diagnostics`). Losses of
        other objectives may be among them: SwAV's, which gets stuck there.
    notes: sentences about the evidence to log before training.
    """

    kinds: tuple[str, ...] = ()
    needs_labels: bool = False
    bags_drawn_from: tuple[str, ...] = ()
    chance_losses: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """What another run may load (`--init-from`); a method that offers more to runs of its own kind subclasses it.

    encoder: what this network is: its name in `nets.encoders`, or its parts. net: the network with its weights.
    head: weight (clusters, features) and bias (clusters,) of a softmax layer on the network's embeddings that gives the
    same assignments as `assign`, or nearly; None where there is none.
    """

    encoder: EncoderOption
    net: Encoder
    head: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, eq=False)
class BagHeads:
    """Predictions for whole bags by a method trained on bags, from heads that receive densities of its features.

    features: (images, J) as `encode` gives them, of all bags one after the other. offsets: (bags + 1,) int64.
    All tensors are on the device of `points`.
    counts: the unique class counts that it distinguishes, ascending.
    sizes: the least and the largest number of images in the bags that it was trained on.
    count_probabilities: (features, offsets) → P(count = 1 … clusters), (bags, clusters).
    points, bandwidth: where the density of each feature is evaluated, (points,), and the σ of its kernel.
    class_counts: (features, assignments, offsets) → how many images of each class bags hold, (bags, clusters), as
        predicted: not integers, possibly negative; None where it predicts none.
    counts_by_head: whether `class_counts` come from a separate head, not from the assignments.
    reconstruction_error: (features, images) → mean squared error of the decoded images, standardised, (); None where
        there is no decoder.
    """

    counts: tuple[int, ...]
    sizes: tuple[int, int]
    count_probabilities: Callable[[Tensor, Tensor], Tensor]
    points: Tensor
    bandwidth: float
    class_counts: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    counts_by_head: bool = False
    reconstruction_error: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """The labels that a method gives to images by itself and learns to predict; not its clusters, but maybe the same.

    n_labels: how many there are, for each head. All functions take images (batch, channels, height, width).
    predict: images → logits (batch, heads, n_labels) of their labels.
    label: images → (batch, heads) int64, the labels that others would be given: right after `begin`, training images
        would get the ones they have.
    labels: (heads, n_images) int64 of the training images since the last `begin`; None where labels last for a batch.
    head: the head whose labels are written to the run folder.
    """

    n_labels: int
    predict: Callable[[Tensor], Tensor]
    label: Callable[[Tensor], Tensor]
    labels: Tensor | None = None
    head: int = 0


class Embed(Protocol):
    """Maps a function over all training images, in order, and returns the results.

    In `Method.tables` the results of `encode` and `assign` are cached and cost nothing.
    """

    def __call__(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return (n_images, features) on the CPU; `function` maps a batch of images, by default `Method.encode`."""
        ...

    def blocks(self, function: Callable[[Tensor], Tensor] | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, outputs) block by block, the outputs on the device: for what is too large for one array."""
        ...

    def on_device(self, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return (n_images, features) on the device."""
        ...

    def some(self, rows: Tensor, function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return (rows, features) on the device, of the images of these rows alone, int64 on the CPU."""
        ...


class Method(nn.Module, ABC):
    """A clustering method. Subclasses are final; `fitting.fit` and the loop of `training` drive them.

    A subclass has a `name`, the one in `methods.METHODS`, and is called with (config, problem): its own
    `options.Options`, and the problem to solve. It sets `self.config` and `self.problem` after `super().__init__()`.
    Torch's generator is already seeded, so new layers are the same for the same seed. The loop moves parameters and
    buffers to the device; parts, and the generators of `begin` and `finish`, are already on it.

    Whatever must survive an interruption lives in parameters and registered buffers. A batch may depend only on
    (seed, stage, step) and on buffers changed in `begin`.
    """

    config: Any
    problem: Problem
    name: ClassVar[str]
    training_only: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the state that a saved model can do without: neighbours, teachers, pseudo-labels."""
    evidence_use: EvidenceUse = EvidenceUse()
    """The evidence it learns from; an instance adds what depends on its training set."""

    @property
    def saved_config(self) -> Any:
        """The options with which a saved model is made again; it knows no evidence and no images."""
        return self.config

    def stages(self) -> list[Stage]:
        """Return the stages of training, in order; none means that all work is done in `finish`."""
        return []

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> Iterable[nn.Parameter] | None:
        """Prepare for the steps ahead (neighbours, pseudo-labels, new heads), called before each of `Stage.begins`.

        generator: of the training device. Returns the parameters that were re-initialised or replaced, if any: the
        optimisers' state of them is reset.
        """
        return None

    def after_restore(self) -> None:
        """Called after a checkpoint was restored: recompute whatever is derived from buffers."""

    @abstractmethod
    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Return the parts of the batch for this step by name, one at least; see `data.batches.Request`.

        All their tensors are on the CPU; indices are int64 rows of the training set. Views are `data.views.View`s.
        generator: of the CPU. progress: the effective step: `step`, or more where time is ahead of the
        steps (`max_seconds`); whatever changes during a stage should depend on it.
        """

    @abstractmethod
    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return named scalars, each a tensor; `total` is differentiated, the others are logged.

        parts: what was requested, under the same names; see `data.batches.Part`. progress: as in `request`.
        """

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return the optimisers of a stage; their learning rates are the schedule's peak.

        A parameter group may have a `schedule` and a `weight_decay_schedule`, as in `maths.schedules`.
        """
        return [torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=1e-3, weight_decay=1e-2)]

    def before_step(self, stage: str, step: int) -> None:
        """Called between the backward pass and the step; for example, clear gradients to freeze prototypes."""

    def after_step(self, stage: str, step: int) -> None:
        """Called after the step; for example, normalise prototypes, update averages, fill queues."""

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Called once after training; for example, choose the best head, run k-means. Results belong in buffers.

        generator: of the training device, as in `begin`.
        """

    @property
    def starting_point(self) -> StartingPoint | None:
        """What another run may load; None where there is no network."""
        return None

    def start_from(self, start: StartingPoint) -> None:
        """Load another method's starting point before training: by default, its network's weights.

        Raises InputError if the networks differ.
        """
        mine = self.starting_point
        if mine is None:
            raise InputError(f"{self.name!r} has no net that could start from another run: leave out `--init-from`.")
        try:
            mine.net.load_state_dict(start.net.state_dict())
        except RuntimeError as error:
            raise InputError(_why_nets_differ(start.encoder, mine.encoder, error)) from None

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1].

        Vectors, such as ready embeddings, come as (batch, features), in any range.
        """

    def assign(self, images: Tensor) -> Tensor:
        """Return assignments (batch, n_clusters), none below 0, rows summing to one, of images as in `encode`.

        Also called before `finish`, to evaluate the clusters as they form, unless `Stage.assigns` is False.
        A subclass defines this or `assign_and_encode`; each is made of the other.
        """
        return self.assign_and_encode(images)[0]

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and embeddings, by a single forward pass of the encoder where there is one."""
        return self.assign(images), self.encode(images)

    @property
    def is_calibrated(self) -> bool:
        """Whether held-out labels have decided how sure the assignments are; if not, the model's temperature does."""
        return False

    def bag_heads(self) -> BagHeads | None:
        """Return the heads that predict properties of whole bags; None where the method has none."""
        return None

    def pseudo_labels(self) -> PseudoLabels | None:
        """Return the labels that the method gives to images and learns from; None where it gives none."""
        return None

    def figures(self) -> dict[str, float | str]:
        """Return named figures of the training for `metrics.json`, numbers or words."""
        return {}

    def tables(self, embed: Embed) -> dict[str, dict[str, np.ndarray]]:
        """Return named tables (column name to column) for the run folder and the report."""
        return {}


class Stepless(Method):
    """A method without stages: all work is done in `finish`."""

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Never called: there are no stages."""
        raise NotImplementedError(f"{self.name!r} has no stages")

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Never called."""
        raise NotImplementedError(f"{self.name!r} has no stages")


def _why_nets_differ(given: EncoderOption, wanted: EncoderOption, error: Exception) -> str:
    if given != wanted:
        return (
            f"The encoder of the run to start from is {str(given)!r}, and {str(wanted)!r} is wanted here: leave out"
            " the option `encoder` where it is given, or start from another run."
        )
    reason = str(error).splitlines()[-1].strip()
    return f"The encoder of the run to start from was trained on images of another kind: {reason}"
