"""SwAV: codes balanced over the batch and a queue, predicted from other views; prototypes of length one."""

import math

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_IMAGES, PHOTOGRAPHS, VECTORS, begun, floats, make, seeded, train
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.data.views import apply_view
from smidgen.methods import make_config
from smidgen.methods.swav import make_optimiser, swapped_loss


def part_of(request, images=IMAGES):
    shown = floats(images)[request.indices]
    views = tuple(
        shown if v is None else apply_view(v, shown, generator=seeded(i)) for i, v in enumerate(request.views)
    )
    return Part(views[0], request.indices, views=views)


def slow_codes(scores, *, epsilon, iterations):
    q = np.exp(scores.double().numpy() / epsilon)  # (batch, prototypes)
    for _ in range(iterations):
        q = q / q.sum(0, keepdims=True) / q.shape[1]
        q = q / q.sum(1, keepdims=True) / q.shape[0]
    return torch.from_numpy(q * q.shape[0]).float()


def test_codes_are_three_iterations_of_sinkhorn_on_exponential_scores():
    method = make("swav", prototypes=5)
    scores = torch.rand(40, 5, generator=seeded()) - 0.5
    torch.testing.assert_close(method.codes(scores), slow_codes(scores, epsilon=0.05, iterations=3))


def test_codes_take_the_queue_into_account_and_are_of_the_batch():
    method = make("swav", prototypes=5, queue=30)
    queue = F.normalize(torch.randn(30, 128, generator=seeded()), dim=1)
    scores = torch.rand(8, 5, generator=seeded()) - 0.5
    whole = torch.cat([method.prototypes(queue), scores]).detach()
    slow = slow_codes(whole, epsilon=0.05, iterations=3)[-8:]
    torch.testing.assert_close(method.codes(scores, queue).detach(), slow)


def test_scores_are_in_float32_under_autocast():
    method, z = make("swav", prototypes=5), F.normalize(torch.randn(8, 128, generator=seeded()), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = method.scores(z)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, z @ method.prototypes.weight.T)


def test_every_view_but_its_own_predicts_a_code():
    codes = [torch.rand(6, 4, generator=seeded(i)).softmax(1) for i in (0, 1)]
    scores = [torch.randn(6, 4, generator=seeded(i)) for i in range(4)]
    terms = [-(codes[i] * (scores[v] / 0.1).log_softmax(1)).sum(1).mean() for i in range(2) for v in range(4) if v != i]
    assert len(terms) == 6
    torch.testing.assert_close(swapped_loss(codes, scores, temperature=0.1), sum(terms) / 6)


def test_codes_have_no_gradient_and_prototypes_do():
    method = begun("swav", prototypes=6)
    request = method.request("train", 0, seeded(), progress=0)["crops"]
    method.loss({"crops": part_of(request)}, stage="train", step=0, progress=0)["total"].backward()
    assert method.prototypes.weight.grad.abs().sum() > 0
    assert not method.codes(torch.rand(4, 6)).requires_grad


def test_all_crops_are_asked_for_at_once_the_small_ones_smaller():
    method = make("swav", PHOTOGRAPHS, small_crops=6)
    requests = method.request("train", 0, seeded(), progress=0)
    assert requests.keys() == {"crops"}
    views = requests["crops"].views
    assert [view.size for view in views] == [None, None] + [3] * 6  # 3/7 of 8 pixels
    assert (views[2].crop, views[2].crop_most) == (0.05, 0.14)
    assert method.project(torch.rand(2, 3, 3, 3)).shape == (2, 128)


def test_prototypes_stay_still_at_first_and_always_have_length_one():
    seen = []
    method = make("swav", steps=10, frozen=0.4, batch_size=16, prototypes=6)
    train(method, look=lambda moment: seen.append(moment.method.prototypes.weight.detach().clone()))
    assert all(weight.equal(seen[0]) for weight in seen[:4])
    assert not seen[4].equal(seen[3])
    for weight in seen:
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(6))


def test_the_queue_fills_from_its_share_of_the_training_on_and_then_takes_part():
    used, filled = [], []
    method = make("swav", steps=10, batch_size=16, prototypes=6, queue=40, queue_from=0.2)
    codes = method.codes
    method.codes = lambda scores, queue=None: (used.append(queue is not None), codes(scores, queue))[1]
    train(method, look=lambda moment: filled.append(int((moment.method.queue[0].norm(dim=1) > 0).sum())))
    assert filled == [0, 0, 16, 32, 40, 40, 40, 40, 40, 40]
    assert used[::2] == [False] * 5 + [True] * 5
    assert not method.queue[0].equal(method.queue[1])


@pytest.mark.parametrize("prototypes", [6, 3000])
def test_a_net_that_sees_nothing_has_the_loss_that_diagnostics_know(prototypes):
    method = begun("swav", prototypes=prototypes)
    with torch.no_grad():
        method.projector[-1].weight.zero_()
    request = method.request("train", 0, seeded(), progress=0)["crops"]
    losses = method.loss({"crops": part_of(request)}, stage="train", step=0, progress=0)
    chance = method.evidence_use.chance_losses["codes"]
    assert chance == math.log(prototypes)
    assert float(losses["codes"].detach()) == pytest.approx(chance, rel=0.3)  # scores are equal for all images
    assert losses["total"].equal(losses["codes"])


def test_it_finds_easy_classes():
    method = train(make("swav", steps=60, batch_size=32, prototypes=12))
    clusters = method.assign(floats(IMAGES)).argmax(1).numpy()
    pure = sum(np.bincount(CLASSES[clusters == k]).max() for k in set(clusters))
    assert pure / N_IMAGES > 0.9


def test_on_embeddings_the_second_view_is_a_neighbour_s():
    method = begun("swav", VECTORS, encoder="vectors", neighbours=3, small_crops=1)
    requests = method.request("train", 0, seeded(), progress=0)
    pairs = zip(requests["near"].indices.tolist(), requests["crops"].indices.tolist(), strict=True)
    assert all(near in method.neighbours[row].tolist() for near, row in pairs)
    assert requests["crops"].views == (None,) * 3
    near = Part(floats(VECTORS)[requests["near"].indices], requests["near"].indices)
    parts = {"crops": part_of(requests["crops"], VECTORS), "near": near}
    assert float(method.loss(parts, stage="train", step=0, progress=0)["total"].detach()) > 0


def test_a_view_of_writing_is_no_mirror_image():
    assert not make("swav").request("train", 0, seeded(), progress=0)["crops"].views[0].flip
    assert make("swav", PHOTOGRAPHS).request("train", 0, seeded(), progress=0)["crops"].views[0].flip


# --------------------------------------------------------------------------------------------------------- optimisers


def slow_lars(weights, gradients, *, rate, momentum, decay):
    """Return weights after steps of LARS by the equations of You, Gitman and Ginsburg 2017, layer by layer."""
    w, v = weights.double(), torch.zeros_like(weights).double()
    for g in gradients:
        local = 0.001 * w.norm() / (g.double().norm() + decay * w.norm())
        v = momentum * v + local * (g.double() + decay * w)
        w = w - rate * v
    return w.float()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_scales_the_step_of_each_layer_to_its_weights(decay):
    config = make_config("swav", {"learning_rate": 0.6, "weight_decay": decay})
    layers = [torch.randn(4, 3, generator=seeded(0)) * 10, torch.randn(7, generator=seeded(1)) * 0.1]
    gradients = [[torch.randn(w.shape, generator=seeded(2 + step)) for step in range(3)] for w in layers]
    learned = [torch.nn.Parameter(w.clone()) for w in layers]
    optimiser = make_optimiser(learned, config)
    for step in range(3):
        for parameter, own in zip(learned, gradients, strict=True):
            parameter.grad = own[step].clone()
        optimiser.step()
    for parameter, w, own in zip(learned, layers, gradients, strict=True):
        wanted = slow_lars(w, own, rate=0.6, momentum=0.9, decay=decay)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-5, atol=1e-7)
        assert not parameter.detach().allclose(w, rtol=1e-5)


def test_the_paper_s_optimiser_is_lars_and_the_other_presets_s_is_sgd():
    for preset, name, clip in (("paper", "Lars", None), ("small", "SGD", 1.0), ("embeddings", "SGD", 1.0)):
        config = make_config("swav", {"preset": preset})
        optimiser = make_optimiser([torch.nn.Parameter(torch.ones(2))], config)
        assert type(optimiser).__name__ == name
        method = make("swav", optimiser=config.optimiser)
        assert method.stages()[0].clip == clip
        assert type(method.optimisers("train")[0]).__name__ == name


def test_swav_learns_by_lars():
    method = make("swav", prototypes=6, optimiser="lars", learning_rate=10.0, steps=20)
    before = [p.detach().clone() for p in method.encoder.parameters()]
    train(method)
    after = list(method.encoder.parameters())
    assert all(bool(p.isfinite().all()) for p in after)
    assert any(not p.allclose(b) for p, b in zip(after, before, strict=True))
    torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(6))
