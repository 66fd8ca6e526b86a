"""Softmax regression against scikit-learn's, and with soft targets and weights."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression

from smidgen.errors import InputError
from smidgen.maths.softmax_regression import softmax_regression

X, CLASSES = (torch.from_numpy(part) for part in make_blobs(90, 6, centers=3, cluster_std=4.0, random_state=0))
TARGETS = torch.nn.functional.one_hot(CLASSES, 3).double()


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_it_agrees_with_scikit_learn(strength):
    weight, bias = softmax_regression(X, TARGETS, strength=strength, iterations=2000)
    theirs = LogisticRegression(C=strength, tol=1e-9, max_iter=5000).fit(X.numpy(), CLASSES.numpy())
    p = (X.float() @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(p, theirs.predict_proba(X.numpy()), atol=2e-3)


def test_a_row_of_weight_two_counts_as_two_rows():
    weights = 1.0 + (torch.arange(90) < 30)
    once = softmax_regression(X, TARGETS, strength=0.1, weights=weights)
    twice = softmax_regression(torch.cat([X, X[:30]]), torch.cat([TARGETS, TARGETS[:30]]), strength=0.1)
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)


def test_targets_that_say_nothing_give_a_layer_that_says_nothing():
    weight, bias = softmax_regression(X, torch.full((90, 3), 1 / 3), strength=1.0)
    assert weight.abs().max() < 1e-5
    assert bias.abs().max() < 1e-5


def test_a_strength_of_zero_is_refused():
    with pytest.raises(InputError, match="`strength` must be above 0, got 0"):
        softmax_regression(X, TARGETS, strength=0)
