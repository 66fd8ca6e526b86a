"""Logistic regression and label spreading: scikit-learn's own results, and what has no class or no neighbour."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

from smidgen import ImageClusterer

GENERATOR = np.random.default_rng(0)
CLASSES = np.arange(120) % 3
POINTS = GENERATOR.normal(size=(120, 8)) + 1.5 * np.eye(8)[CLASSES]
LABELS = np.where(np.arange(120) < 60, CLASSES, -1)


def fitted(method, labels, points=POINTS):
    return ImageClusterer(3, method=method).fit(points.astype(np.float32), evidence=labels)


def test_logistic_regression_is_scikit_learns_after_standardising_by_all_images():
    model = fitted("logistic-regression", LABELS)
    wanted = make_pipeline(StandardScaler().fit(POINTS), LogisticRegression(max_iter=1000))
    wanted[1].fit(wanted[0].transform(POINTS[:60]), CLASSES[:60])
    np.testing.assert_allclose(
        model.predict_proba(POINTS.astype(np.float32)), wanted[1].predict_proba(wanted[0].transform(POINTS)), atol=2e-3
    )


@pytest.mark.parametrize("named", [[0, 2], [1]])
def test_a_class_that_no_label_names_is_never_predicted(named):
    labels = np.where(np.isin(LABELS, named), LABELS, -1)
    model = fitted("logistic-regression", labels)
    assert len(np.unique(model.labels_)) == len(named)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_features_of_any_scale_give_the_same_classes(scale):
    constant = np.concatenate([POINTS, np.full((120, 1), 7.0)], axis=1)
    model = fitted("logistic-regression", LABELS, points=constant * scale)
    assert (model.labels_ == fitted("logistic-regression", LABELS).labels_).mean() > 0.98


def test_label_spreading_is_scikit_learns_on_rows_of_unit_length():
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    wanted = LabelSpreading(kernel="knn", n_neighbors=10, alpha=0.2, max_iter=100).fit(unit, LABELS)
    model = fitted("label-spreading", LABELS)
    np.testing.assert_allclose(model.predict_proba(POINTS.astype(np.float32)), wanted.predict_proba(unit), atol=1e-4)


def test_images_that_no_label_reaches_have_all_classes_alike():
    far = np.concatenate([POINTS[:20], -100 * np.ones((20, 8)) + POINTS[20:40] * 1e-3]).astype(np.float32)
    labels = np.where(np.arange(40) < 20, CLASSES[:40], -1)
    model = ImageClusterer(3, method="label-spreading", options={"neighbours": 5}).fit(far, evidence=labels)
    np.testing.assert_allclose(model.predict_proba(far[20:]), 1 / 3, atol=1e-6)


def test_both_learn_digits_from_a_few_labels(digits_with_labels):
    images, classes, labels = digits_with_labels
    for method in ("logistic-regression", "label-spreading"):
        found = ImageClusterer(10, method=method).fit(images, evidence=labels).labels_
        assert (found == classes).mean() > 0.85


@pytest.fixture
def digits_with_labels():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)[:600]
    classes = digits.target[:600]
    torch.manual_seed(0)
    return images, classes, np.where(np.arange(600) < 150, classes, -1)
