"""The terms of evidence: what they ask for, that each can be learned from, and which cluster becomes which class."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from smidgen.data.batches import seeded
from smidgen.data.loader import Loader
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.kinds.proportions import CLASS_COUNTS
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.simulation import Simulation, simulate
from smidgen.evidence.terms import EvidenceTerms
from smidgen.maths.likelihoods import class_count_loss
from smidgen.maths.matching import match_counts

IDS = [f"{row}.png" for row in range(500)]
CPU = torch.device("cpu")


def collect(images, requests, *, key):
    loader = Loader(images, device=CPU)
    return loader.parts(loader.gather(requests), key=key)


@pytest.fixture(scope="module")
def images():
    return (load_digits().images[:500, None] * 15).astype("uint8")


@pytest.fixture(scope="module")
def known():
    """Every kind of evidence about 500 digits."""
    settings = Simulation(
        n_bags=60, bag_size=(6, 12), proportions=True, presence=4, labels_per_class=5, pairs=60, composition="random",
        partial=3, partial_fraction=0.2,
    )  # fmt: skip
    names = tuple(map(str, range(10)))
    classes = load_digits().target[:500]
    generator = np.random.default_rng(0)
    return simulate(settings, classes, ids=IDS, class_names=names, generator=generator)[0].resolve(IDS, n_clusters=10)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10), nn.Softmax(1))


def losses(terms, net, images, step):
    parts = collect(images, terms.request(seeded(0, step), view=None), key=(0, step))
    return terms.losses(parts, {name: net(part.images) for name, part in parts.items()})


def trained(terms, net, images, kinds, *, steps=30):
    """Train on the sum of some kinds, and return their losses on one batch before and after."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    before = {kind: loss.item() for kind, loss in losses(terms, net, images, 10**6).items()}
    for step in range(steps):
        found = losses(terms, net, images, step)
        optimiser.zero_grad()
        torch.stack([found[kind].double() for kind in kinds]).sum().backward()
        optimiser.step()
    return before, {kind: loss.item() for kind, loss in losses(terms, net, images, 10**6).items()}


def test_every_kind_is_asked_for_and_nothing_else(known):
    requests = EvidenceTerms(known, 10, bags=4, statements=3).request(seeded(0), view=None)
    assert {name: len(r.indices) for name, r in requests.items() if name != "bags"} == {
        "labels": 3,
        "partial": 3,
        "pairs": 6,
    }
    assert len(requests["bags"].items) == 4
    assert (known.labels[requests["labels"].indices] >= 0).all()
    assert EvidenceTerms(Resolved.nothing(500), 10).request(seeded(0), view=None) == {}


def test_bags_come_whole_and_never_hold_more_images_than_allowed(known):
    request = EvidenceTerms(known, 10, bags=50, images=40).request(seeded(3), view=None)["bags"]
    assert len(request.indices) <= 40
    for bag, start, end in zip(request.items.tolist(), request.offsets, request.offsets[1:], strict=False):
        assert request.indices[start:end].equal(known.members[known.offsets[bag] : known.offsets[bag + 1]])


def test_a_bag_larger_than_allowed_still_comes(known):
    assert len(EvidenceTerms(known, 10, images=1).request(seeded(0), view=None)["bags"].items) == 1


@pytest.mark.parametrize("kind", LEARNED)
def test_each_kind_has_finite_gradients_and_goes_down(kind, known, net, images):
    terms = EvidenceTerms(known, 10)
    loss = losses(terms, net, images, 0)[kind]
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 1e-5 for g in gradients)
    before, after = trained(terms, net, images, [kind])
    assert after[kind] < before[kind] - 0.03


def test_all_kinds_go_down_together(known, net, images):
    before, after = trained(EvidenceTerms(known, 10), net, images, LEARNED)
    assert set(before) == set(LEARNED)
    assert all(after[kind] < before[kind] for kind in LEARNED)


def test_a_bag_that_a_kind_does_not_speak_of_adds_nothing_to_it(images):
    bags = Evidence.from_bags([range(12), [20], [30, 31]], counts=[9, None, None], presence=[None, {"a": True}, None])
    terms = EvidenceTerms(bags.resolve(IDS, n_clusters=10), 10)
    parts = collect(images, terms.request(seeded(0), view=None), key=(0,))
    assert sorted(parts["bags"].items.tolist()) == [0, 1]  # of bag 2 nothing is known
    logits = torch.randn(13, 10, requires_grad=True)
    found = terms.losses(parts, {"bags": logits.softmax(1)})
    counts = torch.autograd.grad(found["counts"], logits)[0]
    assert counts.isfinite().all()
    assert (counts.abs().sum(1) > 0).tolist() == [row != 20 for row in parts["bags"].indices.tolist()]


def test_shares_that_are_whole_numbers_of_images_speak_by_the_exact_law_too(images):
    shares = [{"a": 1 / 3, "b": 2 / 3}, {"a": 0.33, "b": 0.67}, {"a": 0.4, "b": 0.6}, None]
    bags = Evidence.from_bags([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]], proportions=shares, counts=[None] * 3 + [1])
    terms = EvidenceTerms(bags.resolve(IDS, n_clusters=10), 10)
    parts = collect(images, terms.request(seeded(0), view=None), key=(0,))
    logits = torch.randn(11, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    p = {"bags": logits.softmax(1)}
    found = terms.losses(parts, p, kinds=[CLASS_COUNTS])
    assert found.keys() == {CLASS_COUNTS}
    assert CLASS_COUNTS not in terms.losses(parts, p)
    (gradient,) = torch.autograd.grad(found[CLASS_COUNTS], logits)
    spoken = [row < 6 for row in parts["bags"].indices.tolist()]  # .4 of three images is no number of images
    assert (gradient.abs().sum(1) > 0).tolist() == spoken
    rows = [parts["bags"].indices.tolist().index(i) for i in range(6)]
    counts = torch.tensor([[1, 2] + [0] * 8] * 2)
    expected = class_count_loss(p["bags"][rows], torch.tensor([0, 3, 6]), counts, epsilon=0.1).mean()
    assert found[CLASS_COUNTS].item() == pytest.approx(expected.item(), rel=1e-5)


def test_saying_what_is_so_costs_less_than_anything_else(known):
    terms = EvidenceTerms(known, 10, bags=60, statements=200)
    parts = collect(torch.zeros(500, 1, 1, 1).byte().numpy(), terms.request(seeded(0), view=None), key=(0,))
    truth = torch.eye(10)[torch.from_numpy(load_digits().target[:500])] * 0.99 + 0.001
    right = terms.losses(parts, {name: truth[part.indices] for name, part in parts.items()})
    wrong = terms.losses(parts, {name: truth.roll(1, 1)[part.indices] for name, part in parts.items()})
    mixed = terms.losses(parts, {name: truth[(part.indices + 7) % 500] for name, part in parts.items()})
    for kind in ("labels", "proportions", "presence"):
        assert right[kind] < min(wrong[kind], mixed[kind])
    for kind in ("counts", "pairs"):  # these do not name classes
        assert right[kind] < mixed[kind]
        torch.testing.assert_close(right[kind], wrong[kind])


# -------------------------------------------------------------------------------------------------------------- naming

ASSIGNED = torch.eye(3)[torch.tensor([0, 0, 1, 1, 2, 2])]  # two images in each cluster
SIX = IDS[:6]


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence.from_labels(["c", "", "a", "", "b", ""]),
        Evidence.from_bags(
            [[0, 1, 2, 4], [3, 4], [0, 4, 5, 3]],
            proportions=[{"a": 0.25, "b": 0.25, "c": 0.5}, {"a": 0.5, "b": 0.5}, {"a": 0.25, "b": 0.5, "c": 0.25}],
        ),
        Evidence.from_bags([[0, 1], [2, 3], [4, 5]], presence=[{"c": 1, "a": 0}, {"a": 1, "b": 0}, {"b": 1, "c": 0}]),
    ],
    ids=["labels", "proportions", "presence"],
)
def test_what_names_classes_says_which_cluster_is_which(evidence):
    resolved = evidence.resolve(SIX, n_clusters=3)
    assert resolved.class_names == ("a", "b", "c")
    terms = EvidenceTerms(resolved, 3)
    assert terms.names_classes
    assert match_counts(terms.class_evidence(ASSIGNED).numpy()).tolist() == [2, 0, 1]


def test_a_vote_is_the_assignments_of_labelled_images_added_up():
    terms = EvidenceTerms(Evidence.from_labels(["a", "b", "a", "", "", ""]).resolve(SIX), 3)
    assert terms.class_evidence(ASSIGNED).tolist() == [[1, 1], [1, 0], [0, 0]]


def test_counts_and_pairs_name_no_class():
    evidence = Evidence.from_bags([[0, 1]], counts=[1]) | Evidence.from_pairs(same=[(0, 1)])
    assert not EvidenceTerms(evidence.resolve(SIX), 3).names_classes


def test_what_looks_at_no_image_knows_only_how_often_things_occur():
    """Two clusters; half of four labels each; counts 1 and 2 in bags of two; one of four pairs the same."""
    evidence = Evidence(
        labels=(("0.png", "a"), ("1.png", "a"), ("2.png", "b"), ("3.png", "b")),
        partial=(("0.png", "a"), ("1.png", "a"), ("1.png", "b")),
        bags=tuple((f"bag{b}", f"{2 * b + i}.png") for b in range(2) for i in range(2)),
        counts=(("bag0", 1, 1), ("bag1", 2, 2)),
        proportions=(("bag0", "a", 1.0), ("bag1", "a", 0.5), ("bag1", "b", 0.5)),
        presence=(("bag0", "a", True), ("bag1", "a", False)),
        pairs=(
            ("0.png", "1.png", True),
            ("0.png", "2.png", False),
            ("0.png", "3.png", False),
            ("1.png", "2.png", False),
        ),
    ).resolve(IDS, n_clusters=2)
    found = EvidenceTerms(evidence, 2, epsilon=0.0).chance_losses()
    assert found.keys() == set(LEARNED)
    ln2 = np.log(2)
    assert found["labels"] == pytest.approx(ln2)
    assert found["partial"] == pytest.approx(-np.log(0.75) / 2, rel=1e-5)
    assert found["counts"] == pytest.approx(ln2)
    assert found["presence"] == pytest.approx(ln2, rel=1e-5)
    assert found["pairs"] == pytest.approx(-(np.log(0.25) + 3 * np.log(0.75)) / 4)
    given, mean = 0.99 * np.array([[1.0, 0.0], [0.5, 0.5]]) + 0.005, 0.99 * np.array([0.75, 0.25]) + 0.005  # its own ε
    assert found["proportions"] == pytest.approx((given * np.log(given / mean)).sum() / 2, rel=1e-5)


def test_ranges_of_counts_are_the_easier_to_guess_the_wider_they_are():
    def told(least, most):
        bags = tuple((f"bag{b}", f"{4 * b + i}.png") for b in range(2) for i in range(4))
        evidence = Evidence(bags=bags, counts=(("bag0", least, most), ("bag1", least, most)))
        return EvidenceTerms(evidence.resolve(IDS, n_clusters=4), 4, epsilon=0.0).chance_losses()["counts"]

    assert told(1, 2) == pytest.approx(np.log(2))
    assert told(2, 4) == pytest.approx(np.log(4 / 3))


def test_training_beats_what_looks_at_no_image(known, net, images):
    terms = EvidenceTerms(known, 10)
    before, after = trained(terms, net, images, LEARNED, steps=60)
    chance = terms.chance_losses()
    assert all(after[kind] < chance[kind] < before[kind] + 0.1 for kind in ("labels", "proportions"))


def test_without_evidence_there_is_nothing_to_compare_with():
    assert EvidenceTerms(Resolved.nothing(5), 3).chance_losses() == {}


def test_wrong_counts_are_found_and_count_no_more():
    """Two clusters in 90 bags of three; the first nine counts are wrong."""
    rows = torch.arange(90)
    classes = torch.stack([torch.zeros(90), torch.zeros(90), rows % 2]).T.long().flatten()
    counts = torch.where(rows < 9, 2 - rows % 2, 1 + rows % 2).tolist()
    evidence = Evidence.from_bags(classes.reshape(90, 3).new_tensor(range(270)).view(90, 3).tolist(), counts=counts)
    terms = EvidenceTerms(evidence.resolve(range(270), n_clusters=2), 2, epsilon=0.2)
    assert terms.target("count_right").tolist() == pytest.approx([0.8] * 90)
    p = 0.9 * torch.eye(2)[classes] + 0.05
    before = terms.state_dict()
    terms.judge_counts(p)
    assert (terms.target("count_right") < 0.5).tolist() == [row < 9 for row in range(90)]
    assert float(terms.target("count_noise")[0]) == pytest.approx(0.2, abs=0.03)  # half of those at random are right
    assert set(before) == {"count_noise", "count_right"}  # a checkpoint has them


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_counts_are_not_judged_where_none_or_all_are_said_to_be_wrong(epsilon):
    evidence = Evidence.from_bags([[0, 1], [2, 3]], counts=[1, 2]).resolve(range(4), n_clusters=2)
    terms = EvidenceTerms(evidence, 2, epsilon=epsilon)
    terms.judge_counts(torch.eye(2)[[0, 1, 0, 0]])
    assert terms.target("count_right").tolist() == [1 - epsilon] * 2
