"""The bags of UCC and RCC: those of the evidence, or bags sampled at each step as in the paper."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request, seeded
from smidgen.data.shapes import Shape, is_vector
from smidgen.data.views import View
from smidgen.errors import InputError
from smidgen.evidence.drawing import between_cuts, class_tuples, draw_bags, even_numbers
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import to_device
from smidgen.maths.counts import bag_numbers, count_frequencies
from smidgen.methods.host_copies import HostCopies

_LEAST_IMAGES = 2  # of a step: batch norm makes nothing of a single image


def span(text: str, *, what: str) -> tuple[int, int]:
    """Return the least and the largest of a range written "1-4" or "32"; InputError if it is none.

    >>> span("8-40", what="bag_size"), span("32", what="bag_size")
    ((8, 40), (32, 32))
    """
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:[-–]\s*(\d{1,6})\s*)?", text)
    least, most = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
    if not 1 <= least <= most:
        raise InputError(f"`{what}` must be a number or a range like 1-4, from 1 upwards, got {text!r}.")
    return least, most


class BagSource(nn.Module):
    """The bags of one training set: which are drawn next, and the evidence about them.

    Bags of the evidence are drawn at random, `bags` at a time but no more than `images` images together. Where there
    are only labels, `bags` // (number of counts) bags of each count are sampled per step as in the paper: tuples of
    classes in shuffled order, images shared evenly among the classes (or at random), and no image twice in a bag
    unless its class has too few.

    evidence: of the training set; its proportions are used only `with_classes`. ucc, bag_size: the range of class
    counts and of images of sampled bags; counts are cut to the number of classes. random_shares: any composition of a
    sampled bag is as likely, instead of the even one.
    """

    walk: Tensor
    labels: Tensor
    counts_min: Tensor
    counts_max: Tensor
    proportions: Tensor

    def __init__(
        self,
        evidence: Resolved,
        n_clusters: int,
        *,
        bags: int,
        images: int,
        ucc: str,
        bag_size: str,
        random_shares: bool = False,
        with_classes: bool = False,
    ) -> None:
        super().__init__()
        self.evidence, self.n_clusters, self.bags, self.images = evidence, n_clusters, bags, images
        self.sizes, self.random_shares = span(bag_size, what="bag_size"), random_shares
        self.register_buffer("walk", torch.tensor(0))
        self._host = HostCopies()
        self.known_bags = evidence.bags_known(("counts", "proportions") if with_classes else ("counts",))
        self.register_buffer("labels", evidence.labels, persistent=False)
        self._store_bag_evidence(with_classes=with_classes)
        classes = evidence.labels[evidence.labels >= 0].unique().tolist()
        self.rows_of_class = [(evidence.labels == k).nonzero().flatten() for k in classes]
        self.samples_bags = not len(self.known_bags) and bool(classes)
        self.counts = self._sampled_counts(*span(ucc, what="ucc")) if self.samples_bags else self._known_counts()

    def _store_bag_evidence(self, *, with_classes: bool) -> None:
        """Store the evidence about each bag: the range of its count, else 0, and its proportions, else NaN."""
        evidence, n_bags = self.evidence, len(self.evidence.bag_names)
        low, high = torch.zeros(2, n_bags, dtype=torch.int64)
        proportions = torch.full((n_bags, self.n_clusters), torch.nan)
        if with_classes and len(evidence.proportion_bags):
            known = evidence.proportions
            proportions[evidence.proportion_bags] = F.pad(known, (0, self.n_clusters - known.shape[1]))
            low[evidence.proportion_bags] = high[evidence.proportion_bags] = (known > 0).sum(1)
        low[evidence.count_bags], high[evidence.count_bags] = evidence.counts_min, evidence.counts_max
        for name, values in (("counts_min", low), ("counts_max", high), ("proportions", proportions)):
            self.register_buffer(name, values, persistent=False)

    def _sampled_counts(self, least: int, most: int) -> range:
        n_classes = len(self.rows_of_class)
        if least > n_classes:
            raise InputError(f"Bags of {least} classes or more were asked for (`ucc`), and {n_classes} are known.")
        return range(least, min(most, n_classes, max(least, self.sizes[1])) + 1)

    def _known_counts(self) -> range:
        if not len(self.known_bags):
            return range(1, self.n_clusters + 1)
        low, high = int(self.counts_min[self.known_bags].min()), int(self.counts_max[self.known_bags].max())
        return range(max(1, low), min(high, self.n_clusters) + 1)

    @property
    def admissible(self) -> Tensor:
        """Which of the counts 1 … clusters a bag can have, (clusters,) bool."""
        counts = torch.arange(1, self.n_clusters + 1)
        return (counts >= self.counts.start) & (counts < self.counts.stop)

    @property
    def chance_loss(self) -> float:
        """The mean cross-entropy of predicting the empirical distribution of counts for every bag.

        Fresh bags have each count as often.
        """
        if self.samples_bags or not len(self.known_bags):
            return math.log(len(self.counts))
        low, high = self.counts_min[self.known_bags].cpu(), self.counts_max[self.known_bags].cpu()
        high = high.clamp(max=self.n_clusters)
        law = F.pad(count_frequencies(low, high, self.admissible).cumsum(0), (1, 0))
        return float(-(law[high] - law[low - 1]).clamp_min(1e-9).log().mean())

    @property
    def typical_sizes(self) -> tuple[int, int]:
        """The least and the largest number of images in a bag: of the evidence's, or of sampled ones."""
        if not len(self.known_bags):
            return self.sizes
        sizes = self.evidence.bag_sizes[self.known_bags]
        return max(1, int(sizes.min())), max(1, int(sizes.max()))

    @property
    def repetition_note(self) -> str:
        """A sentence if sampled bags repeat images because a class has too few, otherwise ""."""
        if not self.samples_bags:
            return ""
        fewest, u, size = min(map(len, self.rows_of_class)), self.counts.start, self.sizes[1]
        wanted = size - u + 1 if self.random_shares else -(-size // u)
        if fewest >= wanted:
            return ""
        return (
            f"Bags take up to {wanted} images of a class and one has {fewest}: they hold some of its images more than"
            " once (a smaller `bag_size` would not)."
        )

    def validate(self, method: str, *, what: str) -> None:
        """Raise InputError if there is nothing to make bags of."""
        if not self.samples_bags and not len(self.known_bags):
            raise InputError(f"`{method}` needs {what}: give --bags with them, or data with classes to draw bags from.")
        most = max(1, self.bags // len(self.counts)) * len(self.counts) * self.sizes[0]
        if (most if self.samples_bags else int(self.evidence.bag_sizes[self.known_bags].sum())) < 2:
            raise InputError(f"`{method}` needs more than one image in the bags of a step: give more or larger bags.")

    def begin(self, generator: torch.Generator) -> None:
        """Begin another walk through the tuples of classes."""
        on_host = torch.Generator().manual_seed(generator.initial_seed())  # the same bags on every device
        self.walk = torch.randint(2**62, (), generator=on_host)

    def request(self, step: int, generator: torch.Generator, *, view: View | None) -> Request:
        """Return the bags of a step; `items` are bag numbers of the evidence, None for sampled bags."""
        if self.samples_bags:
            return self._sampled_bags(step, generator, view)
        bags = draw_bags(
            self.evidence, self.known_bags, generator, bags=self.bags, images=self.images, least=_LEAST_IMAGES
        )
        rows, offsets = self.evidence.images_of(bags)
        return Request(rows, view, offsets=offsets, items=bags)

    def known(self, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """Return the range of counts, (bags,) int64 twice, and the proportions, (bags, clusters), of a batch.

        Proportions are NaN for bags of which they are not known.
        """
        assert part.offsets is not None
        if part.items is not None:
            return self.counts_min[part.items], self.counts_max[part.items], self.proportions[part.items]
        labels = self.labels[part.indices]
        held = torch.zeros(len(part.offsets) - 1, self.n_clusters, device=labels.device)
        bags = to_device(bag_numbers(part.offsets), labels.device)
        held.index_put_((bags, labels), torch.ones_like(labels, dtype=held.dtype), accumulate=True)
        counts = (held > 0).sum(1)
        return counts, counts, held / held.sum(1, keepdim=True)

    def with_known_proportions(self, part: Part) -> Tensor | None:
        """Return the bags of a batch whose proportions are known, None for all of them; read on the host."""
        items = part.host_items
        if items is None:
            return None
        known = self._host("has_proportions", self.proportions, lambda given: ~given.isnan().any(1))[items]
        return None if bool(known.all()) else to_device(known.nonzero().flatten(), self.proportions.device)

    # -------------------------------------------------------------------------------------------------- sampled bags

    def _sampled_bags(self, step: int, generator: torch.Generator, view: View | None) -> Request:
        each = max(1, self.bags // len(self.counts))
        bags = [self._bag(u, step * each + i, generator) for u in self.counts for i in range(each)]
        offsets = torch.tensor([0, *map(len, bags)]).cumsum(0)
        return Request(torch.cat(bags), view, offsets=offsets)

    def _bag(self, u: int, place: int, generator: torch.Generator) -> Tensor:
        """Return the images of the bag of u classes at a place of the walk."""
        least, most = self.sizes
        size = max(u, int(torch.randint(least, most + 1, (), generator=generator)))
        classes = self._tuple(u, place, generator)
        numbers = self._numbers(u, size, generator)
        return torch.cat([_draw(self.rows_of_class[k], n, generator) for k, n in zip(classes, numbers, strict=True)])

    def _tuple(self, u: int, place: int, generator: torch.Generator) -> list[int]:
        n_classes = len(self.rows_of_class)
        tuples = class_tuples(n_classes, u)
        if tuples is None:
            return torch.randperm(n_classes, generator=generator)[:u].tolist()
        round_, place = divmod(place, len(tuples))
        order = torch.randperm(len(tuples), generator=seeded(self._host("walk", self.walk, int), u, round_))
        # Shuffled, because the first ones get what does not divide evenly.
        return torch.from_numpy(tuples[order[place]])[torch.randperm(u, generator=generator)].tolist()

    def _numbers(self, u: int, size: int, generator: torch.Generator) -> list[int]:
        """Return how many images each of u classes gives to a bag."""
        if not self.random_shares:
            return even_numbers(u, size)
        return between_cuts((torch.randperm(size - 1, generator=generator)[: u - 1] + 1).sort().values.tolist(), size)


def _draw(rows: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n of the rows, each as often as any other or once more: none twice where there are enough."""
    times = -(-n // len(rows))
    orders = [torch.randperm(len(rows), generator=generator) for _ in range(times)]
    return rows[torch.cat(orders)[:n]]


def bag_view(shape: Shape, augment: bool, *, size: int | None = None) -> View | None:
    """Return how images of bags are shown: as they are, or turned, and mirrored where they are in colour.

    Grey images may be writing, which has no mirror image; vectors have no views. size: side in pixels that
    photographs are brought to while they are turned, for an encoder that would enlarge them: twice would blur them.
    """
    if not augment or is_vector(shape):
        return None
    if shape[0] == 1:
        return View(rotate=10, scale=0.15, shear=0.2, shift=0.1)
    return View(rotate=15, flip=True, shift=0.1, size=size, padding="reflection")
