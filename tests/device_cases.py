"""Small fits of every method in every form, for the tests of devices: easy images or vectors, and all evidence."""

import dataclasses

import numpy as np
import torch
from torch.nn import functional as F

from smidgen.evidence.resolved import Resolved
from smidgen.methods import METHODS, make_config, make_method
from smidgen.methods.base import Problem
from smidgen.model import Model, Preprocessing
from smidgen.training.callbacks import Callback

N_IMAGES, N_CLUSTERS = 48, 3
CLASSES = torch.arange(N_IMAGES) % N_CLUSTERS
PATTERNS = np.random.default_rng(0).integers(0, 200, (N_CLUSTERS, 1, 8, 8))
NOISE = np.random.default_rng(1).integers(0, 50, (N_IMAGES, 1, 8, 8))
IMAGES = (PATTERNS[CLASSES] + NOISE).astype(np.uint8)
VECTORS = np.random.default_rng(2).normal(size=(N_IMAGES, 20)).astype(np.float32)
VECTORS[:, :N_CLUSTERS] += 3 * np.eye(N_CLUSTERS, dtype=np.float32)[CLASSES]


def bags(members, *, known):
    """Return evidence of bags of equal size, all that is known of them: "counts", "proportions", "presence"."""
    members, names = torch.tensor(members), tuple("abc")
    numbers = torch.arange(len(members))
    held = F.one_hot(CLASSES[members], N_CLUSTERS).sum(1)
    facts = {
        "counts": {"count_bags": numbers, "counts_min": (held > 0).sum(1), "counts_max": (held > 0).sum(1)},
        "proportions": {"proportion_bags": numbers, "proportions": held / held.sum(1, keepdim=True)},
        "presence": {"presence_bags": numbers, "presence": (held > 0).long()},
    }
    return {
        "class_names": names,
        "bag_names": tuple(map(str, numbers.tolist())),
        "members": members.flatten(),
        "offsets": torch.arange(len(members) + 1) * members.shape[1],
    } | {name: value for kind in known for name, value in facts[kind].items()}


MIXED = [[0, 3, 6, 9], [1, 4, 0, 3], [0, 1, 2, 5], [2, 5, 8, 11], [6, 7, 8, 9], [1, 2, 4, 5]]
PURE = [[k + 3 * i + 12 * j for i in range(4)] for k in range(N_CLUSTERS) for j in range(4)]
SOME_LABELS = {"labels": torch.where(torch.arange(N_IMAGES) < 24, CLASSES, -1), "class_names": tuple("abc")}
PAIRS = {"pairs": torch.tensor([[0, 3], [1, 2], [4, 7]]), "same": torch.tensor([True, False, True])}

EVIDENCE = {
    "none": {},
    "labels": SOME_LABELS,
    "counts": bags(MIXED, known=["counts"]),
    "impure": bags(MIXED[1:3] + MIXED[4:], known=["counts"]),
    "proportions": bags(MIXED, known=["proportions"]),
    "all": SOME_LABELS | PAIRS | bags(MIXED, known=["counts", "proportions", "presence"]),
    "pure": bags(PURE, known=["counts"]),
    "many counts": bags([[i, (5 * i + 1) % N_IMAGES, (7 * i + 2) % N_IMAGES] for i in range(30)], known=["counts"]),
}

SMALL = {"batch_size": 16, "refine_batch_size": 16, "bags": 4, "bag_size": "4", "components": 8, "heads": 3}

WITHOUT_STEPS = ("kmeans", "label-spreading", "logistic-regression")
"""Methods without stages: all their work is done in `finish`."""

FITS = {
    "kmeans": ("kmeans", IMAGES, "none", {"n_init": 2}),
    "kmeans on pca": ("kmeans", IMAGES, "none", {"n_init": 2, "features": "pca"}),
    "kmeans on a net": ("kmeans", IMAGES, "none", {"n_init": 2, "features": "encoder"}),
    "kmeans of directions": ("kmeans", VECTORS, "none", {"n_init": 2, "spherical": True}),
    "deepcluster": ("deepcluster", IMAGES, "none", {"preset": "small", "groups": 6, "relabellings": 2}),
    "deepcluster v2 behind a filter": (
        "deepcluster",
        IMAGES,
        "none",
        {"preset": "v2", "groups": 0, "relabellings": 2, "encoder": "sobel:conv"},
    ),
    "deepcluster on vectors": (
        "deepcluster",
        VECTORS,
        "none",
        {"preset": "small", "groups": 6, "relabellings": 2, "neighbours": 4},
    ),
    "sela": ("sela", IMAGES, "none", {"preset": "small", "relabellings": 2, "spacing": "linear"}),
    "sela by views, one head at a time": (
        "sela",
        IMAGES,
        "none",
        {"preset": "small", "groups": 5, "relabellings": 2, "spacing": "linear", "relabelled_heads": "one"}
        | {"relabel_views": True, "prior": "learned"},
    ),
    "sela on vectors": (
        "sela",
        VECTORS,
        "none",
        {"preset": "small", "relabellings": 2, "spacing": "linear", "prior": "1,2,3", "neighbours": 4},
    ),
    "swav with a queue and small crops": (
        "swav",
        IMAGES,
        "none",
        {"preset": "small", "prototypes": 6, "small_crops": 2, "queue": 20, "queue_from": 0.2, "frozen": 0.3},
    ),
    "swav with lars": ("swav", IMAGES, "none", {"preset": "small", "prototypes": 6, "optimiser": "lars"}),
    "swav on vectors": ("swav", VECTORS, "none", {"preset": "small", "prototypes": 6, "neighbours": 4}),
    "mutual-information": ("mutual-information", IMAGES, "none", {"groups": 6}),
    "mutual-information against an adversary, with labels": (
        "mutual-information",
        IMAGES,
        "labels",
        {"consistency": "adversarial", "groups": 0, "prior": "1,2,3"},
    ),
    "mutual-information on vectors, with labels": (
        "mutual-information",
        VECTORS,
        "labels",
        {"consistency": "views", "neighbours": 4, "groups": 0},
    ),
    "consistency": ("consistency", IMAGES, "labels", {"preset": "small", "ratio": 2}),
    "consistency as published": ("consistency", IMAGES, "labels", {"ratio": 2}),
    "consistency on vectors": (
        "consistency",
        VECTORS,
        "labels",
        {"preset": "small", "ratio": 2, "fairness": 0.01, "alignment": "labels"},
    ),
    "seeded-autoencoder": ("seeded-autoencoder", IMAGES, "labels", {}),
    "seeded-autoencoder of random starts": (
        "seeded-autoencoder",
        IMAGES,
        "labels",
        {"start": "random", "restarts": 2, "spherical": True},
    ),
    "seeded-autoencoder with everything": (
        "seeded-autoencoder",
        IMAGES,
        "labels",
        {"preset": "together", "kmeans_updates": 2},
    ),
    "seeded-autoencoder on vectors": ("seeded-autoencoder", VECTORS, "none", {"preset": "together"}),
    "supervised": ("supervised", IMAGES, "labels", {}),
    "self-training": ("self-training", IMAGES, "none", {"bag_images": 8}),
    "self-training with all evidence": ("self-training", IMAGES, "all", {"bag_images": 8}),
    "self-training with counts": ("self-training", IMAGES, "many counts", {"steps": 24}),
    "self-training on vectors": ("self-training", VECTORS, "labels", {"keep": "always"}),
    "logistic-regression": ("logistic-regression", IMAGES, "labels", {}),
    "label-spreading on vectors": ("label-spreading", VECTORS, "labels", {}),
    "fusion-images": ("fusion-images", IMAGES, "none", {}),
    "fusion-images with labels": ("fusion-images", IMAGES, "labels", {}),
    "fusion-images with counts": ("fusion-images", IMAGES, "counts", {}),
    "fusion-images with all evidence": ("fusion-images", IMAGES, "all", {}),
    "fusion-images without refinement": ("fusion-images", IMAGES, "none", {"refine_steps": 0}),
    "fusion-embeddings": ("fusion-embeddings", VECTORS, "none", {}),
    "fusion-embeddings of many images with labels": ("fusion-embeddings", VECTORS, "labels", {"small": 0}),
    "fusion-embeddings with counts": ("fusion-embeddings", VECTORS, "counts", {}),
    "fusion-embeddings with all evidence": ("fusion-embeddings", VECTORS, "all", {}),
    "fusion-embeddings with pure bags": ("fusion-embeddings", VECTORS, "pure", {}),
    "ucc of fresh bags": ("ucc", IMAGES, "labels", {"encoder": "conv"}),
    "ucc with the paper's net": ("ucc", IMAGES, "labels", {"encoder": "wide-residual"}),
    "ucc of evidence": ("ucc", IMAGES, "counts", {"encoder": "conv", "alpha": 1.0}),
    "ucc with attention": ("ucc", IMAGES, "labels", {"encoder": "conv", "attention": True}),
    "ucc with ssim and warm-up": (
        "ucc",
        IMAGES,
        "labels",
        {"encoder": "conv", "reconstruction": "ssim", "warmup_steps": 3},
    ),
    "ucc on vectors": ("ucc", VECTORS, "labels", {"encoder": "vectors", "alpha": 1.0, "start_bandwidth": 0.3}),
    "ucc with skips": ("ucc", IMAGES, "labels", {"encoder": "unet"}),
    "ucc fast": ("ucc", IMAGES, "labels", {"preset": "fast", "bag_size": "4-6", "bags": 6}),
    "rcc": ("rcc", IMAGES, "labels", {"encoder": "conv", "tie_weight": 0.1}),
    "rcc of evidence": ("rcc", IMAGES, "all", {"encoder": "conv"}),
    "rcc fast": ("rcc", IMAGES, "proportions", {"preset": "fast"}),
    "rcc with labels inside bags": ("rcc", IMAGES, "labels", {"preset": "fast", "assign_in_bags": 0.0}),
}
FITS |= {name: (name, IMAGES, "labels", {}) for name in METHODS.keys() - {method for method, *_ in FITS.values()}}


class Kill(Callback):
    """Ends the process, as far as the trainer can tell, after a number of steps."""

    def __init__(self, after):
        self.after = after

    def after_step(self, moment):
        if moment.total_step == self.after:
            raise KeyboardInterrupt


def make(fit, **more):
    """Return a method of a fit in `FITS`, untrained; `more`: of its options."""
    name, images, evidence, options = FITS[fit]
    default = dataclasses.asdict(make_config(name))
    small = {key: value for key, value in SMALL.items() if key in default}
    small |= {key: 6 for key in default if key.endswith("steps") and key != "warmup_steps"}
    known = {"labels": torch.full((N_IMAGES,), -1)} | EVIDENCE[evidence]
    mean, std = (0.5,) * images.shape[1], (0.25,) * images.shape[1]
    problem = Problem(N_IMAGES, images.shape[1:], N_CLUSTERS, mean, std, Resolved(N_IMAGES, **known))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method(name, make_config(name, small | options | more), problem)


def as_model(fit, method, device):
    images = FITS[fit][1]
    return Model(
        method, FITS[fit][0], Preprocessing(images.shape[-1], images.shape[1]), tuple("abc"), torch.device(device)
    )


def state(method):
    return {name: value.cpu() for name, value in method.state_dict().items()}
