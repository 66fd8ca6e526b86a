"""The sizes of classes that EM finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.class_prior import estimated_prior, log_prior_by_jackknife


def posteriors(n_of_each, *, sure):
    """Return what a classifier says that takes classes to be of equal size and is right with probability `sure`."""
    generator, n_classes = torch.Generator().manual_seed(0), len(n_of_each)
    classes = torch.repeat_interleave(torch.arange(n_classes), torch.tensor(n_of_each))
    right = torch.rand(len(classes), generator=generator) < sure
    said = torch.where(
        right, classes, (classes + torch.randint(1, n_classes, classes.shape, generator=generator)) % n_classes
    )
    p = torch.full((len(classes), n_classes), (1 - sure) / (n_classes - 1))
    p[torch.arange(len(classes)), said] = sure
    return p


@pytest.mark.parametrize("sizes", [[1000, 1000, 1000], [2000, 600, 200], [100, 2000, 900]])
def test_the_sizes_are_found_although_single_images_are_unsure(sizes):
    found = estimated_prior(posteriors(sizes, sure=0.8), pseudo_counts=0)
    torch.testing.assert_close(found, torch.tensor(sizes) / sum(sizes), atol=0.03, rtol=0)


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=20), st.floats(0.01, 3))
def test_it_is_a_distribution_that_rules_no_class_out(rows, pseudo_counts):
    p = torch.tensor(rows)
    found = estimated_prior(p / p.sum(1, keepdim=True), pseudo_counts=pseudo_counts)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    assert (found > 0).all()


def test_more_pseudo_counts_are_nearer_to_equal_sizes():
    p = posteriors([90, 10], sure=0.9)
    few, many = (estimated_prior(p, pseudo_counts=n).max() for n in (0.0, 3.0))
    assert 0.5 < many < few


@pytest.mark.parametrize("options", [{"pseudo_counts": -1.0}, {"iterations": 0}])
def test_other_arguments_are_refused(options):
    with pytest.raises(InputError, match="must be 1 or above"):
        estimated_prior(torch.eye(2), **options)


def logits_of(sizes, *, sure=0.8):
    return posteriors(sizes, sure=sure).log()


def test_sizes_on_which_all_folds_agree_are_believed():
    z = logits_of([2000, 600, 200])
    found = log_prior_by_jackknife(z, [z] * 5).softmax(0)
    torch.testing.assert_close(found, estimated_prior(z.softmax(1)))


def test_sizes_that_change_with_every_fold_are_taken_as_equal():
    z = logits_of([2000, 600, 200])
    folds = [logits_of(sizes) for sizes in ([200, 2000, 600], [600, 200, 2000], [2000, 600, 200])]
    assert log_prior_by_jackknife(z, folds).abs().max() == 0
