"""The contract carries the papers: tiny methods with what DeepCluster, SeLa, SwAV and UCC need, and nothing more."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pretend_device import DEVICE, pretend_device
from smidgen.data.batches import Request
from smidgen.data.views import View
from smidgen.evidence.resolved import Resolved
from smidgen.maths.kmeans import kmeans
from smidgen.maths.pca import fit_pca
from smidgen.maths.schedules import between, in_steps, warmed_up
from smidgen.maths.sinkhorn import sinkhorn
from smidgen.maths.transport import balanced_labels, scale_columns
from smidgen.methods import METHODS
from smidgen.methods.base import Method, Problem, Stage
from smidgen.methods.host_copies import HostCopies
from smidgen.model import Model, Preprocessing
from smidgen.options import Options
from smidgen.training.callbacks import Callback
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

IMAGES = np.random.default_rng(0).integers(0, 256, (36, 1, 8, 8), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class NoConfig(Options):
    """Nothing to set."""


class Toy(Method):
    """What they share: a net with features, and a linear layer on top."""

    def __init__(self, config, problem):
        super().__init__()
        self.config, self.problem = config, problem
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh()
        )
        self.top = nn.Linear(16, problem.n_clusters, bias=False)

    def encode(self, images):
        return self.body(images)

    def assign(self, images):
        return self.top(self.body(images)).softmax(1)


class DeepCluster(Toy):
    """Each epoch: whitened components of embeddings, k-means, pseudo-labels, a new top layer, clusters drawn evenly.

    Both optimisers have momentum; that of the old top layer is forgotten with it.
    """

    name = "deepcluster-toy"
    training_only = ("drawn_labels",)

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.register_buffer("drawn_labels", torch.zeros(0, dtype=torch.int64))
        self.on_host = HostCopies()

    def stages(self):
        return [Stage("epochs", 12, begins=(0, 4, 8), schedule="constant")]

    def begin(self, stage, step, embed, generator):
        pca = fit_pca(lambda: (outputs for _, outputs in embed.blocks()), 4, whiten=True, l2=True)
        points = embed.on_device(lambda images: pca.transform(self.encode(images)))
        self.drawn_labels = kmeans(points, self.problem.n_clusters, n_init=1, generator=generator).labels
        nn.init.normal_(self.top.weight, 0, 0.01, generator=generator)
        return self.top.parameters()

    def rows_of_clusters(self, labels):
        return [(labels == k).nonzero().flatten() for k in range(self.problem.n_clusters)]

    def request(self, stage, step, generator, *, progress):
        members = self.on_host("members", self.drawn_labels, self.rows_of_clusters)
        members = [rows for rows in members if len(rows)]
        rows = [each[torch.randint(len(each), (8 // len(members),), generator=generator)] for each in members]
        return {"images": Request(torch.cat(rows), View(flip=True))}

    def loss(self, parts, *, stage, step, progress):
        part = parts["images"]
        return {"total": F.cross_entropy(self.top(self.body(part.images)), self.drawn_labels[part.indices])}

    def optimisers(self, stage):
        return [
            torch.optim.SGD(self.body.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-5),
            torch.optim.SGD(self.top.parameters(), lr=0.05, momentum=0.9),
        ]


class SeLa(Toy):
    """Labels of all images by several heads, balanced at chosen steps while scores stream by: never all at once."""

    name = "sela-toy"
    training_only = ("labels", "heads.")
    n_heads, sharpness = 2, 5.0

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.heads = nn.Linear(16, (self.n_heads - 1) * problem.n_clusters)
        self.register_buffer("labels", torch.zeros(self.n_heads, problem.n_images, dtype=torch.int64))

    def stages(self):
        return [Stage("train", 12, begins=(0, 3, 7, 10), schedule=in_steps([150 / 400, 300 / 400, 350 / 400]))]

    def logits(self, images):
        features = self.body(images)
        return torch.cat([self.top(features), self.heads(features)], 1).unflatten(1, (self.n_heads, -1))

    def begin(self, stage, step, embed, generator):
        n_clusters = self.problem.n_clusters
        marginals = torch.full((n_clusters,), 1 / n_clusters, device=self.labels.device)
        for head in range(self.n_heads):

            def blocks(head=head):
                return (self.sharpness * logits[:, head] for _, logits in embed.blocks(self.logits))

            self.labels[head] = balanced_labels(blocks, scale_columns(blocks, marginals=marginals).log_scale)

    def request(self, stage, step, generator, *, progress):
        return {"images": Request(torch.randint(self.problem.n_images, (8,), generator=generator), View(flip=True))}

    def loss(self, parts, *, stage, step, progress):
        part = parts["images"]
        labels = self.labels[:, part.indices].T.flatten()
        return {"total": F.cross_entropy(self.logits(part.images).flatten(0, 1), labels)}

    def optimisers(self, stage):
        return [torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)]


class SwAV(Toy):
    """Crops of two sizes of the same rows, a queue of embeddings, prototypes of length one that are frozen at first."""

    name = "swav-toy"
    training_only = ("queue",)
    frozen = 4

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.register_buffer("queue", torch.zeros(12, 16))
        self.after_step("", 0)

    def stages(self):
        return [Stage("train", 12, schedule=warmed_up(between(1, 0.001), share=0.25))]

    def request(self, stage, step, generator, *, progress):
        rows = torch.randint(self.problem.n_images, (6,), generator=generator)
        large, small = View(crop=0.5, size=8, flip=True), View(crop=0.2, size=5)
        return {"crops": Request(rows, (large, large, small, small))}

    def loss(self, parts, *, stage, step, progress):
        crops = parts["crops"].views
        assert [crop.shape[-1] for crop in crops] == [8, 8, 5, 5]
        assert not crops[0].equal(crops[1])
        z = [F.normalize(self.body(crop), dim=1) for crop in crops]
        with torch.no_grad():
            codes = [sinkhorn(self.top(torch.cat([one, self.queue])) / 0.05)[:6] for one in z[:2]]
        swaps = [(codes[i], other) for i in (0, 1) for j, other in enumerate(z) if j != i]
        total = -sum((code * (self.top(other) / 0.1).log_softmax(1)).sum(1).mean() for code, other in swaps)
        self.queue = torch.cat([z[0].detach(), self.queue])[:12]
        return {"total": total / len(swaps)}

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
        points = torch.linspace(-1, 1, 11, device=features.device)
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


TOYS = [DeepCluster, SeLa, SwAV, UCC]


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


@pytest.fixture
def registered(monkeypatch):
    """Return a function that makes a toy a method by its name."""

    def register(toy):
        monkeypatch.setitem(METHODS, toy.name, (toy.__name__, "NoConfig", ""))
        monkeypatch.setattr("smidgen.methods._member", lambda name, index: NoConfig if index else toy)

    return register


class Hook(Callback):
    def __init__(self, act=lambda moment: None):
        self.after_step = act


def train(toy, *, folder=None, act=lambda moment: None, device="cpu"):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = toy(NoConfig(), problem())
    checkpoints = None if folder is None else Checkpoints(folder / "checkpoints")
    settings = Settings(checkpoint_every=5, device=torch.device(device))
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


def state(method):
    return {name: value.cpu() for name, value in method.state_dict().items()}


@pytest.mark.parametrize("toy", TOYS)
def test_it_trains_resumes_saves_and_loads_on_a_device_as_on_the_cpu(toy, tmp_path, registered):
    def die(moment):
        if moment.step == 7:
            raise KeyboardInterrupt

    registered(toy)
    wanted = state(train(toy))
    with pretend_device():
        with contextlib.suppress(KeyboardInterrupt):
            train(toy, folder=tmp_path, act=die, device=DEVICE)
        method = train(toy, folder=tmp_path, device=DEVICE)
        assert {value.device for value in method.state_dict().values()} == {DEVICE}
        model = Model(method, toy.name, Preprocessing(8, 1), ("0", "1", "2"), DEVICE)
        model.save(tmp_path / "model")
        assignments = Model.load(tmp_path / "model", device=DEVICE).assign(IMAGES)
        found = state(method)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    assert (Model.load(tmp_path / "model").assign(IMAGES) == assignments).all()


@pytest.mark.parametrize("toy", TOYS)
def test_a_saved_one_predicts_the_same_without_what_only_training_needs(toy, tmp_path, registered):
    registered(toy)
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
            labels.append(moment.method.drawn_labels.clone())

    train(DeepCluster, act=look)
    assert tops[1] > tops[0] < 0.05
    assert tops[2] < tops[1]
    assert tops[4] < tops[3]
    assert labels[0].equal(labels[1])
    assert not labels[1].equal(labels[2])


def test_deepcluster_s_new_top_layer_has_no_momentum():
    seen = {}

    def look(moment):
        head = trainer.optimisers[1].state
        seen[moment.step] = float(sum(memory["momentum_buffer"].norm() for memory in head.values()))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = DeepCluster(NoConfig(), problem())
    trainer = Trainer(method, IMAGES, Settings(), callbacks=[Hook(look)])
    gradients = {}
    before_step = method.before_step

    def note(stage, step):
        gradients[step + 1] = float(method.top.weight.grad.norm())
        before_step(stage, step)

    method.before_step = note
    trainer.train()
    for first in (1, 5, 9):
        assert seen[first] == pytest.approx(min(gradients[first], 1.0), rel=0.5)  # the clipped gradient alone
    assert seen[4] > 1.5 * gradients[4]


def test_sela_s_labels_are_balanced_in_every_head_and_change():
    seen = []
    train(SeLa, act=lambda moment: seen.append(moment.method.labels.clone()))
    for labels in seen:
        for head in labels:
            assert torch.bincount(head, minlength=3).min() >= 6  # of 36: 12 each, but for ties of argmax
    assert seen[0].equal(seen[2])
    assert not seen[2].equal(seen[3])


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
