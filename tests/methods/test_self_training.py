"""Self-training: it goes on from a run's assignments, and keeps what it learned if that is better."""

import contextlib

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_CLASSES, N_IMAGES, embed_of, floats, seeded, train

from device_cases import Kill
from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.evidence.bag_labels import labels_given_bags, sets_of_counts
from smidgen.evidence.held_out import held_out_labels
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem, StartingPoint
from smidgen.methods.self_training import self_training_loss
from smidgen.nets.composed import Chain
from smidgen.training.checkpoint import Checkpoints
from smidgen.training.loop import Settings, Trainer

NAMES = ("a", "b", "c", "d")
TRUTH = torch.from_numpy(CLASSES)


def make(*, labels=None, known=None, n_clusters=N_CLASSES, **options):
    if known is None:
        known = Resolved.nothing(N_IMAGES) if labels is None else Resolved(N_IMAGES, labels=labels, class_names=NAMES)
    problem = Problem(N_IMAGES, IMAGES.shape[1:], n_clusters, (0.5,), (0.25,), known)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_method("self-training", make_config("self-training", {"steps": 20, **options}), problem)


def some_labels(per_class):
    return torch.where(torch.arange(N_IMAGES) < per_class * N_CLASSES, TRUTH, -1)


def begun(method):
    method.begin("train", 0, embed_of(method), seeded())
    return method


def a_run(*, order=(0, 1, 2, 3)):
    """Return what a run with twenty labels a class offers, its clusters in an order, and the run's method."""
    other = begun(make(labels=some_labels(20)))
    weight, bias = other.starting_point.head
    return StartingPoint("conv", other.starting_point.net, (weight[list(order)], bias[list(order)])), other


def test_only_targets_that_are_sure_count_among_all_images_and_known_labels():
    logits = torch.randn(4, 2, generator=seeded())
    targets = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.6, 0.4]])
    known = torch.tensor([False, False, False, True])
    loss, sure = self_training_loss(logits, targets, torch.tensor([0.8, 0.65]), known)
    assert sure.tolist() == [1, 0, 1, 1]
    each = -(targets * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(loss, (each[0] + each[2] + each[3]) / 4)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_it_goes_on_from_the_run_with_its_clusters_named_by_the_labels(order):
    method = make(labels=some_labels(2))
    start, other = a_run(order=order)
    method.start_from(start)
    torch.testing.assert_close(method.eval().assign(floats(IMAGES)), other.assign(floats(IMAGES))[:, list(order)])
    begun(method)
    torch.testing.assert_close(method.first, other.assign(floats(IMAGES)))
    torch.testing.assert_close(method.net.eval()(floats(IMAGES))[:, 0].softmax(1), method.first)


def test_a_run_of_other_clusters_is_refused():
    method = make(n_clusters=3)
    with pytest.raises(InputError, match="has 4 clusters and 3 are wanted: ask for as many"):
        method.start_from(a_run()[0])


def test_without_a_run_kmeans_and_labels_are_the_start():
    found = begun(make()).first.argmax(1)
    assert len(set(zip(found.tolist(), CLASSES.tolist(), strict=True))) == N_CLASSES  # one to one
    named = begun(make(labels=some_labels(1))).first.argmax(1)
    assert (named == TRUTH).float().mean() > 0.9


def test_one_label_in_five_is_neither_trained_on_nor_looked_at():
    method = begun(make(labels=some_labels(10)))
    assert len(method.judge.held_out) == 2 * N_CLASSES
    assert (method.terms.evidence.labels[method.judge.held_out] == -1).all()
    for step in range(20):
        request = method.request("train", step, seeded(step), progress=step)
        for part in request.values():
            assert not np.isin(part.indices, method.judge.held_out).any()
    assert len(held_out_labels(some_labels(4))) == len(held_out_labels(torch.full((9,), -1))) == 0


def test_targets_are_the_teachers_and_the_runs_with_what_it_prefers_held_back():
    method = begun(make(trust=0.25, debias=1.0))
    images = floats(IMAGES)[:8]
    prior = method.prior.lerp(method.assign(images).mean(0), 0.01)
    found = method.targets(Part(images, torch.arange(8)))
    teacher = (method.teacher.net(images)[:, 0] - prior.log()).softmax(1)
    torch.testing.assert_close(found, 0.75 * teacher + 0.25 * method.first[:8])
    torch.testing.assert_close(method.prior, prior)


def test_what_is_worse_by_held_out_labels_is_not_kept():
    for keep, is_kept in (("better", False), ("always", True)):
        method = begun(make(labels=some_labels(10), keep=keep))
        for net in (method.net, method.teacher.net):
            for parameter in net.encoder.parameters():
                parameter.data.zero_()  # it sees nothing any more
        method.eval().finish(embed_of(method), seeded())
        table = method.tables(embed_of(method))["self_training"]
        assert table["kept"].tolist() == [is_kept]
        assert table["before"][0] > table["after"][0]
        same = torch.allclose(method.assign(floats(IMAGES)), method.first, atol=1e-5)
        assert same is not is_kept


def bags(**arrays):
    """Return evidence about 30 bags of four images each, two of which are of the same class."""
    members = torch.arange(120) % N_IMAGES
    names = [f"bag {i}" for i in range(30)]
    return Resolved(N_IMAGES, members=members, offsets=torch.arange(0, 121, 4), bag_names=names, **arrays)


def some_counts():
    counts = torch.tensor([len(TRUTH[torch.arange(i, i + 4) % N_IMAGES].unique()) for i in range(0, 120, 4)])
    return bags(count_bags=torch.arange(30), counts_min=counts, counts_max=counts)


def some_pairs():
    pairs = torch.arange(120).view(60, 2) % N_IMAGES
    return Resolved(N_IMAGES, pairs=pairs, same=TRUTH[pairs[:, 0]] == TRUTH[pairs[:, 1]])


@pytest.mark.parametrize(("evidence", "kind"), [(some_counts(), "counts"), (some_pairs(), "pairs")])
def test_what_is_worse_by_held_out_bags_or_pairs_is_not_kept(evidence, kind):
    method = begun(make(known=evidence))
    assert method.judge.terms.evidence.sizes()[kind] == evidence.sizes()[kind] // 5
    assert method.terms.evidence.sizes()[kind] == evidence.sizes()[kind] * 4 // 5
    for parameter in method.teacher.net.parameters():
        parameter.data.zero_()  # it says the same of all images
    method.eval().finish(embed_of(method), seeded())
    assert method.figures()["fine_tuning_kept"] is False
    assert method.figures()["fine_tuning"].startswith(f"undone: log-likelihood of held-out {kind}")
    torch.testing.assert_close(method.assign(floats(IMAGES)), method.first, atol=1e-5, rtol=1e-4)


def test_how_sure_assignments_are_does_not_decide():
    method = begun(make(known=some_counts()))
    before = float(method.judged[0])
    method.teacher.net.heads.linear.weight.data *= 0.5
    method.teacher.net.heads.linear.bias.data *= 0.5
    method.eval().finish(embed_of(method), seeded())
    assert float(method.judged[1]) == pytest.approx(before, abs=0.05)


def test_images_with_labels_have_them_as_targets():
    method = begun(make(labels=some_labels(2), wrong=0.25))
    images, q = floats(IMAGES)[:12], method.targets(Part(floats(IMAGES)[:12], torch.arange(12)))
    assert q[:8].argmax(1).equal(TRUTH[:8])
    assert float(q[:8].gather(1, TRUTH[:8, None]).min()) >= 0.75
    assert images.shape[0] == 12
    torch.testing.assert_close(q.sum(1), torch.ones(12))


def test_images_of_bags_have_what_their_bags_say_as_targets():
    evidence = some_counts()
    method = make(known=evidence, trust=0.25)
    method.start_from(a_run()[0])
    begun(method)
    used = method.terms.evidence
    believed, rows = method.first.clone(), torch.arange(12)
    first = method.targets(Part(floats(IMAGES)[:12], rows))
    wanted, in_bags = labels_given_bags(used, believed, sets=sets_of_counts(used, N_CLASSES), right=method.terms.right)
    assert in_bags[:12].all()
    torch.testing.assert_close(first, wanted[:12])
    method.predicted[:12] = torch.eye(N_CLASSES)[TRUTH[:12].roll(1)]  # the teacher has learned something else
    believed[:12] = 0.75 * method.predicted[:12] + 0.25 * believed[:12]
    method.begin("train", 10, embed_of(method), seeded())
    wanted, _ = labels_given_bags(used, believed, sets=sets_of_counts(used, N_CLASSES), right=method.terms.right)
    torch.testing.assert_close(method.posteriors, wanted)
    assert not torch.allclose(wanted[:12], first, atol=0.1)
    assert "bags" not in method.request("train", 10, seeded(), progress=10)


def test_it_resumes_between_two_estimates_of_what_bags_hold(tmp_path):
    def trained(kill=None):
        trainer = Trainer(
            make(known=some_counts(), steps=44, batch_size=8),
            IMAGES,
            Settings(checkpoint_every=15),
            callbacks=[Kill(kill)],
            checkpoints=Checkpoints(tmp_path) if kill else None,
        )
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train()
        return trainer.method

    wanted = trained()
    assert [stage.begins for stage in wanted.stages()] == [(0, 20, 40)]
    assert not wanted.predicted.equal(wanted.first)
    trained(kill=33)
    found = trained(kill=99).state_dict()
    assert [name for name, values in wanted.state_dict().items() if not values.equal(found[name])] == []


def test_time_that_is_up_at_once_skips_no_beginning():
    trainer = Trainer(make(known=some_counts(), steps=200), IMAGES, Settings(max_seconds=1e-3))
    trainer.train()
    assert len(trainer.method.first) == len(trainer.method.posteriors) == N_IMAGES


def test_an_image_that_is_drawn_twice_is_noted_once():
    method = begun(make(known=some_counts()))
    rows, images = torch.tensor([3, 1, 3]), floats(IMAGES)
    method.targets(Part(images[[3, 1, 5]], rows))
    wanted = method.teacher.net(images[[3, 1]])[:, 0].softmax(1)
    torch.testing.assert_close(method.predicted[[3, 1]], wanted)


def test_clusters_that_merge_are_not_kept():
    method = begun(make())
    for net in (method.net, method.teacher.net):
        net.heads.linear.bias.data[0] += 1e3
    method.eval().finish(embed_of(method), seeded())
    assert method.assign(floats(IMAGES)).argmax(1).unique().numel() == N_CLASSES


def test_it_mends_a_start_that_is_wrong_of_every_tenth_image():
    method = make(steps=60, batch_size=64, learning_rate=1e-3, head_rate=3e-3)
    start, _ = a_run()
    weight, bias = start.head
    noise = 3 * weight.std() * torch.randn(weight.shape, generator=seeded(3))
    method.start_from(StartingPoint("conv", start.net, (0.1 * (weight + noise), 0.1 * bias)))
    first = (method.eval().assign(floats(IMAGES)).argmax(1) == TRUTH).float().mean()
    train(method)
    assert first < 0.95
    assert (method.assign(floats(IMAGES)).argmax(1) == TRUTH).float().mean() > 0.98
    before, after, is_kept = method.judged.tolist()
    assert after > before
    assert is_kept


def test_nets_without_stages_to_freeze_are_trained_whole():
    assert all(parameter.requires_grad for parameter in make(encoder="wrn-28-2").net.parameters())


def test_labels_of_one_class_alone_decide_nothing():
    labels = torch.where(torch.arange(N_IMAGES) < 20, 2, -1)
    assert len(held_out_labels(labels)) == 0


def test_layers_that_a_run_learned_from_the_evidence_do_not_judge():
    method = begun(make(labels=some_labels(10), encoder=Chain("lite0@32", "vectors")))
    before = float(method.judged[0])
    for parameter in method.teacher.net.encoder.then.parameters():
        parameter.data.zero_()  # what it knew by heart is forgotten, and the features are the same
    method.eval().finish(embed_of(method), seeded())
    assert float(method.judged[1]) == before
