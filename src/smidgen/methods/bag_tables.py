"""The tables that a run of UCC or RCC leaves: densities, divergences, counts of bags and decoded images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from smidgen.maths.divergence import js_divergences
from smidgen.maths.kde import feature_densities
from smidgen.methods.bag_source import BagSource
from smidgen.methods.base import BagHeads, Embed
from smidgen.nets.bag_net import BagNet

_SHOWN = 16  # images decoded for the report
_IMAGES = 16_384  # of bags described at once: what bounds the memory


def bag_tables(
    net: BagNet, source: BagSource, heads: BagHeads, embed: Embed, clusters: Tensor
) -> dict[str, dict[str, np.ndarray]]:
    """Return the densities of each cluster's features, the clusters' divergences, bags, and decoded images.

    clusters: of the training images, (images,) int64.
    """
    features = embed()
    densities = feature_densities(
        features,
        clusters,
        heads.points.cpu(),
        bandwidth=heads.bandwidth,
        n_groups=source.n_clusters,
    ).numpy()
    tables = {
        "feature_densities": as_columns(("cluster", "feature", "point"), "density", densities),
        "cluster_divergences": as_columns(("cluster", "other"), "bits", js_divergences(densities)),
    }
    if len(source.known_bags):
        tables["bag_counts"] = _bag_counts(source, heads, features)
    if net.decoder is not None:
        shown = _first_images(embed)[: source.evidence.n_images]
        with torch.no_grad():
            rebuilt = net.rebuild(shown).cpu().numpy()
        axes = ("image", "channel", "row", "column") if shown.ndim == 4 else ("image", "feature")
        table = as_columns(axes, "original", shown.cpu().numpy())
        tables["reconstructions"] = table | {"decoded": rebuilt.ravel().round(4)}
    return tables


def _bag_counts(source: BagSource, heads: BagHeads, features: Tensor) -> dict[str, np.ndarray]:
    """Return what each bag of the evidence is said to hold and what the head makes of it."""
    bags, device = source.known_bags, heads.points.device
    chances = []
    largest = int(source.evidence.bag_sizes[bags].max())
    for some in bags.split(max(1, _IMAGES // largest)):
        rows, offsets = source.evidence.images_of(some)
        chances.append(heads.count_probabilities(features[rows].to(device), offsets.to(device)).cpu())
    law = torch.cat(chances)
    low, high = source.counts_min.cpu()[bags], source.counts_max.cpu()[bags]
    counts = torch.arange(1, law.shape[1] + 1)
    stated = ((counts >= low[:, None]) & (counts <= high[:, None])).float()
    names = np.array([source.evidence.bag_names[b] for b in bags.tolist()], dtype=object)
    probability = (law * stated).sum(1).numpy().round(4)
    predicted = (law.argmax(1) + 1).numpy()
    return {"bag": names, "least": low.numpy(), "most": high.numpy(), "predicted": predicted,
            "probability": probability}  # fmt: skip


def _first_images(embed: Embed) -> Tensor:
    """Return the first training images, as methods see them."""
    first: list[Tensor] = []

    def keep(images: Tensor) -> Tensor:
        first.extend([] if first else [images[:_SHOWN].clone()])
        return images.new_zeros(len(images), 0)

    embed(keep)
    return first[0]


def as_columns(axes: tuple[str, ...], what: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array as columns: its indices, and its values to six digits behind the point."""
    indices = np.indices(values.shape).reshape(values.ndim, -1)
    return {**dict(zip(axes, indices, strict=True)), what: values.ravel().round(6)}
