import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from smidgen.data.batches import Part
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.simulation import Simulation, simulate
from smidgen.methods import fusion_embeddings, make_config, make_method
from smidgen.methods.base import Problem
from smidgen.methods.voting_heads import VotingHeads
from smidgen.nets.composed import Projected
from smidgen.training.embed import map_images
from smidgen.training.loop import Settings, Trainer

CENTRES, NOISE, N = 5, 3.0, 600
X, CLASSES = make_blobs(n_samples=N, centers=CENTRES, n_features=24, cluster_std=NOISE, random_state=3)
IMAGES = X.astype(np.float32)
IDS = [f"{row:03d}" for row in range(N)]
NAMES = tuple("abcde")


def known(**what):
    evidence, _ = simulate(Simulation(**what), CLASSES, ids=IDS, class_names=NAMES, generator=np.random.default_rng(0))
    return evidence.resolve(np.array(IDS, dtype=object), n_clusters=CENTRES)


def fitted(evidence=None, **options):
    options = {"batch_size": 256, "steps": 120, "refine_steps": 120, "refine_batch_size": 128} | options
    problem = Problem(N, (24,), CENTRES, (0.0,) * 24, (1.0,) * 24, evidence or Resolved.nothing(N))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = make_method("fusion-embeddings", make_config("fusion-embeddings", options), problem)
    Trainer(method, IMAGES, Settings(seed=0), callbacks=[]).train()
    return method.eval()


def assignments(method):
    return map_images(method.assign, IMAGES, method=method, device=torch.device("cpu")).numpy()


def accuracy(method):
    return clustering_accuracy(CLASSES, assignments(method).argmax(1))


def named(method):
    return (assignments(method).argmax(1) == CLASSES).mean()


@pytest.fixture(scope="module")
def alone():
    return fitted()


# ------------------------------------------------------------------------------------------------------------ trainings


def test_it_finds_the_clusters_without_evidence(alone):
    assert accuracy(alone) > 0.9
    assert [stage.name for stage in alone.stages()] == ["cluster", "select"]


def test_votes_are_as_sure_as_neighbours_agree(alone):
    p = assignments(alone)
    labels = p.argmax(1)
    agreement = (labels[alone.neighbours[:, :10].numpy()] == labels[:, None]).mean()
    assert p.max(1).mean() == pytest.approx(agreement, abs=0.02)


def test_clusters_without_names_have_the_given_shares_the_largest_the_largest():
    shares = assignments(fitted(steps=40, prior="1,2,3,2,2")).mean(0)
    np.testing.assert_allclose(np.sort(shares), [0.1, 0.2, 0.2, 0.2, 0.3], atol=0.06)


def test_heads_are_released_from_equal_shares_late_in_both_of_their_stages(monkeypatch):
    seen, scored = [], []
    monkeypatch.setattr(VotingHeads, "losses", recorded(VotingHeads.losses, exponent=seen, scored=scored))
    fitted(steps=20)
    assert set(seen) == {1}  # so few steps form no clusters
    seen.clear(), scored.clear()
    monkeypatch.setattr(fusion_embeddings, "FORMED", 5)
    fitted(steps=20)
    assert seen[:9] == [1] * 9
    assert seen[9:] == sorted(seen[9:], reverse=True)
    assert seen[-1] < 0.4
    assert scored == [exponent == 1 for exponent in seen]  # or heads with merged clusters would be the best


def recorded(function, **into):
    def records(self, *args, **options):
        for name, seen in into.items():
            seen.append(options[name])
        return function(self, *args, **options)

    return records


def test_labels_of_all_classes_are_learned_without_training_anything():
    method = fitted(known(labels_per_class=20))
    assert method.stages() == []
    assert named(method) > 0.9


def test_labels_of_some_classes_only_still_train_heads():
    evidence = known(labels_per_class=20)
    some = evidence.replaced(labels=evidence.labels.where(evidence.labels > 0, -1))
    method = fitted(some, steps=40)
    assert [stage.name for stage in method.stages()] == ["cluster", "select"]
    assert accuracy(method) > 0.9


def test_labels_of_all_classes_and_bags_train_the_net_alone():
    method = fitted(known(labels_per_class=5, n_bags=40, ucc=(1, 3), bag_size=12), refine_steps=40)
    assert [stage.name for stage in method.stages()] == ["refine"]
    assert named(method) > 0.9


def test_more_labels_are_never_worse(alone):
    some, many = (named(fitted(known(labels_per_class=n), steps=40)) for n in (2, 40))
    assert many > some - 0.01


def test_voters_speak_of_the_same_clusters(alone):
    heads = alone.heads
    p = heads(alone.projected)[:, heads.voters].softmax(-1).gather(2, heads.order.expand(N, -1, -1)).argmax(-1)
    assert ((p == p[:, :1]).float().mean(0) > 0.8).all()


def test_one_label_per_class_names_the_clusters_and_does_not_hurt(alone):
    method = fitted(known(labels_per_class=1))
    assert named(method) > accuracy(alone) - 0.03


@pytest.mark.parametrize(
    "what",
    [
        {"n_bags": 80, "ucc": (2, 3), "bag_size": 12},
        {"n_bags": 80, "ucc": (1, 3), "bag_size": 12},
        {"n_bags": 80, "ucc": (1, 3), "bag_size": 12, "composition": "random", "wrong": 0.1},
        {"n_bags": 80, "ucc": (1, 3), "bag_size": 12, "proportions": True, "counts": False},
        {"pairs": 200},
    ],
)
def test_evidence_does_not_hurt(alone, what):
    evidence = known(**what)
    method = fitted(evidence)
    assert accuracy(method) > accuracy(alone) - 0.02
    if "proportions" in what:
        assert named(method) == accuracy(method)


@pytest.mark.parametrize("what", [{}, {"proportions": True, "counts": False}])
def test_shares_of_unequal_classes_are_learned_from_bags(what):
    rows = np.concatenate([np.flatnonzero(k == CLASSES)[: max(12, 120 >> k)] for k in range(CENTRES)])
    classes, n = CLASSES[rows], len(rows)
    evidence, _ = simulate(
        Simulation(n_bags=80, ucc=(1, 3), bag_size=12, **what),
        classes, ids=IDS[:n], class_names=NAMES, generator=np.random.default_rng(0),
    )  # fmt: skip
    evidence = evidence.resolve(np.array(IDS[:n], dtype=object), n_clusters=CENTRES)
    options = {"batch_size": 128, "steps": 120, "refine_steps": 120, "refine_batch_size": 64}
    problem = Problem(n, (24,), CENTRES, (0.0,) * 24, (1.0,) * 24, evidence)
    for prior, wanted in (("learned", np.bincount(classes) / n), ("uniform", np.full(CENTRES, 0.2))):
        method = make_method("fusion-embeddings", make_config("fusion-embeddings", options | {"prior": prior}), problem)
        Trainer(method, IMAGES[rows], Settings(seed=0), callbacks=[]).train()
        np.testing.assert_allclose(np.sort(method.learner.prior), np.sort(wanted), atol=0.04)


def test_without_bags_clusters_are_drawn_to_equal_shares():
    method = fitted(known(pairs=200), refine_steps=40)
    assert torch.equal(method.learner.prior, torch.full((CENTRES,), 1 / CENTRES))


def test_pure_bags_label_their_images():
    method = fitted(known(n_bags=60, ucc=(1, 2), bag_size=10), refine_steps=1)
    anchors = method.learner.anchors.numpy()
    assert (anchors >= 0).sum() > 100
    assert clustering_accuracy(CLASSES[anchors >= 0], anchors[anchors >= 0]) > 0.95


def test_wrong_counts_cost_little_and_are_found():
    method = fitted(known(n_bags=120, ucc=(1, 3), bag_size=12, wrong=0.2), steps=60, refine_steps=60)
    evidence = method.terms.evidence
    members, ends = evidence.images_of(evidence.count_bags)
    truth = [len(set(CLASSES[rows].tolist())) for rows in members.numpy()[: ends[-1]].reshape(-1, 12)]
    is_wrong = evidence.counts_min.numpy() != truth
    found = method.terms.target("count_right").numpy() < 0.5
    assert is_wrong.sum() > 15
    assert found[is_wrong].mean() > 0.8
    assert found[~is_wrong].mean() < 0.03
    anchors = method.learner.anchors.numpy()  # images of bags that are wrongly said to hold one class have no label
    assert clustering_accuracy(CLASSES[anchors >= 0], anchors[anchors >= 0]) > 0.98


# ----------------------------------------------------------------------------------------------------- starts from it


def offered(method):
    """Return what the softmax layer says that another run may start from."""
    weight, bias = method.starting_point.head
    net = method.starting_point.net.eval()
    return map_images(
        lambda images: (net(images) @ weight.T + bias).softmax(1), IMAGES, method=method, device=torch.device("cpu")
    ).numpy()


def test_other_runs_start_from_what_it_says_after_evidence():
    method = fitted(known(n_bags=40, ucc=(1, 3), bag_size=12), components=20, hidden=40, refine_steps=20)
    assert method.starting_point.encoder == Projected(20, 40)
    np.testing.assert_allclose(offered(method), assignments(method), atol=1e-6)


def test_without_evidence_other_runs_start_from_nearly_the_same_on_the_projection(alone):
    assert alone.starting_point.encoder == Projected(256)
    assert (offered(alone).argmax(1) == assignments(alone).argmax(1)).mean() > 0.95


def test_of_many_images_the_net_starts_from_what_heads_and_labels_say():
    method = fitted(known(labels_per_class=5), small=0, steps=1, refine_steps=1)
    heads = method.heads.ensemble(method.projected).argmax(1).numpy()
    assert (method.learner.start.argmax(1).numpy() == CLASSES).mean() > max(0.9, (heads == CLASSES).mean() + 0.02)


@pytest.fixture(scope="module")
def many():
    """A fit as of many images: heads alone."""
    return fitted(small=0)


def test_of_many_images_heads_alone_find_the_clusters(many):
    assert accuracy(many) > 0.9
    assert not many.layer.learned
    assert [stage.name for stage in fitted(known(labels_per_class=1), small=0, steps=2).stages()][-1] == "refine"


def test_of_few_images_a_step_has_fewer(alone, many):
    sizes = []
    for method in (alone, many):
        options = {"batch_size": 2048, "small": method.config.small}
        method = make_method("fusion-embeddings", make_config("fusion-embeddings", options), method.problem)
        method.neighbours = torch.zeros(N, 1, dtype=torch.int32)
        sizes.append(len(method.request("cluster", 0, torch.Generator(), progress=0)["images"].indices))
    assert sizes == [512, 2048]


def test_of_many_images_other_runs_start_from_the_mean_of_the_voters_logits(many):
    heads = many.heads
    logs = heads(many.projected)[:, heads.voters].log_softmax(-1).gather(2, heads.order.expand(N, -1, -1))
    wanted = (heads.sharpness * logs.mean(1)).softmax(-1).detach()
    np.testing.assert_allclose(offered(many), wanted.numpy(), atol=1e-5)
    assert (offered(many).argmax(1) == assignments(many).argmax(1)).mean() > 0.95


def test_counts_whose_sets_are_too_many_go_by_their_likelihood(monkeypatch):
    monkeypatch.setattr("smidgen.evidence.bag_labels.MOST_SETS", 3)
    method = fitted(known(n_bags=40, ucc=(2, 3), bag_size=8), steps=20, refine_steps=3)
    assert method.learner.sets.shape == (CENTRES, 0)
    assert "counts" in method.evidence_use.chance_losses


@pytest.mark.parametrize("values", [1, 2, 3])
@pytest.mark.parametrize("small", [600, 1])  # the second as of many images
def test_vectors_of_few_values_are_clustered_by_length_too(values, small):
    centres = 8.0 * np.arange(4)[:, None] * np.ones(values)
    x, classes = make_blobs(n_samples=240, centers=centres, random_state=0)
    problem = Problem(240, (values,), 4, (0.0,) * values, (1.0,) * values, Resolved.nothing(240))
    config = make_config("fusion-embeddings", {"steps": 40, "batch_size": 128, "small": small})
    method = make_method("fusion-embeddings", config, problem)
    x = x.astype(np.float32)
    Trainer(method, x, Settings(seed=0), callbacks=[]).train()
    found = map_images(method.eval().assign, x, method=method, device=torch.device("cpu")).argmax(1).numpy()
    assert clustering_accuracy(classes, found) > 0.99


def test_time_that_runs_short_still_forms_clusters_and_hands_over_to_the_evidence():
    problem = Problem(N, (24,), CENTRES, (0.0,) * 24, (1.0,) * 24, known(n_bags=40, ucc=(1, 3), bag_size=12))
    options = {"batch_size": 256, "steps": 240, "refine_steps": 40, "refine_batch_size": 128}
    method = make_method("fusion-embeddings", make_config("fusion-embeddings", options), problem)
    trainer = Trainer(method, IMAGES, Settings(seed=0, max_seconds=1e-3), callbacks=[])
    trainer.train()
    assert trainer.progress.cuts == {"cluster": [24, 120], "select": [24, 120], "refine": [1, 40]}
    assert clustering_accuracy(CLASSES, method.eval().heads.ensemble(method.projected).argmax(1)) > 0.9
    parts = {"images": Part(torch.zeros(0), torch.arange(64))}  # at the first step, by the clock: votes count no more
    assert method.loss(parts, stage="refine", step=0, progress=39)["begun"].item() == 0
