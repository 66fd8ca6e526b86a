"""Bags are predicted by the exact law of their images, and gathered bags of a good model are counted right."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import dirichlet

from smidgen.evaluation.bag_predictions import predict_bags
from smidgen.evidence.bag_laws import Calibration, gathered, random_count_log_law
from smidgen.evidence.evidence import Evidence

BARE = Calibration(leak=0, gathering=0)


def resolved(bags, n):
    return Evidence.from_bags(bags).resolve([str(i) for i in range(n)])


def test_bare_law_is_that_of_all_assignments_counted():
    p = dirichlet.rvs([1, 1, 1], size=4, random_state=0)
    law = np.zeros(3)
    for choice in product(range(3), repeat=4):
        law[len(set(choice)) - 1] += np.prod(p[np.arange(4), choice])
    found = predict_bags(p, resolved([[0, 1, 2, 3]], 4), calibration=BARE)
    assert found.law[0] == pytest.approx(law, abs=1e-12)
    assert found.shares[0] == pytest.approx(p.mean(0))


def test_random_law_is_that_of_all_choices_counted():
    counts = [len(set(choice)) for choice in product(range(4), repeat=3)]
    law = np.exp(random_count_log_law(np.array([3]), n_clusters=4, max_count=4))[0]
    assert law == pytest.approx(np.bincount(counts, minlength=5)[1:] / 64)


def test_full_gathering_is_bayes_rule_for_count_then_clusters_then_images():
    """Against enumeration: the count is drawn first, every class vector of that count is as likely."""
    p = dirichlet.rvs([1, 1, 1], size=3, random_state=1)
    law = np.zeros(3)
    vectors = list(product(range(3), repeat=3))
    held = np.array([len(set(v)) for v in vectors])
    for vector, u in zip(vectors, held, strict=True):
        law[u - 1] += np.prod(p[np.arange(3), vector]) / (held == u).sum()
    found = predict_bags(p, resolved([[0, 1, 2]], 3), calibration=Calibration(leak=0, gathering=1))
    assert found.law[0] == pytest.approx(law / law.sum())


def test_one_mistaken_image_among_many_does_not_make_a_cluster():
    p = np.full((32, 10), 0.0)
    p[:16, 0], p[16:31, 1], p[31, 2] = 1, 1, 1
    bag = resolved([range(32)], 32)
    assert predict_bags(p, bag, calibration=BARE).unique_counts.tolist() == [3]
    assert predict_bags(p, bag, calibration=Calibration(leak=0.01, gathering=1)).unique_counts.tolist() == [2]


def test_a_bag_is_predicted_alike_alone_and_beside_a_large_one():
    """Of 20 clusters: three images need few subsets of clusters, fifty need too many."""
    p = dirichlet.rvs([0.2] * 20, size=53, random_state=3)
    alone, beside = predict_bags(p, resolved([[0, 1, 2]], 53)), predict_bags(p, resolved([[0, 1, 2], range(3, 53)], 53))
    assert beside.law[0, :3] == pytest.approx(alone.law[0], abs=1e-12)


def test_law_of_many_bags_in_stretches_is_that_of_each_alone(monkeypatch):
    p = dirichlet.rvs([0.2] * 5, size=60, random_state=2)
    bags = [list(range(b, b + 1 + b % 7)) for b in range(50)]
    whole = predict_bags(p, resolved(bags, 60))
    monkeypatch.setattr("smidgen.evidence.bag_laws._IMAGES", 11)
    seen = []
    stretches = predict_bags(p, resolved(bags, 60), progress=lambda *at: seen.append(at))
    assert stretches.law == pytest.approx(whole.law)
    assert stretches.shares == pytest.approx(whole.shares)
    assert seen[-1] == (50, 50)
    assert len(seen) > 10


def test_table_has_a_row_for_each_bag_and_names_clusters():
    p = np.eye(3)[[0, 0, 1]]
    table = predict_bags(p, resolved({"x": [0, 1, 2], "y": [0]}, 3)).columns(["cat", "dog", "=cow"])
    assert table["bag"] == ["x", "y"]
    assert table["n_images"] == [3, 1]
    assert table["ucc"][1] == 1
    assert table["p(ucc=2)"][1] == table["p(ucc=3)"][1] == 0  # of one image
    assert table["share(cat)"] == [0.666667, 1]
    assert table["images(dog)"] == [1, 0]
    assert sum(table[f"p(ucc={u})"][0] for u in (1, 2, 3)) == pytest.approx(1, abs=1e-5)


def test_many_clusters_and_large_bags_stay_finite():
    p = dirichlet.rvs([0.02] * 40, size=700, random_state=3)
    found = predict_bags(p.astype(np.float32), resolved([range(700), [3]], 700))
    assert np.isfinite(found.law).all()
    assert found.law.sum(1) == pytest.approx(np.ones(2))
    assert found.law.shape == (2, 40)


def test_no_bags_are_no_rows():
    found = predict_bags(np.eye(2), Evidence().resolve(["0", "1"]))
    assert found.columns(["a", "b"])["bag"] == []


def test_impossible_counts_have_no_probability_whatever_the_gathering():
    law = gathered(np.zeros((1, 3)), random_count_log_law(np.array([2]), n_clusters=3, max_count=3), gathering=0)
    assert law.tolist() == [[0.5, 0.5, 0]]
