"""UCC: its equations, its variants, and what it takes over from other runs."""

import math

import numpy as np
import pytest
import torch

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config
from smidgen.methods.base import Problem, StartingPoint
from smidgen.methods.rcc import RCCConfig
from smidgen.methods.ucc import UCC, UCCConfig, ucc_objective
from smidgen.model import Model, Preprocessing
from smidgen.nets.bag_net import CountHead, count_accuracy, count_cross_entropy, expected_count

LABELS = torch.arange(24) % 3
SMALL = {"encoder": "conv", "bags": 4, "bag_size": "6", "features": 5}


def ucc(n_clusters=3, labels=LABELS, seed=0, **options):
    torch.manual_seed(seed)
    evidence = Resolved(len(labels), labels=labels)
    return UCC(UCCConfig(**(SMALL | options)), Problem(len(labels), (1, 8, 8), n_clusters, (0.5,), (0.25,), evidence))


def batch(method, step=0):
    request = method.request("train", step, torch.Generator().manual_seed(step), progress=step)["bags"]
    images = torch.rand(len(request.indices), 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"bags": Part(images, request.indices, request.offsets, request.items)}


def test_the_loss_is_the_weighted_sum_of_the_two_terms():
    method = ucc(alpha=0.3)
    losses = method.loss(batch(method), stage="train", step=0, progress=0)
    assert losses["total"].item() == pytest.approx(0.3 * losses["ucc"].item() + 0.7 * losses["reconstruction"].item())
    assert ucc_objective(torch.tensor(2.0), torch.tensor(4.0), alpha=0.5).item() == 3


def test_the_cross_entropy_is_that_of_the_right_count():
    method = ucc()
    parts = batch(method)
    found = method.loss(parts, stage="train", step=0, progress=0)["ucc"].item()
    part = parts["bags"]
    law = method.count_probabilities(method.encode(part.images), part.offsets)
    counts = [len(set(LABELS[part.indices[a:b]].tolist())) for a, b in zip(part.offsets[:-1], part.offsets[1:], strict=True)]  # fmt: skip # noqa: E501
    expected = -sum(math.log(law[bag, u - 1]) for bag, u in enumerate(counts)) / len(counts)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_range_of_counts_has_the_sum_of_their_probabilities():
    law = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    found = count_cross_entropy(law, torch.tensor([2]), torch.tensor([3]))
    assert found.item() == pytest.approx(-math.log(0.5), rel=1e-5)
    assert count_accuracy(law, torch.tensor([4]), torch.tensor([4])).item() == 1
    assert count_accuracy(law, torch.tensor([1]), torch.tensor([3])).item() == 0
    assert expected_count(law).item() == pytest.approx(3)


def test_counts_that_no_bag_has_get_no_probability():
    head = CountHead(7, torch.tensor([False, True, True, False]))
    law = head(torch.randn(3, 7)).exp()
    assert law[:, [0, 3]].abs().max() == 0
    torch.testing.assert_close(law.sum(1), torch.ones(3))


def test_alpha_one_has_no_decoder_and_alpha_zero_is_an_autoencoder():
    without = ucc(alpha=1.0)
    assert without.net.decoder is None
    assert "reconstruction" not in without.loss(batch(without), stage="train", step=0, progress=0)
    losses = (method := ucc(alpha=0.0)).loss(batch(method), stage="train", step=0, progress=0)
    assert losses["total"].item() == losses["reconstruction"].item()


@pytest.mark.parametrize("options", [{"alpha": 1.0}, {"reconstruction": "none"}])
def test_a_u_net_without_its_decoder_is_the_way_down(options):
    method = ucc(encoder="unet", **options)
    assert method.net.decoder is None
    assert {name.split(".")[0] for name in method.net.state_dict()} == {"encoder", "code"}
    method.loss(batch(method), stage="train", step=0, progress=0)["total"].backward()
    assert all(bool(p.grad.any()) for p in method.net.encoder.sizes.parameters())


@pytest.mark.parametrize("name", ["unet", "unet-no-skips"])
def test_a_saved_u_net_gives_the_same_features_and_images(name, tmp_path):
    method = ucc(encoder=name).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    model = Model(method, "ucc", Preprocessing(8, 1), ("0", "1", "2"))
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    some = torch.rand(3, 1, 8, 8)
    assert loaded.method.net.rebuild(some).equal(method.net.rebuild(some))
    assert (loaded.encode(images) == model.encode(images)).all()
    assert (loaded.assign(images) == model.assign(images)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "softmax"},
        {"activation": "tanh"},
        {"activation": "sine"},
        {"attention": True},
        {"log_output": True},
        {"start_bandwidth": 0.5},
        {"reconstruction": "ssim"},
        {"ucc": "2-3"},
        {"points": 21, "bandwidth": 0.0167, "features": 16},
        {"encoder": "wide-residual", "bag_size": "3-7"},
        {"encoder": "unet"},
        {"encoder": "unet", "reconstruction": "ssim", "warmup_steps": 3},
        {"encoder": "unet-no-skips"},
    ],
)
def test_every_option_gives_finite_gradients_to_the_encoder(options):
    method = ucc(**options)
    method.loss(batch(method), stage="train", step=0, progress=0)["total"].backward()
    gradients = [p.grad for p in method.net.encoder.parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0


def test_the_warm_up_learns_reconstruction_alone_and_comes_first():
    method = ucc(warmup_steps=5)
    assert [stage.name for stage in method.stages()] == ["warmup", "train"]
    method.loss(batch(method), stage="warmup", step=0, progress=0)["total"].backward()
    assert all(p.grad is None for p in method.head.parameters())


def test_a_frozen_encoder_stays_as_it_is_with_its_statistics():
    method = ucc(freeze_encoder=True).train()
    before = {key: value.clone() for key, value in method.net.encoder.state_dict().items()}
    (optimiser,) = method.optimisers("train")
    method.loss(batch(method), stage="train", step=0, progress=0)["total"].backward()
    optimiser.step()
    assert all(value.equal(before[key]) for key, value in method.net.encoder.state_dict().items())
    assert method.net.code.weight.grad.abs().sum() > 0


def started(method, n_clusters):
    """Return what another method offers: an encoder and a softmax head."""
    generator = torch.Generator().manual_seed(5)
    layer = (torch.randn(n_clusters, 128, generator=generator), torch.randn(n_clusters, generator=generator))
    return StartingPoint("conv", method.net.encoder, layer)


def test_a_head_that_ignores_the_bags_has_the_loss_of_chance():
    method = ucc(n_clusters=3)
    law = torch.zeros(1, 3).log_softmax(1)
    one = torch.tensor([1])
    assert method.evidence_use.chance_losses["ucc"] == pytest.approx(count_cross_entropy(law, one, one).item())
    assert ucc(ucc="2-3").evidence_use.chance_losses["ucc"] == pytest.approx(math.log(2))


def bags_of(sizes, least, most=None):
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    most = torch.tensor(most or least)
    table = {"count_bags": torch.arange(len(sizes)), "counts_min": torch.tensor(least), "counts_max": most}
    names = tuple(map(str, range(len(sizes))))
    return Resolved(24, labels=torch.full((24,), -1), bag_names=names, members=torch.arange(int(offsets[-1])) % 24,
                    offsets=offsets, **table)  # fmt: skip


def of_evidence(evidence, **options):
    return UCC(UCCConfig(**(SMALL | options)), Problem(24, (1, 8, 8), 3, (0.5,), (0.25,), evidence))


def test_a_head_that_ignores_the_bags_may_know_how_often_each_count_occurs():
    uneven = of_evidence(bags_of([4] * 10, [1] * 9 + [3])).evidence_use.chance_losses["ucc"]
    assert uneven == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))
    ranges = of_evidence(bags_of([4] * 4, [1, 2, 1, 1], [1, 2, 2, 3])).evidence_use.chance_losses["ucc"]
    assert ranges == pytest.approx(-0.5 * math.log(0.5))  # nothing speaks for 3
    halves = of_evidence(bags_of([4] * 4, [1, 1, 2, 2], [1, 1, 3, 3])).evidence_use.chance_losses["ucc"]
    assert halves == pytest.approx(math.log(2))


def test_a_step_has_two_images_at_least():
    method = of_evidence(bags_of([1, 23], [1, 3]), images=23, bags=1)
    sizes = {
        len(method.request("train", 0, torch.Generator().manual_seed(s), progress=0)["bags"].indices) for s in range(9)
    }
    assert sizes == {23, 24}
    with pytest.raises(InputError, match="more than one image in the bags"):
        of_evidence(bags_of([1], [1])).stages()
    with pytest.raises(InputError, match="more than one image in the bags"):
        ucc(bags=1, bag_size="1", ucc="1").stages()


def test_what_goes_by_the_share_of_training_goes_by_the_clock_too():
    method = ucc(augment=True, augment_until=0.5, steps=10, start_bandwidth=0.4)
    seen = []
    method.net.describe = lambda features, offsets, *, bandwidth: (
        seen.append(bandwidth) or torch.zeros(len(offsets) - 1, method.net.bag_features)
    )
    for progress in (0, 3, 9):
        seen.append(method.request("train", 2, torch.Generator(), progress=progress)["bags"].view is not None)
        method.loss(batch(method), stage="train", step=0, progress=progress)
    assert seen == [True, pytest.approx(0.4), True, pytest.approx(0.1 * 4**0.4), False, pytest.approx(0.1)]


@pytest.mark.parametrize(("features", "taken"), [(3, True), (5, False)])
def test_a_softmax_head_becomes_the_features_where_it_fits(features, taken):
    other = started(ucc(), 3)
    method = ucc(activation="softmax", feature_bias=True, features=features).eval()
    method.start_from(other)
    assert method.net.code.weight[:3].equal(other.head[0]) == taken
    images = torch.rand(4, 1, 8, 8)
    said = torch.nn.functional.linear(other.net.eval()(images), *other.head).softmax(1)
    assert (features == 3) == bool(method.encode(images).shape == said.shape and method.encode(images).allclose(said))
    (optimiser,) = method.optimisers("train")
    slow = {id(p) for p in optimiser.param_groups[1]["params"]}
    assert (id(method.net.code.weight) in slow) == taken


@pytest.mark.parametrize("options", [{"attention": True}, {"alpha": 0.0}, {"alpha": 1.0, "log_output": True}])
def test_another_run_goes_on_where_it_starts_from(options, tmp_path):
    model = Model(ucc(seed=1, **options).eval(), "ucc", Preprocessing(8, 1), ("0", "1", "2"))
    model.save(tmp_path)
    method = ucc(seed=2, **options).eval()
    parts = batch(method)
    wanted = model.method.loss(parts, stage="train", step=0, progress=0)
    assert method.loss(parts, stage="train", step=0, progress=0) != wanted
    method.start_from(Model.load(tmp_path).method.starting_point)
    assert method.loss(parts, stage="train", step=0, progress=0) == wanted


@pytest.mark.parametrize(
    "other",
    [
        {"points": 7},
        {"bandwidth": 0.2},
        {"log_output": True},
        {"ucc": "2-3"},
        {"features": 4},
        {"attention": True},
        {"head_activation": "leaky-relu"},
    ],
)
def test_a_head_of_other_densities_or_counts_is_not_taken(other):
    method, there = ucc(seed=2), ucc(seed=1, **other)
    before = [p.clone() for p in method.head.parameters()]
    method.start_from(there.starting_point)
    assert all(p.equal(b) for p, b in zip(method.head.parameters(), before, strict=True))
    assert method.net.code.weight.equal(there.net.code.weight) == ("features" not in other)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({"bag_size": "6"}, 0), ({"bag_size": "9"}, 9), ({"bag_size": "9", "ucc": "2-3"}, 0),
     ({"bag_size": "10-18", "ucc": "2-3"}, 9), ({"bag_size": "9", "ucc": "2-3", "random_shares": True}, 0),
     ({"bag_size": "10", "ucc": "2-3", "random_shares": True}, 9)],
)  # fmt: skip
def test_images_that_bags_must_repeat_are_spoken_of(options, wanted):
    method = ucc(**options)  # 8 images of each class
    assert [f"up to {wanted} images of a class and one has 8" in text for text in method.evidence_use.notes] == [
        True
    ] * bool(wanted)
    request = method.request("train", 0, torch.Generator().manual_seed(0), progress=0)["bags"]
    bags = [request.indices[a:b] for a, b in zip(request.offsets[:-1], request.offsets[1:], strict=True)]
    assert wanted or all(len(bag.unique()) == len(bag) for bag in bags)


def test_presets_are_options_that_others_override():
    fast = make_config("ucc", {"preset": "fast", "steps": "7"})
    assert (fast.encoder, fast.alpha, fast.learning_rate, fast.steps) == ("conv", 1.0, 3e-3, 7)
    assert make_config("ucc", {"preset": "paper"}) == UCCConfig()
    short = make_config("ucc", {"preset": "paper-short"})
    assert (short.schedule, short.learning_rate, short.encoder) == ("one-cycle", 1e-3, "wide-residual")
    with pytest.raises(InputError, match=r"Unknown preset of ucc 'fats'\. Did you mean 'fast'\?"):
        make_config("ucc", {"preset": "fats"})


def test_only_the_paper_s_settings_leave_the_gradient_as_it_is():
    clips = {}
    for preset in UCCConfig.PRESETS:
        chosen = make_config("ucc", {"preset": preset, "encoder": "conv", "steps": 1})
        method = UCC(chosen, Problem(24, (1, 8, 8), 3, (0.5,), (0.25,), Resolved(24, labels=LABELS)))
        clips[preset] = [stage.clip for stage in method.stages()], method.config.head_start
    ours = [1.0], "pytorch"
    theirs = dict.fromkeys(("paper", "paper-short"), ([None], "glorot"))
    assert clips == theirs | dict.fromkeys(("report", "fast", "warm", "warm-embeddings"), ours)
    assert [stage.clip for stage in ucc(warmup_steps=2, clip=3).stages()] == [3.0, 3.0]
    assert (RCCConfig().clip, RCCConfig().head_start) == (1.0, "pytorch")


def test_the_report_s_base_model_has_batch_norm_in_its_decoder_and_leaky_relu_in_its_head():
    kinds = []
    for preset in ("report", "paper"):
        chosen = make_config("ucc", {"preset": preset, "encoder": "wide-residual", "steps": 1})
        method = UCC(chosen, Problem(24, (1, 8, 8), 3, (0.5,), (0.25,), Resolved(24, labels=LABELS)))
        has_norm = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in method.net.decoder.modules())
        kinds.append((has_norm, type(method.head.layers[1]), type(method.head.layers[3])))
    assert kinds == [(True, *[torch.nn.LeakyReLU] * 2), (False, *[torch.nn.ReLU] * 2)]


def test_the_paper_s_net_has_the_paper_s_sizes():
    problem = Problem(24, (1, 28, 28), 10, (0.5,), (0.25,), Resolved(24, labels=torch.arange(24) % 10))
    method = UCC(UCCConfig(), problem)
    assert method.net.code.weight.shape == (10, 6272)
    assert method.net.code.bias is None
    assert [layer.in_features for layer in method.head.layers if hasattr(layer, "in_features")] == [
        110,
        384,
        192,
    ]
    assert len(method.request("train", 0, torch.Generator(), progress=0)["bags"].indices) == 640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "`alpha` must be a number from 0 to 1"),
        ({"alpha": 1.0, "warmup_steps": 3}, "lower `alpha`"),
        ({"alpha": 0.0, "reconstruction": "none"}, "only the decoder learns"),
        ({"reconstruction": "none", "warmup_steps": 3}, "`reconstruction` to be mse or ssim"),
        ({"ucc": "0-3"}, "`ucc` must be"),
        ({"bandwidth": 0.0}, "`bandwidth` must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        UCCConfig(**options)


def test_without_bags_or_labels_it_says_what_to_give():
    with pytest.raises(InputError, match="needs unique class counts of bags: give --bags"):
        ucc(labels=torch.full((6,), -1)).stages()


def test_its_tables_tell_of_bags_clusters_and_pictures():
    sizes = torch.tensor([3, 4])
    evidence = Resolved(
        7,
        labels=torch.full((7,), -1),
        bag_names=("a", "b"),
        members=torch.arange(7),
        offsets=torch.nn.functional.pad(sizes.cumsum(0), (1, 0)),
        count_bags=torch.tensor([0, 1]),
        counts_min=torch.tensor([1, 2]),
        counts_max=torch.tensor([1, 2]),
    )
    method = UCC(UCCConfig(**SMALL), Problem(7, (1, 8, 8), 2, (0.5,), (0.25,), evidence)).eval()
    images = torch.rand(7, 1, 8, 8)

    @torch.no_grad()
    def embed(function=None):
        return (function or method.encode)(images)

    method.finish(embed, torch.Generator().manual_seed(0))
    tables = method.tables(embed)
    assert tables["bag_counts"]["bag"].tolist() == ["a", "b"]
    assert len(tables["feature_densities"]["density"]) == 2 * 5 * 11
    assert tables["cluster_divergences"]["bits"].reshape(2, 2)[0, 1] > 0
    assert np.allclose(tables["reconstructions"]["original"], images.flatten().numpy(), atol=1e-6)


def test_images_are_shown_as_they_are_towards_the_end():
    method = ucc(augment=True, augment_until=0.5, steps=4)
    views = [
        method.request("train", step, torch.Generator().manual_seed(0), progress=step)["bags"].view for step in range(4)
    ]
    assert [view is None for view in views] == [False, False, True, True]
    assert ucc(augment=True, steps=4).request("train", 3, torch.Generator(), progress=3)["bags"].view is not None
    warm = ucc(augment=True, augment_until=0.5, steps=4, warmup_steps=4, alpha=0.5)
    assert warm.request("warmup", 3, torch.Generator(), progress=3)["bags"].view is not None
    with pytest.raises(InputError, match="`augment_until` must be a number from 0 to 1"):
        UCCConfig(augment_until=80)
