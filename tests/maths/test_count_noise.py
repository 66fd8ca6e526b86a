"""Which unique counts are wrong: the learned rate, each count's probability, and what may not disturb them."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from smidgen.maths.count_noise import PIECES, count_noise


def counts_and_law(n, *, wrong, spread, shift=0.0, seed=0):
    """Return log laws (n, 3), given (n, 3) bool and which are wrong; laws are `shift` nats per count too high."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    law = rng.normal(0, spread, (n, 3)) + 4 * np.eye(3)[true] + shift * np.arange(3)
    is_wrong = rng.random(n) < wrong
    stated = np.where(is_wrong, (true + rng.integers(1, 3, n)) % 3, true)
    return torch.from_numpy(law), torch.from_numpy(np.eye(3, dtype=bool)[stated]), is_wrong


def all_of(given):
    return torch.ones_like(given)


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (20.0, 0.0), (1.0, 9.0)])  # too sure; too many classes
def test_rate_and_wrong_counts_are_found_however_the_law_is_off(wrong, scale, shift):
    law, given, is_wrong = counts_and_law(1000, wrong=wrong, spread=1.0, shift=shift)
    found = count_noise(scale * law, given, all_of(given))
    assert found.wrong == pytest.approx(wrong, abs=0.03)
    assert (1 - found.right).mean() == pytest.approx(wrong, abs=0.03)
    if wrong:
        assert roc_auc_score(is_wrong, 1 - found.right.numpy()) > 0.97


def test_probability_is_the_one_of_the_mixture_with_its_rate():
    law, given, _ = counts_and_law(400, wrong=0.2, spread=1.0)
    found = count_noise(law, given, all_of(given))
    e, wrong = found.random, 1 - found.right.double()
    p = e / 3 * (1 - wrong) / (e / 3 + wrong * (1 - e))  # wrong = ε / 3 · (1 − p) / ((1 − ε) p + ε / 3)
    assert found.wrong == pytest.approx(e * 2 / 3)
    mixed = (1 - e) * p + e / 3
    assert found.log_likelihood == pytest.approx(float(mixed.log().sum()), rel=1e-3)


def test_a_law_that_says_nothing_leaves_what_was_expected():
    given = torch.eye(3, dtype=torch.bool).repeat(50, 1)
    found = count_noise(torch.zeros(150, 3), given, all_of(given), expected=0.2)
    assert found.random == pytest.approx(0.2, abs=0.05)


def test_few_counts_hardly_move_the_rate():
    law, given, _ = counts_and_law(3, wrong=0.0, spread=0.1)
    assert count_noise(law, given, all_of(given), expected=0.3).random == pytest.approx(
        0.3 * PIECES / (PIECES + 3), abs=0.1
    )


def test_a_range_of_all_counts_is_right_for_sure_and_teaches_nothing():
    law, given, _ = counts_and_law(200, wrong=0.1, spread=1.0)
    whole = torch.ones(50, 3, dtype=torch.bool)
    alone = count_noise(law, given, all_of(given))
    found = count_noise(torch.cat([law, torch.randn(50, 3)]), torch.cat([given, whole]), torch.ones(250, 3).bool())
    assert found.random == pytest.approx(alone.random, abs=0.01)
    assert (found.right[200:] == 1).all()


def test_impossible_counts_are_no_part_of_the_law():
    law, given, _ = counts_and_law(200, wrong=0.1, spread=1.0)
    more = torch.cat([law, torch.full((200, 1), -700.0, dtype=law.dtype)], 1)
    wide = torch.cat([given, torch.zeros(200, 1, dtype=torch.bool)], 1)
    admissible = torch.ones_like(wide)
    admissible[:, 3] = False
    found, plain = count_noise(more, wide, admissible), count_noise(law, given, all_of(given))
    assert found.random == pytest.approx(plain.random, abs=1e-3)
    torch.testing.assert_close(found.right, plain.right, atol=1e-3, rtol=0)


def test_laws_of_extreme_numbers_give_finite_answers():
    law = torch.tensor([[0.0, -700.0], [-700.0, 0.0], [-1e5, 0.0]])
    given = torch.tensor([[True, False], [True, False], [False, True]])
    found = count_noise(law, given, all_of(given))
    assert torch.isfinite(found.right).all()
    assert math.isfinite(found.log_likelihood)
