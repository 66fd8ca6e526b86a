"""RCC and DLLP: their equations by hand and against slow loops, and how images get their classes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.methods.rcc import (
    RCC,
    RCCConfig,
    assign_in_bag,
    dllp_loss,
    presence_of_counts,
    presence_of_images,
    raw_count_loss,
    tie_loss,
)

LABELS = torch.arange(24) % 3
SMALL = {"encoder": "conv", "bags": 4, "bag_size": "6", "features": 5, "augment": False}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def rcc(evidence=None, n=24, **options):
    torch.manual_seed(0)
    evidence = evidence or Resolved(n, labels=LABELS, class_names=("a", "b", "c"))
    return RCC(RCCConfig(**(SMALL | options)), Problem(n, (1, 8, 8), 3, (0.5,), (0.25,), evidence))


def batch(method):
    request = method.request("train", 0, torch.Generator().manual_seed(0), progress=0)["bags"]
    images = torch.rand(len(request.indices), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"bags": Part(images, request.indices, request.offsets, request.items)}


@pytest.mark.parametrize("counts", ["mse", "dllp"])
@pytest.mark.parametrize(("names", "taken"), [("abc", True), ("acb", False), ("ab1", False)])
def test_class_counts_of_another_run_are_taken_if_its_classes_are_the_same(counts, names, taken):
    theirs = Resolved(24, labels=LABELS, class_names=tuple(names))
    other, method = rcc(theirs, counts=counts).eval(), rcc(counts=counts).eval()
    for p in other.parameters():
        torch.nn.init.normal_(p, std=0.1)
    parts = batch(method)
    method.start_from(other.starting_point)
    losses = [m.loss(parts, stage="train", step=0, progress=0) for m in (method, other)]
    assert losses[0]["ucc"] == losses[1]["ucc"]
    assert (losses[0]["class_counts"] == losses[1]["class_counts"]) == taken


@pytest.mark.parametrize("name", ["unet", "unet-no-skips"])
def test_a_u_net_learns_counts_and_images_together(name):
    method = rcc(encoder=name).train()
    losses = method.loss(batch(method), stage="train", step=0, progress=0)
    losses["total"].backward()
    assert losses.keys() >= {"reconstruction", "ucc", "class_counts"}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in method.net.parameters())
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in method.net.decoder.modules())


def test_dllp_is_the_equation():
    p, shares, offsets = draw(7, 3), draw(2, 3, seed=1), torch.tensor([0, 3, 7])
    for bag, (a, b) in enumerate(itertools.pairwise(offsets.tolist())):
        means = [sum(float(p[i, k]) for i in range(a, b)) / (b - a) for k in range(3)]
        expected = -sum(float(shares[bag, k]) * math.log(means[k]) for k in range(3))
        assert float(dllp_loss(p, offsets, shares)[bag]) == pytest.approx(expected, rel=1e-5)


def test_dllp_is_least_where_the_means_are_the_shares():
    shares = torch.tensor([[0.25, 0.75]])
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    least = dllp_loss(p, torch.tensor([0, 4]), shares).item()
    assert least == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert dllp_loss(draw(4, 2), torch.tensor([0, 4]), shares).item() > least


def test_raw_counts_are_compared_one_by_one():
    assert raw_count_loss(torch.tensor([[3.0, 5.0]]), torch.tensor([[4.0, 2.0]])).item() == 5


def test_the_tie_is_zero_where_the_counts_imply_the_ucc():
    counts = presence_of_counts(torch.tensor([[18.0, 18.0, 0.0, -2.0]]))
    sure = torch.tensor([[-30.0, 0.0, -30.0, -30.0]]).log_softmax(1)
    assert tie_loss(counts, sure).item() == pytest.approx(0, abs=1e-9)
    assert tie_loss(counts, sure.roll(1)).item() == pytest.approx(1, abs=1e-5)


def test_presence_of_images_is_the_product():
    p, offsets = draw(5, 3), torch.tensor([0, 2, 5])
    expected = [[1 - math.prod(1 - float(p[i, k]) for i in range(a, b)) for k in range(3)] for a, b in ((0, 2), (2, 5))]
    torch.testing.assert_close(presence_of_images(p, offsets), torch.tensor(expected))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 3))
def test_labels_inside_a_bag_are_the_likeliest_of_all_with_its_counts(seed, n, n_classes):
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(n_classes), n)
    counts = np.bincount(random.integers(0, n_classes, n), minlength=n_classes)
    labels = assign_in_bag(p, counts / n)
    assert (np.bincount(labels, minlength=n_classes) == counts).all()
    ways = set(itertools.permutations(np.repeat(np.arange(n_classes), counts).tolist()))
    best = max(sum(math.log(p[i, k]) for i, k in enumerate(way)) for way in ways)
    assert sum(math.log(p[i, k]) for i, k in enumerate(labels)) == pytest.approx(best)


def test_shares_that_do_not_divide_a_bag_are_rounded_to_its_size():
    labels = assign_in_bag(np.full((7, 3), 1 / 3), np.array([0.5, 0.333333, 0.166667]))
    assert np.bincount(labels, minlength=3).tolist() == [4, 2, 1]


def test_the_report_s_loss_is_a_third_of_each():
    method = rcc()
    losses = {
        name: value.item() for name, value in method.loss(batch(method), stage="train", step=0, progress=0).items()
    }
    assert losses["total"] == pytest.approx(
        (losses["reconstruction"] + losses["ucc"] + losses["class_counts"]) / 3, rel=1e-5
    )


def test_the_tie_joins_the_total_with_its_weight():
    method = rcc(tie_weight=2.0, reconstruction="none")
    losses = {
        name: value.item() for name, value in method.loss(batch(method), stage="train", step=0, progress=0).items()
    }
    assert losses["total"] == pytest.approx((losses["ucc"] + losses["class_counts"]) / 3 + 2 * losses["tie"], rel=1e-5)


def test_images_are_labelled_in_their_bags_from_the_step_asked_for():
    method = rcc(counts="dllp", assign_in_bags=0.5, steps=10).eval()
    parts = batch(method)
    losses = [method.loss(parts, stage="train", step=step, progress=step) for step in (4, 5)]
    early, late = (each["class_counts"].item() for each in losses)
    part = parts["bags"]
    p = method.assign(part.images).detach()
    shares = method.source.known(part)[2]
    assert early == pytest.approx(dllp_loss(p, part.offsets, shares).mean().item(), rel=1e-4)
    bags = list(itertools.pairwise(part.offsets.tolist()))
    expected = []
    for (a, b), pi in zip(bags, shares, strict=True):
        labels = assign_in_bag(p[a:b].numpy(), pi.numpy())
        expected.append(-np.mean([math.log(p[a + i, k]) for i, k in enumerate(labels)]))
    assert late == pytest.approx(np.mean(expected), rel=1e-4)


def bags_with_shares(**tables):
    sizes = torch.tensor([8, 8, 8])
    return Resolved(
        24,
        labels=torch.full((24,), -1),
        class_names=("a", "b", "c"),
        bag_names=("x", "y", "z"),
        members=LABELS.argsort(stable=True),
        offsets=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
        **tables,
    )


def test_clusters_take_the_names_of_the_shares_of_their_bags():
    evidence = bags_with_shares(proportion_bags=torch.arange(3), proportions=torch.eye(3)[[1, 2, 0]])
    method = rcc(evidence).eval()
    features = torch.eye(5)[LABELS] + 0.01 * torch.rand(24, 5, generator=torch.Generator().manual_seed(0))
    method.finish(lambda function=None: features, torch.Generator().manual_seed(0))
    clusters = method.clusters(features).argmax(1)
    assert clusters.equal(torch.tensor([1, 2, 0])[LABELS])


def test_class_counts_sum_to_the_bag_image_by_image():
    p, images, offsets = draw(7, 3), torch.rand(7, 1, 8, 8), torch.tensor([0, 3, 7])
    found = rcc(counts="dllp").class_counts(p, p, offsets)
    torch.testing.assert_close(found[0], p[:3].sum(0))
    torch.testing.assert_close(found.sum(1), torch.tensor([3.0, 4.0]))
    method = rcc().eval()
    assert method.class_counts(method.encode(images), p, offsets).shape == (2, 3)


def test_unique_counts_alone_are_not_enough():
    one = torch.ones(3, dtype=torch.int64)
    evidence = bags_with_shares(count_bags=torch.arange(3), counts_min=one, counts_max=one)
    with pytest.raises(InputError, match="from unique counts alone, `ucc` learns"):
        rcc(evidence).stages()
    with pytest.raises(InputError, match="needs proportions or class counts of bags: give --bags"):
        rcc(Resolved.nothing(24)).stages()


def test_the_encoder_has_a_learning_rate_of_its_own():
    method = rcc(learning_rate=0.1, encoder_rate=0.5)
    (optimiser,) = method.optimisers("train")
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    encoder = {id(p) for p in method.net.encoder.parameters()}
    assert {rates[p] for p in encoder} == {0.05}
    assert {rate for p, rate in rates.items() if p not in encoder} == {0.1}
    assert len(rates) == sum(1 for _ in method.parameters())


def test_a_pretrained_encoder_learns_slowly_and_in_its_last_stages():
    method = rcc(encoder="lite0@32", learning_rate=0.1, reconstruction="none", reconstruction_weight=0.0)
    (optimiser,) = method.optimisers("train")
    assert [group["lr"] for group in optimiser.param_groups] == [0.1, pytest.approx(0.015)]
    stages = [any(p.requires_grad for p in stage.parameters()) for stage in method.net.encoder.trunk.net.blocks]
    assert stages == [False] * 5 + [True] * 2


def test_presets_and_options_that_make_no_sense():
    assert make_config("rcc", {"preset": "fast"}).counts == "dllp"
    assert make_config("rcc", {"preset": "report"}) == RCCConfig()
    with pytest.raises(InputError, match="set `counts` to dllp"):
        RCCConfig(assign_in_bags=0.5)


@pytest.mark.parametrize(("options", "size"), [({"reconstruction": "none"}, 32), ({}, None)])
def test_photographs_are_turned_at_the_size_that_a_pretrained_encoder_sees(options, size):
    settings = {"encoder": "lite0@32", "counts": "dllp"} | options
    problem = Problem(24, (3, 8, 8), 3, (0.5,) * 3, (0.25,) * 3, Resolved(24, labels=torch.arange(24) % 3))
    method = make_method("rcc", make_config("rcc", settings), problem)
    assert method.request("train", 0, torch.Generator().manual_seed(0), progress=0)["bags"].view.size == size


def test_a_softmax_for_each_image_needs_no_centroids():
    method = rcc(counts="dllp").eval()
    method.after_step("train", 99)

    def embed(function=None):
        raise AssertionError("all images were looked at")

    method.finish(embed, torch.Generator())
    assert (method.clusters.centroids == 0).all()
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assignments, features = method.assign_and_encode(images)
    assert assignments.equal(method.assign(images))
    assert features.equal(method.encode(images))


def test_a_warm_up_needs_a_decoder():
    with pytest.raises(InputError, match="needs a `reconstruction_weight` above 0"):
        rcc(reconstruction_weight=0.0, warmup_steps=5)
