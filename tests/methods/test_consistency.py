"""Consistency: which predictions count, what they are aligned to, and learning from a few labels."""

import math

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_CLASSES, N_IMAGES, VECTORS, floats, seeded, train
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.data.views import apply_view
from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.methods.consistency import aligned, fairness_loss, mixed_loss, pseudo_label_loss, thresholds
from smidgen.nets.wide_resnet import WideResNetEncoder

ONE_EACH = np.where(np.arange(N_IMAGES) < N_CLASSES, CLASSES, -1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed)).softmax(-1)


def make(images=IMAGES, *, labels=ONE_EACH, **options):
    channels = images.shape[1]
    known = Resolved(len(images), labels=torch.as_tensor(labels), class_names=tuple("abcd"))
    problem = Problem(len(images), images.shape[1:], N_CLASSES, (0.5,) * channels, (0.25,) * channels, known)
    small = {"preset": "small", "steps": 60, "batch_size": 8, "ratio": 4} | options
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method("consistency", make_config("consistency", small), problem)


def parts_of(method, images=IMAGES, step=0):
    """Return the parts of a batch as the loader makes them."""
    shown, parts = floats(images), {}
    for name, request in method.request("train", step, seeded(step), progress=step).items():
        rows = shown[request.indices]
        views = tuple(
            rows if v is None else apply_view(v, rows, generator=seeded(i)) for i, v in enumerate(request.views)
        )
        parts[name] = Part(views[0], request.indices, views=views)
    return parts


# --------------------------------------------------------------------------------------------------------- equations


def test_pseudo_labels_are_learned_where_they_are_used_and_averaged_over_all():
    logits, labels, used = (
        torch.randn(5, 3, generator=seeded()),
        torch.tensor([0, 1, 2, 0, 1]),
        torch.tensor([1, 0, 1, 0, 1]),
    )
    slow = sum(-float(logits[i].log_softmax(0)[labels[i]]) for i in (0, 2, 4)) / 5
    assert float(pseudo_label_loss(logits, labels, used.float())) == pytest.approx(slow, rel=1e-5)
    assert float(pseudo_label_loss(logits, labels, torch.zeros(5))) == 0


def test_mixed_rows_learn_both_labels_by_their_shares_and_unused_ones_none():
    logits, labels, used = torch.randn(3, 4, generator=seeded()), torch.tensor([0, 1, 2]), torch.tensor([1.0, 0.0, 1.0])
    partner, share = torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.6, 0.7])
    log = logits.log_softmax(1)
    slow = -(0.9 * log[0, 0] + 0.1 * log[0, 2]) - 0.4 * log[1, 0] - 0.7 * log[2, 2]
    torch.testing.assert_close(mixed_loss(logits, labels, used, partner=partner, share=share), slow / 3)


def test_aligned_predictions_have_the_wanted_mean_where_all_are_alike():
    q, wanted = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    torch.testing.assert_close(aligned(q.expand(4, 3), q, wanted), wanted.expand(4, 3))
    torch.testing.assert_close(aligned(draw(5, 3), q, wanted).sum(1), torch.ones(5))


def test_the_class_predicted_most_has_the_mean_confidence_as_its_threshold():
    found = thresholds(torch.tensor(0.8), torch.tensor([0.25, 0.5, 0.25]))
    torch.testing.assert_close(found, torch.tensor([0.4, 0.8, 0.4]))


def test_fairness_is_free_match_s_equation():
    p, used = draw(6, 3), torch.tensor([1.0, 1, 0, 1, 1, 1])
    seen, histogram = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.6, 0.3, 0.1])
    kept = p[used > 0]
    counts = torch.bincount(kept.argmax(1), minlength=3) / len(kept)
    a = seen / histogram
    b = torch.tensor([float(kept[:, c].mean() / counts[c]) if counts[c] > 0 else 0.0 for c in range(3)])
    a, b = a / a.sum(), b / b.sum()
    slow = sum(float(a[c]) * math.log(max(float(b[c]), 1e-6)) for c in range(3))
    assert float(fairness_loss(p, used, seen=seen, histogram=histogram)) == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize("kept", ["fixed", "adaptive"])
def test_the_loss_is_fix_match_s_equation(kept):
    method = make(thresholds=kept, threshold=0.5, alignment="none", unlabelled_weight=0.5)
    method.net.eval()  # so that batch norm lets views be compared one by one
    with torch.no_grad():
        method.net.heads.linear.weight.mul_(20)
        method.confidence.fill_(0.6)
    parts = parts_of(method)
    losses = method.loss(parts, stage="train", step=0, progress=0)
    weak, strong = (method.net(view)[:, 0] for view in parts["unlabelled"].views)
    q = weak.softmax(1)
    labels = F.cross_entropy(method.net(parts["labelled"].images)[:, 0], method.labels[parts["labelled"].indices])
    limit = 0.5 if kept == "fixed" else thresholds(method.confidence, method.seen)[q.argmax(1)]
    used = (q.amax(1) >= limit).float()
    assert 0 < float(used.mean()) < 1
    unlabelled = (F.cross_entropy(strong, q.argmax(1), reduction="none") * used).mean()
    torch.testing.assert_close(losses["total"], labels + 0.5 * unlabelled)
    torch.testing.assert_close(losses["used"], used.mean())


def test_averages_of_predictions_follow_slowly():
    method, q = make(follow=0.9, alignment="labels"), draw(7, N_CLASSES)
    method._pseudo_labels(q)
    torch.testing.assert_close(method.seen, 0.9 * torch.full((4,), 0.25) + 0.1 * q.mean(0))
    torch.testing.assert_close(method.confidence, 0.9 * torch.tensor(0.25) + 0.1 * q.amax(1).mean())
    shares = torch.bincount(q.argmax(1), minlength=4) / 7
    torch.testing.assert_close(method.histogram, 0.9 * torch.full((4,), 0.25) + 0.1 * shares)


# ---------------------------------------------------------------------------------------------------------- training


def test_the_defaults_are_fix_match_s():
    config = make_config("consistency")
    assert (config.steps, config.batch_size, config.ratio, config.threshold) == (2**20, 64, 7, 0.95)
    assert config == make_config("consistency", {"preset": "paper"})
    method = make(np.repeat(IMAGES, 3, 1), preset="paper", encoder="wrn-28-2")
    assert isinstance(method.net.encoder, WideResNetEncoder)
    groups = method.optimisers("train")[0].param_groups
    assert [(group["weight_decay"], group["momentum"], group["nesterov"]) for group in groups] == [
        (5e-4, 0.9, True),
        (0.0, 0.9, True),
    ]
    assert method.stages()[0].schedule(1.0) == pytest.approx(math.cos(7 * math.pi / 16))


def test_it_asks_for_labelled_images_weak_and_for_all_weak_and_strong():
    method = make(erase=0.3)
    requests = method.request("train", 0, seeded(), progress=0)
    assert set(requests["labelled"].indices.tolist()) <= set(range(N_CLASSES))
    assert (len(requests["labelled"].indices), len(requests["unlabelled"].indices)) == (8, 32)
    weak, strong = requests["unlabelled"].views
    assert (weak.erase, strong.erase, requests["labelled"].views) == (0, 0.3, (weak,))


@pytest.mark.parametrize("images", [IMAGES, VECTORS], ids=["images", "vectors"])
@pytest.mark.parametrize("options", [{}, {"thresholds": "fixed", "threshold": 0.6, "fairness": 0.01}])
def test_from_one_label_a_class_it_learns_easy_classes_by_name(images, options):
    method = make(images, batch_size=16, **options)
    if images is IMAGES:
        method.weak = method.strong = None  # these 8 × 8 pixels are noise, which affine maps spoil
    train(method, images)
    assert (method.assign(floats(images)).argmax(1).numpy() == CLASSES).mean() > 0.85


def test_what_assigns_is_the_average_of_the_weights():
    method, seen = make(steps=3), []
    train(method, look=lambda moment: seen.append(moment.method.net.heads.linear.weight.detach().clone()))
    assert not method.average.net.heads.linear.weight.equal(method.net.heads.linear.weight)
    start, images = method.starting_point, floats(IMAGES)[:5]
    weight, bias = start.head
    torch.testing.assert_close((start.net(images) @ weight.T + bias).softmax(1), method.assign(images))


def test_embeddings_are_mixed_in_pairs_or_not():
    method = make(VECTORS, dropout=0.0)
    strong = floats(VECTORS)[:9]
    torch.manual_seed(0)
    mixed, (partner, share) = method._varied(strong)
    share_of_own = share[:, None]
    torch.testing.assert_close(mixed, share_of_own * strong + (1 - share_of_own) * strong[partner])
    assert float(share.min()) >= 0.5
    assert make(VECTORS, dropout=0.0, mixup=False)._varied(strong)[1] is None
    assert make()._varied(floats(IMAGES)[:3])[1] is None


def test_without_labels_it_says_what_to_give():
    with pytest.raises(InputError, match="`consistency` needs labels, and no training image has one"):
        make(labels=np.full(N_IMAGES, -1)).stages()
