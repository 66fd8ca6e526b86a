"""What methods that relabel their images share: what they see, when they relabel, and how labels change meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.shapes import is_vector
from smidgen.data.views import View
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.pca import fit_pca
from smidgen.methods.base import Embed, Problem

_OF_PIXELS, _OF_EMBEDDINGS = 50, 256  # components by which neighbours are nearest


def plain_view(problem: Problem, *, crop: float, colour: bool) -> View | None:
    """Return the random view that images are learned from; None for embeddings, which have none.

    Grey images may be writing: strokes are turned, sheared and moved a little. Photographs are cropped, `crop` being
    the smallest share of the area that is left, and mirrored; colour: whether colours change, too.
    """
    if problem.holds_vectors:
        return None
    if problem.image_shape[0] == 1:
        return View(rotate=10, scale=0.15, shear=0.2, shift=0.1)
    if not colour:
        return View(crop=crop, flip=True, padding="reflection")
    return View(crop=crop, flip=True, brightness=0.4, contrast=0.4, saturation=0.4, grey=0.2, padding="reflection")


def varied(images: Tensor, *, dropout: float) -> Tensor:
    """Return vectors (batch, features) without a share of their numbers; images are left as they are."""
    return F.dropout(images, dropout) if is_vector(images.shape[1:]) else images


def find_neighbours(embed: Embed, wanted: int, *, problem: Problem) -> Tensor:
    """Return the nearest other images of each, (n_images, neighbours) int32: as many as are wanted, or as there are.

    Images are nearest by the 50 first principal components of their pixels; ready embeddings by the directions of the
    256 first ones, after standardising.
    """
    pixels = embed(lambda images: images.flatten(1))
    wanted = min(wanted, len(pixels) - 1)
    if wanted < 1:
        return torch.arange(len(pixels), dtype=torch.int32)[:, None]
    ready = problem.holds_vectors
    if ready:
        pixels = (pixels - pixels.mean(0)) / pixels.std(0, correction=0).clamp_min(1e-12)
    pca = fit_pca(pixels, min(_OF_EMBEDDINGS if ready else _OF_PIXELS, *pixels.shape), l2=ready)
    return nearest_neighbours(pca.transform(pixels), wanted)[0].to(torch.int32)


def one_near(rows: Tensor, neighbours: Tensor, generator: torch.Generator) -> Tensor:
    """Return one random neighbour of each row, or the rows themselves where there are no neighbours."""
    if not len(neighbours):
        return rows
    return neighbours[rows, torch.randint(neighbours.shape[1], rows.shape, generator=generator)].long()


def relabelling_steps(steps: int, relabellings: int, *, schedule: str) -> tuple[int, ...]:
    """Return the steps before which images are relabelled, the first of them 0: evenly, or densest at the beginning.

    schedule: "linear", or "quadratic": steps · (j / relabellings)² for j = 0, 1, … (Asano et al., ICLR 2020).

    >>> relabelling_steps(100, 5, schedule="quadratic"), relabelling_steps(100, 5, schedule="linear")
    ((0, 4, 16, 36, 64), (0, 20, 40, 60, 80))
    """
    shares = np.arange(relabellings) / relabellings
    shares = shares**2 if schedule == "quadratic" else shares
    return tuple(sorted({int(steps * share) for share in shares}))


class Relabellings:
    """What happened at each relabelling, as the rows of a buffer (relabellings, columns) and as a table.

    `step`, `nmi_previous` (of the labels with those before; not with classes), `reassigned` (the share of images whose
    label changed), and the method's own columns. The first relabelling has nothing to compare with.
    """

    def __init__(self, *columns: str) -> None:
        self.columns = ("step", "nmi_previous", "reassigned", *columns)

    def row(self, step: int, previous: Tensor, labels: Tensor, *facts: float, like: Tensor) -> Tensor:
        """Return one row for labels (…, n) that followed on others, whose heads are averaged; in `like`'s type."""
        changes: Sequence[float] = (0.0, 0.0)
        if previous.shape == labels.shape:
            pairs = list(zip(_heads(previous), _heads(labels), strict=True))
            changes = (
                float(np.mean([normalized_mutual_info_score(old, new) for old, new in pairs])),
                float(np.mean([(old != new).mean() for old, new in pairs])),
            )
        return torch.tensor([[step, *changes, *facts]], dtype=like.dtype).to(like.device)

    def logged(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the newest facts, but for the step, as scalars for the log."""
        return dict(zip(self.columns[1:], rows[-1, 1:].unbind(), strict=True)) if len(rows) else {}

    def table(self, rows: Tensor) -> dict[str, np.ndarray]:
        """Return the columns; what the first relabelling has nothing to compare with is not a number."""
        columns: dict[str, Any] = dict(zip(self.columns, rows.cpu().double().numpy().T.copy(), strict=True))
        for name in ("nmi_previous", "reassigned"):
            columns[name][:1] = np.nan
        return columns | {"step": columns["step"].astype(np.int64)}


def _heads(labels: Tensor) -> list[np.ndarray]:
    return list(labels.reshape(-1, labels.shape[-1]).cpu().numpy())


def rows_by_cluster(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows in the order of their cluster, where each that has any begins there, and how many it has.

    >>> [each.tolist() for each in rows_by_cluster(torch.tensor([3, 0, 3, 3]))]
    [[1, 0, 2, 3], [0, 1], [1, 3]]
    """
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels)
    sizes = sizes[sizes > 0]
    return order, sizes.cumsum(0) - sizes, sizes


def drawn_evenly(by_cluster: tuple[Tensor, Tensor, Tensor], n: int, generator: torch.Generator) -> Tensor:
    """Return n rows, each of a cluster that is drawn uniformly from those that hold any."""
    order, starts, sizes = by_cluster
    clusters = torch.randint(len(sizes), (n,), generator=generator)
    inside = (torch.rand(n, generator=generator, dtype=torch.float64) * sizes[clusters]).long()
    return order[starts[clusters] + inside]
