"""Mutual information: each term against its equation, the shortcut by thickness and its cure, priors, labels."""

import math

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_CLASSES, N_IMAGES, VECTORS, embed_of, floats, seeded, train

from smidgen.data.batches import Part
from smidgen.data.views import View
from smidgen.errors import InputError
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.resolved import Resolved
from smidgen.maths.entropy import mutual_information
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.methods.mutual_information import agreement_loss, firm_but_fair, joint_loss, unfairness

EVEN = torch.full((3,), 1 / 3)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed)).softmax(-1)


def make(images=IMAGES, *, labels=None, n_clusters=N_CLASSES, **options):
    """Return a method of few steps for images, or for vectors."""
    channels = images.shape[1]
    known = Resolved.nothing(len(images))
    if labels is not None:
        known = Resolved(len(images), labels=torch.as_tensor(labels), class_names=tuple("abcd"[:n_clusters]))
    problem = Problem(len(images), images.shape[1:], n_clusters, (0.5,) * channels, (0.25,) * channels, known)
    small = {"steps": 40, "batch_size": 32, "groups": 0, "heads": 3} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method("mutual-information", make_config("mutual-information", small), problem)


# --------------------------------------------------------------------------------------------------------- equations


@pytest.mark.parametrize("balance", [1.0, 2.5])
def test_with_a_uniform_prior_firm_but_fair_is_minus_the_mutual_information(balance):
    p = draw(7, 2, 3)
    for head in range(2):
        wanted = balance * math.log(3) - mutual_information(p[:, head], balance=balance)
        torch.testing.assert_close(firm_but_fair(p, EVEN, balance=balance)[head], wanted)


def test_unfairness_is_the_divergence_from_the_prior():
    mean, prior = draw(5, 3), torch.tensor([0.5, 0.3, 0.2])
    for row in range(5):
        wanted = sum(float(mean[row, k]) * math.log(float(mean[row, k] / prior[k])) for k in range(3))
        assert float(unfairness(mean, prior)[row]) == pytest.approx(wanted, abs=1e-6)
    assert float(unfairness(prior, prior)) == pytest.approx(0, abs=1e-6)


def test_agreement_is_the_cross_entropy_and_moves_the_second_view_only():
    p, q = draw(5, 2, 3).requires_grad_(), draw(5, 2, 3, seed=1).requires_grad_()
    loss = agreement_loss(p, q)
    for head in range(2):
        rows = [float((p[i, head, k] * q[i, head, k].log()).detach()) for i in range(5) for k in range(3)]
        assert float(loss[head].detach()) == pytest.approx(-sum(rows) / 5, rel=1e-5)
    loss.sum().backward()
    assert p.grad is None
    assert q.grad.abs().sum() > 0


@pytest.mark.parametrize("balance", [1.0, 1.7])
def test_the_joint_loss_is_iic_s_equation(balance):
    p, q = draw(6, 1, 3), draw(6, 1, 3, seed=1)
    joint = sum(torch.outer(p[i, 0], q[i, 0]) for i in range(6)) / 6
    joint = (joint + joint.T) / 2
    margin = joint.sum(0)
    information = sum(
        float(joint[k, m] * (joint[k, m].log() - balance * margin[k].log() - balance * margin[m].log()))
        for k in range(3)
        for m in range(3)
    )
    found = float(joint_loss(p, q, EVEN, balance=balance)[0])
    assert found == pytest.approx(2 * balance * math.log(3) - information, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- shortcut


def rings():
    """Return 300 rings of thin or thick strokes, open on the left or on the right; whether right, whether thick."""
    random = np.random.default_rng(0)
    right, thick = np.arange(300) % 2, random.permutation(300) % 2
    y, x = (place[None] - random.uniform(-1, 1, (300, 1, 1)) for place in np.mgrid[:16, :16] - 7.5)
    opening = (np.abs(y) < 2.5) & ((x > 0) == right[:, None, None])
    ink = (np.abs(np.hypot(x, y) - 4.5) < np.where(thick, 1.75, 0.75)[:, None, None]) & ~opening
    return (200 * ink + random.integers(0, 40, ink.shape)).astype(np.uint8)[:, None], right, thick


def test_clusters_form_by_the_thickness_of_strokes_unless_views_change_it():
    images, right, thick = rings()
    by = {}
    for thickness in (0.0, 1.0):
        method = make(images, n_clusters=2, balance=1.0, steps=60, batch_size=64, heads=5)
        method.views = (View(rotate=10, scale=0.15, shear=0.2, shift=0.1, thickness=thickness),) * 2
        train(method, images)
        clusters = method.assign(floats(images)).argmax(1).numpy()
        by[thickness] = [clustering_accuracy(classes, clusters) for classes in (right, thick)]
    assert by[0.0][1] > 0.95 > 0.6 > by[0.0][0]  # thin and thick
    assert by[1.0][0] > 0.95 > 0.6 > by[1.0][1]  # open on the left and on the right


def test_views_of_photographs_do_not_change_strokes():
    photographs = np.repeat(IMAGES, 3, 1)
    assert [view.thickness for view in make(thickness=0.4).views] == [0.4, 0.4]
    assert [view.thickness for view in make(photographs).views] == [0, 0]
    assert make(VECTORS).views == (None, None)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("consistency", ["views", "adversarial", "joint"])
@pytest.mark.parametrize("images", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_every_form_finds_easy_classes(consistency, images):
    method = make(images, consistency=consistency, steps=60, heads=5, neighbours=3, groups=6)
    method.views = (None, None)  # these 8 × 8 pixels are noise, which affine maps spoil
    train(method, images)
    clusters = method.assign(floats(images)).argmax(1).numpy()
    pure = sum(np.bincount(CLASSES[clusters == k]).max() for k in set(clusters))
    assert pure / N_IMAGES > 0.8


def test_bridle_s_objective_alone_sees_images_as_they_are():
    method = make(preset="paper")
    request = method.request("train", 0, seeded(), progress=0)
    assert request.keys() == {"images"}
    assert request["images"].views == (None,)
    assert (method.config.balance, method.config.heads, method.config.groups) == (1.0, 3, 0)


def test_an_adversarial_change_is_of_its_reach_and_worse_than_a_random_one():
    method = make(consistency="adversarial", radius=0.5)
    method.begin("train", 0, embed_of(method), seeded())
    pixels = floats(IMAGES).flatten(1)
    distances = torch.cdist(pixels, pixels).sort(1).values
    assert float((method.reach - distances[:, 10]).abs().max()) < 0.5  # neighbours are found by principal components
    part = part_of(method)
    changed = method._adversarial(part)
    size = (changed - part.images).flatten(1).norm(dim=1)
    torch.testing.assert_close(size, 0.5 * method.reach[part.indices], rtol=1e-4, atol=1e-4)
    random = torch.randn(part.images.shape, generator=seeded(1))
    random = part.images + size.view(-1, 1, 1, 1) * random / random.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    p = method._assignments(part.images).detach()
    moved, at_random = (agreement_loss(p, method._assignments(x)).mean() for x in (changed, random))
    assert float(moved.detach()) > float(at_random.detach())


def part_of(method):
    rows = method.request("train", 0, seeded(), progress=0)["images"].indices
    return Part(floats(IMAGES)[rows], rows)


@pytest.mark.parametrize(("prior", "order"), [("1,3", [1, 0]), ("3, 1", [0, 1])])
def test_clusters_have_the_shares_of_the_prior_in_its_order(prior, order):
    few = np.flatnonzero((CLASSES == 0) | ((CLASSES == 1) & (np.arange(N_IMAGES) < 40)))  # 30 and 10
    images = VECTORS[few]
    method = make(images, n_clusters=2, steps=80, consistency="adversarial", balance=1.0, prior=prior)
    clusters = train(method, images).assign(floats(images)).argmax(1).numpy()
    assert (clusters == np.array(order)[CLASSES[few]]).mean() > 0.9


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("even", "`prior` must be uniform, learned, or numbers above 0"),
        ("1,2", "a number for each of the 4 clusters, got 2"),
    ],
)
def test_an_impossible_prior_is_refused(prior, message):
    with pytest.raises(InputError, match=message):
        make(prior=prior)


def test_the_head_with_the_lowest_loss_decides_and_is_what_other_runs_start_from():
    method = make()
    method.running_loss = torch.tensor([2.0, 1.0, 3.0])
    method.finish(embed_of(method), seeded())
    assert int(method.head) == 1
    weight, bias = method.starting_point.head
    images = floats(IMAGES)[:5]
    torch.testing.assert_close((method.eval().encoder(images) @ weight.T + bias).softmax(1), method.assign(images))


def test_one_label_a_class_names_the_clusters_and_is_learned_once_they_have_formed():
    labels = np.where(np.arange(N_IMAGES) < N_CLASSES, CLASSES, -1)
    method = make(labels=labels, steps=60, heads=5)
    assert method.stages()[0].begins == (0, 30)
    method = train(method)
    assert (method.assign(floats(IMAGES)).argmax(1).numpy() == CLASSES).mean() > 0.8  # without matching


@pytest.mark.parametrize(("settle", "begins"), [(0.0, (0,)), (1.0, (0, 5))])
def test_labels_may_count_from_the_first_step_or_the_last(settle, begins):
    method = make(labels=CLASSES, steps=6, settle=settle, neighbours=2, consistency="joint")
    assert method.stages()[0].begins == begins
    train(method)
    assert method.neighbours.shape == (N_IMAGES, 2)


def test_labels_wait_until_clusters_have_formed():
    assert "labelled" not in make().request("train", 39, seeded(), progress=39)
    labels = np.where(np.arange(N_IMAGES) < N_CLASSES, CLASSES, -1)
    method = make(labels=labels)
    logged = {}
    train(method, look=lambda moment: logged.setdefault(moment.step, moment.losses))
    assert "labels" not in logged[20]
    assert logged[40]["labels"] > 0
