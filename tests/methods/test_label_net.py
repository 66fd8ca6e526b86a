"""Labels of many embeddings: the net that sees all their numbers, and when it is the one that learns."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.methods.label_net import LabelNet
from smidgen.model import Model, Preprocessing
from smidgen.training.embed import map_images
from smidgen.training.loop import Settings, Trainer

N, NUMBERS, K = 600, 24, 5
X, CLASSES = make_blobs(n_samples=N, centers=K, n_features=NUMBERS, cluster_std=3.0, random_state=3)
X = X.astype(np.float32)
NAMES = tuple("abcde")
QUICK = {"small": 0, "steps": 40, "batch_size": 256, "refine_steps": 60, "refine_batch_size": 128, "heads": 8}


def labels(per_class):
    rows = np.concatenate([np.flatnonzero(k == CLASSES)[:per_class] for k in range(K)])
    given = torch.full((N,), -1)
    given[rows] = torch.from_numpy(CLASSES[rows])
    return Resolved.nothing(N).replaced(labels=given, class_names=NAMES)


def with_a_bag(evidence):
    counts = torch.tensor([2])
    bag = {"members": torch.tensor([0, 1]), "offsets": torch.tensor([0, 2]), "bag_names": ("a",)}
    return evidence.replaced(**bag, count_bags=torch.tensor([0]), counts_min=counts, counts_max=counts)


def made(evidence, **options):
    problem = Problem(N, (NUMBERS,), K, tuple(map(float, X.mean(0))), tuple(map(float, X.std(0))), evidence)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method("fusion-embeddings", make_config("fusion-embeddings", QUICK | options), problem)


@pytest.fixture(scope="module")
def fitted():
    method = made(labels(4))
    Trainer(method, X, Settings(seed=0), callbacks=[]).train()
    return method.eval()


def assigned(method):
    return map_images(method.assign, X, method=method, device=torch.device("cpu")).numpy()


def test_labels_of_many_images_are_learned_from_all_numbers(fitted):
    assert isinstance(fitted.learner, LabelNet)
    assert fitted.saved_config.sees == "embeddings"
    assert (assigned(fitted).argmax(1) == CLASSES).mean() > 0.95


def test_a_saved_model_is_the_same_though_it_knows_no_labels(fitted, tmp_path):
    Model(fitted, "fusion-embeddings", Preprocessing(None, None, "pad", {}), NAMES, torch.device("cpu")).save(tmp_path)
    loaded = Model.load(tmp_path)
    np.testing.assert_allclose(assigned(loaded.method), assigned(fitted), atol=1e-6)


def test_other_runs_start_from_the_net_that_sees_all_numbers(fitted):
    start = fitted.starting_point
    weight, bias = start.head
    found = (start.net(torch.from_numpy(X)) @ weight.T + bias).softmax(1)
    assert start.encoder == "vectors"
    np.testing.assert_allclose(found.detach().numpy(), assigned(fitted), atol=1e-5)


@pytest.mark.parametrize(
    ("evidence", "options", "wanted"),
    [
        (labels(4), {}, "embeddings"),
        (labels(4), {"small": 600}, "components"),
        (labels(4), {"sees": "components"}, "components"),
        (with_a_bag(labels(4)), {}, "components"),
        (Resolved.nothing(N), {}, "components"),
    ],
)
def test_what_the_net_sees_is_decided_by_evidence_and_size(evidence, options, wanted):
    assert made(evidence, **options).saved_config.sees == wanted


def test_all_numbers_are_for_labels_alone():
    with pytest.raises(InputError, match="`sees=embeddings` is for labels alone"):
        made(with_a_bag(labels(4)), sees="embeddings")


def test_the_losses_are_those_of_the_equations_where_all_images_are_their_own_partners(monkeypatch):
    method = made(labels(4), warm=0.5)
    net, x = method.learner, torch.from_numpy(X[:8])
    monkeypatch.setattr("smidgen.methods.label_net.mixed_pairs", lambda x: (x, torch.arange(8), torch.ones(8)))
    monkeypatch.setattr("smidgen.methods.label_net.MISSING", 0.0)
    net.start = torch.full((N, K), 1 / K)
    net.net.eval()  # batch norm with its own statistics
    known = torch.tensor([0, 1])
    parts = {"images": Part(x, torch.arange(8)), "labels": Part(x[:2], known, items=known)}
    losses = net.losses(parts, torch.zeros(0), progress=15)  # half of the distillation is over
    log_p, q = net.net(x).log_softmax(1), net(x)
    p, seen = log_p.exp(), net.prior.lerp(q.mean(0), 0.01)
    confidence = torch.tensor(1 / K).lerp(q.amax(1).mean(), 0.01)
    told = q * net.prior / seen
    given = net.labels[:8, None]
    told = torch.where(given >= 0, told * (0.9 * (given == torch.arange(K)) + 0.1 / K), told)
    best, labels_ = (told / told.sum(1, keepdim=True)).max(1)
    used = best >= (confidence * seen / seen.max())[labels_]
    own = torch.where(used, -log_p[torch.arange(8), labels_], 0).mean()
    torch.testing.assert_close(losses["own"], 0.5 * own)
    torch.testing.assert_close(losses["begun"], -0.5 * log_p.mean())
    torch.testing.assert_close(losses["balance"], (p.mean(0) * (K * p.mean(0)).log()).sum())
    parts_of_total = losses["own"] + losses["begun"] + method.config.refine_balance * losses["balance"]
    torch.testing.assert_close(losses["total"], parts_of_total + losses["labels"])
