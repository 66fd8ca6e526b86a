"""The laws of the unique class count against enumeration, exact fractions, each other, and in every corner."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.maths.counts import admissible_counts, count_loss, unique_count_log_probabilities

LAWS = ["subsets", "sequential", "independent"]
EXACT = ["subsets", "sequential"]


def draw(n_images, n_clusters, *, seed=0, spread=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n_images, n_clusters, generator=generator, dtype=torch.float64)).softmax(1).to(dtype)


def enumerate_counts(p):
    """The law by summing over all K^n assignments."""
    law = [0.0] * p.shape[1]
    for choice in itertools.product(range(p.shape[1]), repeat=len(p)):
        law[len(set(choice)) - 1] += math.prod(float(row[k]) for row, k in zip(p, choice, strict=True))
    return torch.tensor(law, dtype=torch.float64)


def fractions_law(p, max_count):
    """The law by inclusion–exclusion in exact fractions, for bags too large to enumerate."""
    rows, n_clusters = [[Fraction(float(x)) for x in row] for row in p], p.shape[1]
    a = [sum(math.prod(sum(row[k] for k in subset) for row in rows)
             for subset in itertools.combinations(range(n_clusters), t)) for t in range(1, max_count + 1)]  # fmt: skip
    return [sum((-1) ** (u - t) * math.comb(n_clusters - t, u - t) * a[t - 1] for t in range(1, u + 1))
            for u in range(1, max_count + 1)]  # fmt: skip


def sure(n_images, n_clusters, *, n_present, leak):
    """Assignments that are sure of `n_present` clusters but for a leak."""
    p = torch.full((n_images, n_clusters), leak / (n_clusters - 1), dtype=torch.float64)
    p[torch.arange(n_images), torch.arange(n_images) % n_present] = 1 - leak
    return p


@pytest.mark.parametrize("law", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_images", "n_clusters"), [(1, 3), (2, 2), (3, 5), (5, 4), (6, 3), (4, 6)])
def test_exact_laws_equal_enumeration_of_all_assignments(law, dtype, n_images, n_clusters):
    p = draw(n_images, n_clusters, seed=n_images, dtype=dtype)
    found = unique_count_log_probabilities(p, torch.tensor([0, n_images]), max_count=n_clusters, law=law)
    torch.testing.assert_close(found.exp()[0], enumerate_counts(p.double()), rtol=1e-10, atol=1e-15)


def test_bags_of_different_sizes_are_worked_on_at_once():
    p, offsets = draw(9, 4), torch.tensor([0, 1, 4, 9])
    together = unique_count_log_probabilities(p, offsets, max_count=3)
    for bag, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        alone = unique_count_log_probabilities(p[start:end], torch.tensor([0, end - start]), max_count=3)
        torch.testing.assert_close(together[bag : bag + 1], alone)


@settings(max_examples=15, deadline=None)
@given(n_images=st.integers(1, 40), n_clusters=st.integers(2, 7), spread=st.floats(0, 8), law=st.sampled_from(LAWS))
def test_every_law_sums_to_one(n_images, n_clusters, spread, law):
    p = draw(n_images, n_clusters, spread=spread)
    found = unique_count_log_probabilities(p, torch.tensor([0, n_images]), max_count=n_clusters, law=law).exp()
    assert float(found.sum()) == pytest.approx(1, abs=1e-9)
    assert float(found[0, n_images:].sum()) == pytest.approx(0, abs=1e-300)


def test_large_even_bag_of_uniform_assignments_has_the_occupancy_law():
    p = torch.full((32, 10), 0.1)
    found = unique_count_log_probabilities(p, torch.tensor([0, 32]), max_count=10, law="subsets").exp()[0]
    surjections = [sum((-1) ** j * math.comb(u, j) * (u - j) ** 32 for j in range(u)) for u in range(1, 11)]
    wanted = [math.comb(10, u) * s / 10**32 for u, s in enumerate(surjections, 1)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=0)  # .1 is float32


@pytest.mark.parametrize("n_present", [1, 3])
@pytest.mark.parametrize("leak", [1e-1, 1e-3, 1e-6, 1e-9])
def test_sequential_law_keeps_twelve_digits_where_subsets_lose_all(n_present, leak):
    p = sure(12, 8, n_present=n_present, leak=leak)
    found = unique_count_log_probabilities(p, torch.tensor([0, 12]), max_count=8, law="sequential")[0]
    for log_probability, exact in zip(found.tolist(), fractions_law(p, 8), strict=True):
        assert log_probability == pytest.approx(math.log(exact), abs=1e-12)


@pytest.mark.parametrize("n_present", [1, 3])
@pytest.mark.parametrize("leak", [1e-1, 1e-3, 1e-6, 1e-9])
def test_subsets_never_err_by_more_than_their_tolerance_of_the_admissible_probability(n_present, leak):
    p, offsets = sure(12, 8, n_present=n_present, leak=leak), torch.tensor([0, 12])
    admissible = torch.tensor([[u >= 2 for u in range(1, 6)]])
    log_p = unique_count_log_probabilities(p, offsets, max_count=5, admissible=admissible, tolerance=1e-6)
    found = log_p.exp()[0, 1:]
    exact = torch.tensor([float(x) for x in fractions_law(p, 5)], dtype=torch.float64)[1:]
    assert float((found - exact).abs().max()) <= 1e-6 * float(exact.sum())


def test_a_bag_without_admissible_digits_is_done_again_and_the_others_are_not():
    pure, mixed = sure(6, 5, n_present=1, leak=1e-12), draw(6, 5)
    p, offsets = torch.cat([mixed, pure, mixed]).requires_grad_(), torch.tensor([0, 6, 12, 18])
    admissible = torch.tensor([[False, True, True]]).expand(3, 3)
    found = unique_count_log_probabilities(p, offsets, max_count=3, admissible=admissible)
    exact = unique_count_log_probabilities(p, offsets, max_count=3, law="sequential")
    torch.testing.assert_close(found[:, 1:], exact[:, 1:], rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(law[:, 1].sum(), p)[0] for law in (found, exact)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("law", LAWS)
def test_gradients_equal_finite_differences(law):
    p = draw(8, 4, spread=1.0).requires_grad_()
    offsets = torch.tensor([0, 3, 8])
    assert torch.autograd.gradcheck(lambda q: unique_count_log_probabilities(q, offsets, max_count=3, law=law), (p,))


def test_independent_law_equals_enumeration_of_independent_presences():
    p = draw(5, 4)
    present = 1 - (1 - p).prod(0)
    wanted = torch.zeros(5, dtype=torch.float64)
    for choice in itertools.product([0, 1], repeat=4):
        wanted[sum(choice)] += math.prod(float(q if c else 1 - q) for q, c in zip(present, choice, strict=True))
    found = unique_count_log_probabilities(p, torch.tensor([0, 5]), max_count=4, law="independent").exp()[0]
    torch.testing.assert_close(found, wanted[1:] / wanted[1:].sum())


def test_auto_takes_the_exact_law_for_few_subsets_and_the_independent_one_for_many():
    offsets = torch.tensor([0, 4])
    few, many = draw(4, 10), draw(4, 100)
    for p, law in ((few, "subsets"), (many, "independent")):
        auto = unique_count_log_probabilities(p, offsets, max_count=4)
        assert torch.equal(auto, unique_count_log_probabilities(p, offsets, max_count=4, law=law))


@pytest.mark.parametrize("law", ["auto", *LAWS])
@pytest.mark.parametrize("n_clusters", [3, 20])
def test_the_law_of_a_bag_does_not_depend_on_the_others(law, n_clusters):
    if law in EXACT and n_clusters > 3:
        return  # too many sets
    sizes = [3, 1, 50, 2]
    p, offsets = draw(sum(sizes), n_clusters, spread=1.0), torch.tensor([0, *itertools.accumulate(sizes)])
    together = unique_count_log_probabilities(p, offsets, max_count=n_clusters, law=law)
    for bag, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        most = min(n_clusters, end - start)
        alone = unique_count_log_probabilities(p[start:end], torch.tensor([0, end - start]), max_count=most, law=law)
        torch.testing.assert_close(together[bag, :most], alone[0], rtol=1e-9, atol=1e-9)
        if law == "auto" and end - start <= 3:
            torch.testing.assert_close(alone[0, :most].exp(), enumerate_counts(p[start:end])[:most])


@pytest.mark.parametrize("n_clusters", [2, 10, 100])
@pytest.mark.parametrize("n_images", [1, 2, 32, 1000])
@pytest.mark.parametrize("kind", ["one-hot", "pure one-hot", "zeros", "uniform", "sharp"])
def test_values_and_gradients_are_finite_everywhere(n_clusters, n_images, kind):
    rows = torch.arange(2 * n_images) % n_clusters
    if kind == "pure one-hot":
        rows = torch.zeros_like(rows)
    p = {
        "zeros": torch.zeros(2 * n_images, n_clusters),
        "uniform": torch.full((2 * n_images, n_clusters), 1 / n_clusters),
        "sharp": draw(2 * n_images, n_clusters, spread=60.0, dtype=torch.float32),
    }.get(kind, torch.eye(n_clusters)[rows])
    p.requires_grad_()
    max_count = min(n_clusters, 3)
    log_p = unique_count_log_probabilities(
        p, torch.tensor([0, n_images, 2 * n_images]), max_count=max_count, admissible=torch.ones(2, max_count) > 0
    )
    loss = count_loss(log_p, torch.tensor([1, 2]), torch.tensor([1, 2])).sum() + log_p.mean()
    loss.backward()
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(p.grad).all()


def test_impossible_admissible_counts_leave_finite_gradients():
    logits = (80 * torch.eye(4)[torch.zeros(64, dtype=torch.int64)]).requires_grad_()  # float32 one-hot, pure bags
    admissible = torch.tensor([[False, True, True]]).expand(2, 3)
    offsets, counts = torch.tensor([0, 32, 64]), torch.tensor([2, 3])
    log_p = unique_count_log_probabilities(logits.softmax(1), offsets, max_count=3, admissible=admissible)
    count_loss(log_p, counts, counts, admissible=admissible).mean().backward()
    assert torch.isfinite(logits.grad).all()


def test_one_half_and_one_half_hand_computed():
    log_p = unique_count_log_probabilities(torch.full((3, 2), 0.5), torch.tensor([0, 3]), max_count=2)
    torch.testing.assert_close(log_p.exp(), torch.tensor([[0.25, 0.75]], dtype=torch.float64))
    loss = count_loss(log_p, torch.tensor([2]), torch.tensor([2]), epsilon=0.1)
    assert float(loss) == pytest.approx(-math.log(0.9 * 0.75 + 0.05))


def test_a_range_counts_every_count_in_it_and_the_whole_range_says_nothing():
    log_p = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64).log()
    part = count_loss(log_p, torch.tensor([1]), torch.tensor([2]), epsilon=0.0)
    whole = count_loss(log_p, torch.tensor([1]), torch.tensor([3]), epsilon=0.1)
    assert float(part) == pytest.approx(-math.log(0.5))
    assert float(whole) == pytest.approx(0, abs=1e-12)


def test_a_wrong_count_costs_at_most_log_counts_over_epsilon():
    log_p = unique_count_log_probabilities(torch.eye(4)[torch.zeros(9, dtype=torch.int64)], torch.tensor([0, 9]),
                                           max_count=4)  # fmt: skip
    loss = count_loss(log_p, torch.tensor([4]), torch.tensor([4]), epsilon=0.1)
    assert float(loss) == pytest.approx(math.log(4 / 0.1))


def test_admissible_counts_of_known_counts_span_the_evidence_up_to_the_bag_size():
    counts = torch.tensor([2, 4])
    found = admissible_counts(counts, counts, torch.tensor([9, 3]), n_clusters=10)
    assert found.tolist() == [[False, True, True, True], [False, True, True, False]]


@pytest.mark.parametrize(("least", "largest"), [([3, 3], [3, 3]), ([2, 2], [4, 4])])
def test_one_count_everywhere_and_ranges_are_judged_among_all_counts(least, largest):
    found = admissible_counts(torch.tensor(least), torch.tensor(largest), torch.tensor([9, 4]), n_clusters=5)
    assert found.tolist() == [[True] * 5, [True] * 4 + [False]]
