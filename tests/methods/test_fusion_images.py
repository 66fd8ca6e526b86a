"""Fusion's objective against slow, obvious loops, and the choices it makes between its stages."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.methods import empty_clusters, fusion_images, group_heads
from smidgen.methods.base import Problem
from smidgen.methods.fusion_images import (
    FusionImages,
    FusionImagesConfig,
    balance_loss,
    neighbour_loss,
    self_label_loss,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_neighbour_loss_is_the_equation():
    p, q = draw(5, 2, 3), draw(5, 2, 3, seed=1)
    for h in range(2):
        agreement = [math.log(sum(float(p[i, h, k] * q[i, h, k]) for k in range(3))) for i in range(5)]
        assert float(neighbour_loss(p, q)[h]) == pytest.approx(-sum(agreement) / 5, rel=1e-5)


def test_doubt_takes_a_wrong_neighbour_for_chance():
    p, q = draw(5, 2, 3), draw(5, 2, 3, seed=1)
    expected = -((p * q).sum(-1) * 0.7 + 0.3 / 3).log().mean(0)
    torch.testing.assert_close(neighbour_loss(p, q, doubt=0.3), expected)
    one, other = torch.eye(3)[[0]][:, None], torch.eye(3)[[1]][:, None]
    assert neighbour_loss(one, other, doubt=0.3).item() == pytest.approx(-math.log(0.1))


def test_neighbour_loss_is_zero_for_sure_agreement_and_bounded_for_sure_disagreement():
    one, other = torch.eye(3)[[0, 1]][:, None], torch.eye(3)[[1, 2]][:, None]
    assert neighbour_loss(one, one).item() == 0
    assert neighbour_loss(one, other).item() == pytest.approx(-math.log(1e-6))


def test_balance_loss_is_smallest_for_equal_clusters():
    even, uneven = torch.eye(4)[[0, 1, 2, 3]][:, None], torch.eye(4)[[0, 0, 0, 0]][:, None]
    assert balance_loss(even).item() == pytest.approx(-math.log(4))
    assert balance_loss(uneven).item() == pytest.approx(0, abs=1e-6)
    assert balance_loss(even.mean(0, keepdim=True)).item() == pytest.approx(-math.log(4))  # of the mean, not the mean


def test_balance_loss_is_smallest_for_the_shares_of_the_prior():
    prior = torch.tensor([0.75, 0.25])
    losses = [balance_loss(torch.eye(2)[rows][:, None], prior=prior).item() for rows in ([0, 0, 0, 1], [0, 0, 1, 1])]
    assert losses[0] == pytest.approx(-math.log(2))
    assert losses[1] > losses[0] + 0.1
    mixed = torch.rand(5, 3, 2)
    even = balance_loss(mixed), balance_loss(mixed, prior=torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(*even)


def test_self_labels_count_only_where_the_teacher_is_sure():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    teacher = torch.tensor([[0.95, 0.05], [0.4, 0.6], [0.05, 0.95]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(5))) / 2
    assert self_label_loss(logits, teacher, threshold=0.9).item() == pytest.approx(expected, rel=1e-5)
    assert self_label_loss(logits, teacher, threshold=0.99).item() == 0


def test_an_image_with_a_label_is_learned_by_it_unless_the_teacher_is_sure_of_another_class():
    labels = torch.tensor([1, 1, -1] + [-1] * 9)
    method = fusion(Resolved.nothing(12).replaced(labels=labels), wrong=0.1)
    teacher = torch.tensor([[0.6, 0.4, 0.0], [0.999, 0.001, 0.0], [0.6, 0.4, 0.0]])
    method._assignments = lambda net, images: teacher[:, None]
    logits = torch.tensor([[0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0]])[:, None]
    weak = Part(torch.zeros(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    losses = method._refine_losses(weak, logits)
    likely = F.cross_entropy(logits[:1, 0], torch.tensor([1])), F.cross_entropy(logits[1:2, 0], torch.tensor([0]))
    assert losses["sure"].mean().item() == pytest.approx(2 / 3)  # the third has no label, and its teacher is not sure
    assert losses["own"].item() == pytest.approx((likely[0] + likely[1]).item() / 2, rel=1e-5)


def fusion(evidence=None, **options):
    torch.manual_seed(0)
    problem = Problem(12, (1, 8, 8), 3, (0.5,), (0.25,), evidence or Resolved.nothing(12))
    return FusionImages(FusionImagesConfig(heads=4, batch_size=8, neighbours=3, **options), problem)


def embed_of(images):
    return lambda function: function(images)


def test_neighbours_are_the_nearest_other_images_and_few_images_have_few():
    images = torch.linspace(0, 1, 12)[:, None].expand(12, 64).reshape(12, 1, 8, 8)
    method = fusion()
    method.begin("cluster", 0, embed_of(images), torch.Generator())
    assert method.neighbours.dtype == torch.int32
    assert set(method.neighbours[5].tolist()) in ({4, 6, 3}, {4, 6, 7})
    method.begin("cluster", 0, embed_of(images[:3]), torch.Generator())
    assert sorted(method.neighbours[0].tolist()) == [1, 2]


def test_a_batch_is_made_of_images_and_their_neighbours():
    method = fusion()
    method.neighbours = ((torch.arange(12)[:, None] + torch.tensor([1, 2])) % 12).int()
    parts = method.request("cluster", 0, torch.Generator().manual_seed(0), progress=0)
    apart = (parts["neighbours"].indices - parts["images"].indices) % 12
    assert set(apart.tolist()) == {1, 2}


def test_the_head_with_the_lowest_loss_is_kept_and_the_teacher_starts_from_the_net():
    method = fusion()
    method.running_loss = torch.tensor([2.0, 1.0, 0.5, 3.0])
    with torch.no_grad():
        method.net.heads.linear.weight.add_(1)
    method.begin("refine", 0, embed_of(None), torch.Generator())
    assert int(method.head) == 2
    assert method.teacher.net.heads.linear.weight.equal(method.net.heads.linear.weight)
    images = torch.rand(2, 1, 8, 8)
    expected = method.eval().net(images)[:, 2].softmax(1)
    torch.testing.assert_close(method.assign(images), expected)


def with_bags(**settings):
    """Return the method for 12 images of classes of 8, 2 and 2, with counts of bags that hold them all."""
    offsets, members = torch.tensor([0, 2, 4, 7, 9, 13]), torch.tensor([0, 1, 2, 8, 3, 9, 10, 8, 11, 4, 5, 6, 7])
    known = torch.tensor([1, 2, 3, 2, 1])
    counts = {"count_bags": torch.arange(5), "counts_min": known, "counts_max": known}
    bags = Resolved(12, bag_names=tuple("vwxyz"), members=members, offsets=offsets, **counts)
    return FusionImages(FusionImagesConfig(heads=1, **settings), Problem(12, (1, 8, 8), 3, (0.5,), (0.25,), bags))


UNEQUAL = torch.eye(3)[[0] * 8 + [1, 1, 2, 2]]
EQUAL = torch.eye(3)[[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]]


def test_with_bags_their_likelihood_says_which_clusters_are_better():
    method = with_bags()
    method.neighbours = torch.tensor([[row + 1, row + 2, row + 3] for row in range(0, 12, 4) for _ in range(4)]) % 12
    assert group_heads.association_of(EQUAL, method.neighbours) > group_heads.association_of(UNEQUAL, method.neighbours)
    likelihood = method._likelihood(named=False)
    assert likelihood(0.8 * UNEQUAL + 0.2 / 3) > likelihood(0.8 * EQUAL + 0.2 / 3) + fusion_images.LIKELIER


def test_an_empty_cluster_is_given_half_of_another_where_bags_speak_for_it(monkeypatch):
    monkeypatch.setattr(fusion_images, "UNITED_STRENGTH", 1e6)
    monkeypatch.setattr(empty_clusters, "LEAST", 1)
    method = with_bags(refine_steps=90).eval()
    images = torch.arange(12).float().div(11).view(12, 1, 1, 1).expand(-1, -1, 8, 8)
    images = torch.cat([images[:8] / 4, images[8:10] / 4 + 0.5, images[10:]])
    method.refining.fill_(True)
    merged = 0.9 * torch.eye(3)[[0] * 8 + [1] * 4] + 0.1 / 3
    with torch.no_grad():
        method._take(method.net.encoder(images), merged, [method.net, method.teacher.net])
    assert method.assign(images).argmax(1).tolist() == [0] * 8 + [1] * 4
    replaced = method.begin("refine", 30, Everywhere(images), torch.Generator().manual_seed(0))
    assert {id(each) for each in replaced} == {id(each) for each in method.net.heads.parameters()}
    clusters = method.assign(images).argmax(1).tolist()
    assert clusters[:8] == [0] * 8
    assert sorted({*clusters[8:10]} | {*clusters[10:]}) == [1, 2]
    assert method.begin("refine", 60, Everywhere(images), torch.Generator().manual_seed(0)) is None


@pytest.mark.usefixtures("few_in_groups")
def test_bags_of_which_nothing_is_known_leave_the_choice_to_neighbours(monkeypatch):
    bags = Resolved(12, bag_names=("a",), members=torch.arange(12), offsets=torch.tensor([0, 12]))
    method = FusionImages(FusionImagesConfig(heads=1), Problem(12, (1, 8, 8), 3, (0.5,), (0.25,), bags)).eval()
    method.neighbours = torch.arange(12)[:, None].int()
    monkeypatch.setattr(method.groups, "united", lambda embeddings, neighbours: iter([UNEQUAL]))
    method.begin("refine", 0, Everywhere(torch.rand(12, 1, 8, 8)), torch.Generator())
    assert method.refining


@pytest.mark.parametrize("prior", ["learned", "uniform"])
def test_the_shares_of_clusters_are_learned_from_bags(prior):
    method = with_bags(prior=prior)
    method._judge_bags(0.9 * UNEQUAL + 0.1 / 3)
    wanted = torch.tensor([8, 2, 2]) / 12 if prior == "learned" else torch.full((3,), 1 / 3)
    torch.testing.assert_close(method.prior, wanted, atol=0.07, rtol=0)


@pytest.fixture
def few_in_groups(monkeypatch):
    monkeypatch.setattr(group_heads, "LEAST_IN_GROUP", 0)


@pytest.mark.usefixtures("few_in_groups")
def test_groups_are_trained_where_sizes_are_to_be_learned_without_labels():
    labels = Resolved(12, labels=torch.arange(12) % 3, class_names=("a", "b", "c"))
    with_labels = FusionImages(FusionImagesConfig(heads=1), Problem(12, (1, 8, 8), 3, (0.5,), (0.25,), labels))
    method = fusion()
    assert method.groups is not None
    trained = {id(p) for o in method.optimisers("cluster") for g in o.param_groups for p in g["params"]}
    assert {id(p) for p in method.groups.parameters()} < trained
    assert with_bags().groups is not None
    for other in (fusion(prior="uniform"), fusion(prior="1,2,3"), fusion(refine_steps=0), with_labels):
        assert other.groups is None


@pytest.mark.usefixtures("few_in_groups")
@pytest.mark.parametrize("apart", [True, False])
def test_united_groups_take_the_place_of_clusters_whose_neighbours_agree_less(apart, monkeypatch):
    monkeypatch.setattr(fusion_images, "UNITED_STRENGTH", 1e6)  # or so few images would not be learned
    method = fusion().eval()
    images = torch.rand(12, 1, 8, 8)
    method.neighbours = torch.tensor([[(row + 1) % 8] for row in range(8)] + [[9], [8], [11], [10]]).int()
    found = torch.eye(3)[[0] * 8 + [1, 1] + [2, 2]] if apart else torch.eye(3)[torch.arange(12) % 2]
    monkeypatch.setattr(method.groups, "united", lambda embeddings, neighbours: iter([found]))
    before = method.net.heads.linear.weight.clone()
    method.begin("refine", 0, Everywhere(images), torch.Generator())
    assert method.net.heads.linear.weight.equal(before) == (not apart)
    if apart:
        assert method.assign(images).argmax(1).tolist() == found.argmax(1).tolist()


class Everywhere:
    def __init__(self, images):
        self.images = images

    def __call__(self, function):
        return function(self.images)

    on_device = __call__


def test_without_a_second_stage_the_head_is_chosen_at_the_end():
    method = fusion(refine_steps=0)
    method.running_loss = torch.tensor([2.0, 1.0, 0.5, 3.0])
    method.finish(embed_of(None), torch.Generator())
    assert int(method.head) == 2


def test_clusters_take_the_places_of_the_classes_that_labels_name():
    labels = torch.tensor([2, 0, 1] * 4)
    torch.manual_seed(0)
    evidence = Resolved(12, labels=labels, class_names=("a", "b", "c"))
    method = FusionImages(FusionImagesConfig(heads=2), Problem(12, (1, 8, 8), 3, (0.5,), (0.25,), evidence)).eval()
    images = torch.rand(12, 1, 8, 8)
    outputs = torch.arange(12) % 3  # what the heads say, whatever the images: output k is class (2, 0, 1)[k]
    method.net = nn.Sequential(nn.Identity(), Says(torch.eye(3)[outputs][:, None].repeat(1, 2, 1) * 9))
    method.begin("cluster", method.stages()[0].begins[1], embed_of(images), torch.Generator())
    assert method._assignments(method.net, images).argmax(2).equal(labels[:, None].expand(-1, 2))


class Says(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, embeddings):
        return self.logits


def test_its_linear_head_is_what_assigns():
    method = fusion().eval()
    method.head, method.order[2] = torch.tensor(2), torch.tensor([2, 0, 1])
    images = torch.rand(5, 1, 8, 8)
    start = method.starting_point
    weight, bias = start.head
    torch.testing.assert_close((start.net(images) @ weight.T + bias).softmax(1), method.assign(images))


def test_only_the_net_is_trained():
    method = fusion()
    trained = {id(p) for o in method.optimisers("cluster") for g in o.param_groups for p in g["params"]}
    assert trained == {id(p) for p in method.net.parameters()}


def test_an_encoder_to_start_from_reaches_net_and_teacher():
    method, other = fusion(), fusion()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.5)
    method.start_from(other.starting_point)
    for mine in (method.net.encoder, method.teacher.net.encoder):
        for key, value in mine.state_dict().items():
            assert value.equal(other.teacher.net.encoder.state_dict()[key])


def test_its_defaults_are_plain_values():
    plain = (int, float, str, type(None))
    assert all(isinstance(value, plain) for value in dataclasses.asdict(FusionImagesConfig()).values())


@pytest.mark.parametrize(("options", "sizes", "rates"), [
    ({}, (8, 8), (2e-3, 2e-3)),
    ({"refine_batch_size": 5, "refine_learning_rate": 0.0}, (8, 5), (2e-3, 0.0)),
])  # fmt: skip
def test_the_refinement_may_have_a_batch_size_and_a_learning_rate_of_its_own(options, sizes, rates):
    method = fusion(**options)
    method.neighbours = torch.zeros(12, 3, dtype=torch.int32)
    parts = [method.request(stage, 0, torch.Generator(), progress=0) for stage in ("cluster", "refine")]
    assert (len(parts[0]["images"].indices), len(parts[1]["strong"].indices)) == sizes
    assert tuple(method.optimisers(stage)[0].param_groups[0]["lr"] for stage in ("cluster", "refine")) == rates


def test_evidence_that_names_classes_counts_once_the_clock_is_where_clusters_have_formed():
    method = fusion(steps=100)
    labelled = method.problem.evidence.replaced(labels=torch.tensor([0, 1, 2] * 4), class_names=("a", "b", "c"))
    method = FusionImages(method.config, dataclasses.replace(method.problem, evidence=labelled))
    rows = torch.arange(6)
    parts = {name: Part(torch.rand(6, 1, 8, 8), rows, items=rows) for name in ("images", "neighbours", "labels")}
    assert "labels" not in method.loss(parts, stage="cluster", step=5, progress=5)
    assert "labels" in method.loss(parts, stage="cluster", step=5, progress=60)


def test_wrong_counts_are_looked_for_during_the_refinement():
    bags = Evidence.from_bags([[0, 1], [2, 3], [4, 5]], counts=[1, 2, 1]).resolve(range(12), n_clusters=3)
    method = fusion(evidence=bags, refine_steps=90)
    assert method.stages()[1].begins == (0, 30, 60)
    method.begin("refine", 30, lambda function=None: draw(12, 3), torch.Generator())  # late, where time was short
    assert method.refining
    assert not torch.equal(method.terms.target("count_right"), torch.full((3,), 0.9))
