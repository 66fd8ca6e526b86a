"""Parts of a dataset: as large as asked for, repeatable, and drawn by the seed."""

import dataclasses

import numpy as np
import pytest

from smidgen.data.datasets import open_dataset
from smidgen.data.subsets import choose_images
from smidgen.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits")


def test_a_sample_is_as_large_as_asked_for_and_drawn_by_the_seed(digits):
    one, again, other = (choose_images(digits, images=50, imbalance=None, seed=seed) for seed in (0, 0, 1))
    assert len(set(one.ids)) == 50
    assert one.ids.tolist() == sorted(one.ids) == again.ids.tolist() != other.ids.tolist()
    assert (one.classes == digits.classes[np.isin(digits.ids, one.ids)]).all()


def test_without_wishes_all_images_stay(digits):
    assert choose_images(digits, images=None, imbalance=None, seed=0) is digits


def test_classes_shrink_geometrically(digits):
    part = choose_images(digits, images=None, imbalance=8.0, seed=0)
    shares = np.bincount(part.classes) / np.bincount(digits.classes)
    assert shares == pytest.approx(8.0 ** (-np.arange(10) / 9), abs=0.005)
    assert len(choose_images(digits, images=30, imbalance=8.0, seed=0)) == 30


def test_images_of_unknown_class_stay(digits):
    classes = digits.classes.copy()
    classes[:100] = -1
    part = choose_images(dataclasses.replace(digits, classes=classes), images=None, imbalance=5, seed=0)
    assert set(digits.ids[:100]) <= set(part.ids)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"images": 0}, "`images` must be from 1 to 1438"),
        ({"images": 1439}, "`images` must be from 1 to 1438"),
        ({"imbalance": 0.5}, "`imbalance` must be 1 or above, got 0.5"),
        ({"imbalance": float("nan")}, "`imbalance` must be 1 or above"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(digits, wish, message):
    with pytest.raises(InputError, match=message):
        choose_images(digits, **({"images": None, "imbalance": None, "seed": 0} | wish))


def test_imbalance_needs_classes(digits):
    with pytest.raises(InputError, match="needs images whose classes are known"):
        choose_images(dataclasses.replace(digits, classes=None), images=None, imbalance=2, seed=0)
