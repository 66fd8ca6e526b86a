"""Wrong labels and pairs that a model has learned by heart are found by what has not learned them."""

import numpy as np
import pytest
import torch

from smidgen.evaluation.explained import explain
from smidgen.evaluation.out_of_fold import out_of_fold
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.simulation import Simulation, simulate

N, CLASSES = 900, 5
NAMES = tuple("abcde")
IDS = np.array([f"{i:03d}" for i in range(N)], dtype=object)
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, CLASSES, N)
VECTORS = (RNG.normal(size=(CLASSES, 20)) * 2.5)[TRUTH] + RNG.normal(size=(N, 20))
VECTORS = VECTORS.astype(np.float32)
PATTERNS = RNG.integers(60, 196, (CLASSES, 1, 8, 8))
IMAGES = (PATTERNS[TRUTH] + 30 * RNG.normal(size=(N, 1, 8, 8))).clip(0, 255).astype(np.uint8)


def known(**settings):
    simulation = Simulation(wrong=0.05, **settings)
    evidence, _ = simulate(simulation, TRUTH, ids=IDS, class_names=NAMES, generator=np.random.default_rng(3))
    return evidence.resolve(IDS, NAMES, CLASSES, keep_contradictory_pairs=True)


def by_heart(evidence):
    """Assignments of a model that is right, but for all that it was told."""
    answers = TRUTH.copy()
    labelled = evidence.labels.numpy() >= 0
    answers[labelled] = evidence.labels.numpy()[labelled]
    for (a, b), same in zip(evidence.pairs.tolist(), evidence.same.tolist(), strict=True):
        if same != (answers[a] == answers[b]):
            answers[b] = answers[a] if same else (answers[a] + 1) % CLASSES
    return np.eye(CLASSES, dtype=np.float32)[answers] * 0.999 + 0.0002


def found(kind, evidence, images):
    """Return the share of wrong pieces among as many first ones, P(wrong) of these and of right ones, the table."""
    p = by_heart(evidence)
    unseen = out_of_fold(images, p, evidence)
    table = explain(p, evidence, image_ids=IDS, cluster_names=NAMES, unseen=unseen).tables[kind]
    if kind == "labels":
        wrong = [
            TRUTH[int(image)] != NAMES.index(given) for image, given in zip(table["image"], table["label"], strict=True)
        ]
    else:
        rows = zip(table["image_a"], table["image_b"], table["same"], strict=True)
        wrong = [(TRUTH[int(a)] == TRUTH[int(b)]) != bool(same) for a, b, same in rows]
    wrong = np.array(wrong)
    assert wrong.sum() > 0
    probability = np.array(table["wrong_probability"])
    return wrong[: wrong.sum()].mean(), probability[wrong], probability[~wrong], table


@pytest.mark.parametrize("images", [VECTORS, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [("labels", {"labels_per_class": 10}), ("labels", {"label_fraction": 1.0}), ("pairs", {"pairs": 200})],
    ids=["few labels", "all labels", "pairs"],
)
def test_wrong_pieces_come_first_though_the_model_agrees_with_them(kind, settings, images):
    evidence = known(**settings)
    at_n, of_wrong, of_right, table = found(kind, evidence, images)
    assert at_n >= 0.8
    assert np.median(of_wrong) > 0.25 > 5 * np.median(of_right)
    assert np.mean(table["agrees"]) < 1
    plain = explain(by_heart(evidence), evidence, image_ids=IDS, cluster_names=NAMES).tables[kind]
    assert np.mean(plain["agrees"]) >= 0.99  # by heart


def test_two_of_fifty_labels():
    labels = np.full(N, -1)
    rows = np.concatenate([np.flatnonzero(k == TRUTH)[:10] for k in range(CLASSES)])
    labels[rows] = TRUTH[rows]
    labels[rows[[3, 27]]] = (TRUTH[rows[[3, 27]]] + 2) % CLASSES
    evidence = Resolved(N, torch.from_numpy(labels), NAMES)
    at_n, of_wrong, of_right, table = found("labels", evidence, VECTORS)
    assert at_n == 1
    assert of_wrong.min() > 0.2 > 5 * of_right.max()
    assert table["agrees"][:3] == [0, 0, 1]


def test_what_an_image_was_said_to_be_has_no_say():
    evidence = known(labels_per_class=10)
    row = int(np.flatnonzero(evidence.labels.numpy() >= 0)[0])
    one = by_heart(evidence)
    other = one.copy()
    other[row] = other[row, ::-1]
    first, second = (out_of_fold(VECTORS, p, evidence).assignments for p in (one, other))
    np.testing.assert_array_equal(first[row], second[row])
    unspoken = evidence.labels.numpy() < 0
    np.testing.assert_array_equal(first[unspoken], one[unspoken].astype(np.float64))


@pytest.mark.parametrize("images", [VECTORS, IMAGES], ids=["vectors", "images"])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 40])
@pytest.mark.parametrize("n_clusters", [1, 3])
def test_few_images_and_clusters_are_borne(n, n_clusters, images):
    labels = torch.arange(n) % n_clusters
    pairs = torch.tensor([[i, i + 1] for i in range(n - 1)], dtype=torch.int64).reshape(-1, 2)
    evidence = Resolved(n, labels, NAMES[:n_clusters], pairs=pairs, same=labels[pairs[:, 0]] == labels[pairs[:, 1]])
    p = np.full((n, n_clusters), 1 / n_clusters, dtype=np.float32)
    for some in (evidence, evidence.replaced(labels=torch.full((n,), -1))):
        unseen = out_of_fold(images[:n], p, some)
        np.testing.assert_allclose(unseen.assignments.sum(1), 1, atol=1e-6)
        assert unseen.together.shape == (len(pairs),)
        assert ((unseen.together > 0) & (unseen.together < 1)).all()
