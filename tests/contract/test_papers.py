"""The contract carries the papers: tiny methods with what DeepCluster, SwAV and UCC need, and nothing more."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smidgen.data.batches import Request
from smidgen.data.resolved import Resolved
from smidgen.data.views import View
from smidgen.maths.kmeans import kmeans
from smidgen.methods import METHODS
from smidgen.methods.base import Method, Problem, Stage
from smidgen.model import Model, Preprocessing
from smidgen.training.callbacks import Callback
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

IMAGES = np.random.default_rng(0).integers(0, 256, (36, 1, 8, 8), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class NoConfig:
    """Nothing to set."""


class Toy(Method):
    """What the three share: a net with features, and a linear layer on top."""

    def __init__(self, config, problem):
        super().__init__()
        self.config, self.problem = config, problem
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh()
        )
        self.top = nn.Linear(16, problem.n_clusters, bias=False)

    @property
    def backbone(self):
        return self.body

    def encode(self, images):
        return self.body(images)

    def assign(self, images):
        return self.top(self.body(images)).softmax(1)


class DeepCluster(Toy):
    """Each epoch: k-means of all embeddings, pseudo-labels, a new top layer with its own SGD, clusters drawn evenly."""

    name = "deepcluster-toy"
    training_only = ("pseudo_labels",)

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.register_buffer("pseudo_labels", torch.zeros(0, dtype=torch.int64))

    def stages(self):
        return [Stage("epochs", 12, begins=(0, 4, 8), schedule="constant")]

    def begin(self, stage, step, embed, generator):
        self.pseudo_labels = kmeans(embed(), self.problem.n_clusters, n_init=1, generator=generator).labels
        nn.init.normal_(self.top.weight, 0, 0.01, generator=generator)

    def request(self, stage, step, generator, *, progress):
        clusters = torch.randint(self.problem.n_clusters, (8,), generator=generator)
        chances = (self.pseudo_labels.cpu() == clusters[:, None]).float() + 1e-9
        return {"images": Request(torch.multinomial(chances, 1, generator=generator)[:, 0], View(flip=True))}

    def loss(self, parts, *, stage, step, progress):
        part = parts["images"]
        return {"total": F.cross_entropy(self.top(self.body(part.images)), self.pseudo_labels[part.indices])}

    def optimisers(self, stage):
        return [
            torch.optim.SGD(self.body.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-5),
            torch.optim.SGD(self.top.parameters(), lr=0.05),
        ]


class SwAV(Toy):
    """Crops of two sizes, a queue of embeddings, prototypes of length one that stand still at first."""

    name = "swav-toy"
    training_only = ("queue",)
    frozen = 4

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.register_buffer("queue", torch.zeros(12, 16))
        self.after_step("", 0)

    def stages(self):
        return [Stage("train", 12)]

    def request(self, stage, step, generator, *, progress):
        rows = torch.randint(self.problem.n_images, (6,), generator=generator)
        large, small = View(crop=0.5, size=8, flip=True), View(crop=0.2, size=5)
        return {"0": Request(rows, large), "1": Request(rows, large), "2": Request(rows, small)}

    def loss(self, parts, *, stage, step, progress):
        assert [part.images.shape[-1] for part in parts.values()] == [8, 8, 5]
        z = [F.normalize(self.body(part.images), dim=1) for part in parts.values()]
        with torch.no_grad():
            codes = (self.top(torch.cat([z[0], self.queue])) / 0.05).softmax(0)[:6]
            codes = codes / codes.sum(1, keepdim=True).clamp_min(1e-9)
        total = -sum((codes * (self.top(other) / 0.1).log_softmax(1)).sum(1).mean() for other in z[1:]) / 2
        self.queue = torch.cat([z[0].detach(), self.queue])[:12]
        return {"total": total}

    def before_step(self, stage, step):
        if step < self.frozen:
            self.top.weight.grad = None

    @torch.no_grad()
    def after_step(self, stage, step):
        self.top.weight.copy_(F.normalize(self.top.weight, dim=1))


class UCC(Toy):
    """Bags of different sizes with a count each; a decoder that only training needs; k-means at the end."""

    name = "ucc-toy"
    training_only = ("decoder.", "counter.")

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.decoder, self.counter = nn.Linear(16, 64), nn.Linear(16 * 11, 4)
        self.register_buffer("centroids", torch.zeros(problem.n_clusters, 16))

    def stages(self):
        return [Stage("train", 12)]

    def request(self, stage, step, generator, *, progress):
        evidence = self.problem.evidence
        items = torch.randint(len(evidence.count_bags), (3,), generator=generator)
        bags = [evidence.members[evidence.offsets[b] : evidence.offsets[b + 1]] for b in evidence.count_bags[items]]
        offsets = torch.tensor([0, *itertools.accumulate(map(len, bags))])
        return {"bags": Request(torch.cat(bags), offsets=offsets, items=items)}

    def loss(self, parts, *, stage, step, progress):
        part = parts["bags"]
        features = self.body(part.images)
        points = torch.linspace(-1, 1, 11)
        kernels = -((features[:, :, None] - points) ** 2) / 0.02
        laws = [
            kernels[start:stop].logsumexp(0).log_softmax(1).exp().flatten()
            for start, stop in itertools.pairwise(part.offsets.tolist())
        ]
        counts = self.problem.evidence.counts_min[part.items.cpu()].to(features.device)
        ucc = F.cross_entropy(self.counter(torch.stack(laws)), counts - 1)
        rebuilt = F.mse_loss(self.decoder(features), part.images.flatten(1))
        return {"total": 0.5 * ucc + 0.5 * rebuilt, "ucc": ucc, "reconstruction": rebuilt}

    def finish(self, embed, generator):
        self.centroids = kmeans(embed(), self.problem.n_clusters, n_init=2, generator=generator).centroids

    def assign(self, images):
        return (-torch.cdist(self.body(images), self.centroids, compute_mode="donot_use_mm_for_euclid_dist")).softmax(1)


TOYS = [DeepCluster, SwAV, UCC]


def problem():
    sizes = torch.tensor([2, 5, 3, 1])
    members = torch.randint(36, (int(sizes.sum()),), generator=torch.Generator().manual_seed(0))
    evidence = Resolved(
        36,
        labels=torch.full((36,), -1),
        members=members,
        offsets=F.pad(sizes.cumsum(0), (1, 0)),
        count_bags=torch.arange(4),
        counts_min=torch.tensor([1, 3, 2, 1]),
        counts_max=torch.tensor([1, 3, 2, 1]),
    )
    return Problem(36, (1, 8, 8), 3, (0.5,), (0.3,), evidence)


class Hook(Callback):
    def __init__(self, act=lambda moment: None):
        self.after_step = act


def train(toy, *, folder=None, act=lambda moment: None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = toy(NoConfig(), problem())
    checkpoints = None if folder is None else Checkpoints(folder / "checkpoints")
    settings = Settings(checkpoint_every=5)
    Trainer(method, IMAGES, settings, callbacks=[Hook(act)], checkpoints=checkpoints).train()
    return method.eval()


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("after", [2, 4, 7, 12])
def test_killed_and_resumed_is_the_uninterrupted_training(toy, after, tmp_path):
    def die(moment):
        if moment.step == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(toy, folder=tmp_path, act=die)
    whole = train(toy).state_dict()
    assert all(value.equal(whole[name]) for name, value in train(toy, folder=tmp_path).state_dict().items())


@pytest.mark.parametrize("toy", TOYS)
def test_a_saved_one_predicts_the_same_without_what_only_training_needs(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, toy.name, (toy.__name__, "NoConfig", ""))
    monkeypatch.setattr("smidgen.methods._member", lambda name, index: NoConfig if index else toy)
    model = Model(train(toy), toy.name, Preprocessing(8, 1), ("0", "1", "2"))
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert (loaded.assign(IMAGES) == model.assign(IMAGES)).all()
    assert not any(name.startswith(toy.training_only) for name in _saved_names(tmp_path))


def _saved_names(folder):
    from safetensors import safe_open

    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        return list(file.keys())


def test_deepcluster_relabels_and_renews_its_top_layer_each_epoch():
    tops, labels = [], []

    def look(moment):
        if moment.step in (1, 4, 5, 8, 9):
            tops.append(float(moment.method.top.weight.detach().abs().max()))
            labels.append(moment.method.pseudo_labels.clone())

    train(DeepCluster, act=look)
    assert tops[1] > tops[0] < 0.05
    assert tops[2] < tops[1]
    assert tops[4] < tops[3]
    assert labels[0].equal(labels[1])
    assert not labels[1].equal(labels[2])


def test_swav_keeps_its_prototypes_still_at_first_and_always_of_length_one():
    seen = []
    method = train(SwAV, act=lambda moment: seen.append(moment.method.top.weight.detach().clone()))
    assert all(weight.equal(seen[0]) for weight in seen[:4])
    assert not seen[4].equal(seen[3])
    for weight in seen:
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(3))
    assert float(method.queue.norm(dim=1).min()) > 0.99


def test_ucc_sees_bags_of_their_own_sizes():
    whole = problem()
    request = UCC(NoConfig(), whole).request("train", 0, torch.Generator().manual_seed(1), progress=0)["bags"]
    for bag, (start, stop) in zip(request.items.tolist(), itertools.pairwise(request.offsets.tolist()), strict=True):
        members = whole.evidence.members[whole.evidence.offsets[bag] : whole.evidence.offsets[bag + 1]]
        assert request.indices[start:stop].equal(members)
