"""SeLa: labels of given sizes for all images, several heads, and when and by what they are relabelled."""

import itertools

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_IMAGES, VECTORS, begun, embed_of, floats, make, seeded, train

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.maths.schedules import rate


def published_labels(logits, *, strength, marginals=None):
    """Return the labels of the published update in NumPy, float64, until it no longer changes."""
    p = torch.from_numpy(logits).double().softmax(1).numpy().T ** strength  # (K, N)
    k, n = p.shape
    marginals = np.full(k, 1 / k) if marginals is None else np.asarray(marginals) / np.sum(marginals)
    c = np.full(n, 1 / n)
    for _ in range(5000):
        r = marginals / (p @ c)
        c = (1 / n) / (r @ p)
    return (r[:, None] * p).argmax(0)


def logits_of(method, head):
    return method.eval().heads(method.encoder(floats(IMAGES)))[:, head].detach().numpy()


@pytest.mark.parametrize(("prior", "marginals"), [("uniform", None), ("1, 2,3,4", [1, 2, 3, 4])])
def test_labels_are_those_of_the_published_update(prior, marginals):
    method = begun("sela", heads=2, strength=100.0, tolerance=1e-3, prior=prior)
    for head in range(2):
        slow = published_labels(logits_of(method, head), strength=100.0, marginals=marginals)
        assert (method.labels[head].numpy() == slow).mean() > 0.98
        sizes = np.bincount(method.labels[head].numpy(), minlength=4) / N_IMAGES
        np.testing.assert_allclose(sizes, np.array(marginals or [1] * 4) / sum(marginals or [1] * 4), atol=0.05)


def test_heads_have_labels_of_their_own():
    labels = begun("sela", heads=3).labels
    assert labels.shape == (3, N_IMAGES)
    assert not labels[0].equal(labels[1])


def test_one_head_is_relabelled_at_a_time_and_the_others_begin_with_balanced_random_labels():
    method = make("sela", heads=3, relabelled_heads="one", relabellings=4, spacing="linear", steps=40)
    seen = []
    for step in (0, 10, 20, 30):
        method.begin("train", step, embed_of(method), seeded(step))
        seen.append(method.labels.clone())
        with torch.no_grad():
            method.heads.linear.weight.normal_(generator=seeded(step))
    assert torch.bincount(seen[0][2], minlength=4).tolist() == [30] * 4
    for turn, (before, after) in enumerate(itertools.pairwise(seen), start=1):
        changed = [not before[head].equal(after[head]) for head in range(3)]
        assert changed == [head == turn % 3 for head in range(3)]


def test_scalings_are_kept_from_one_relabelling_to_the_next():
    iterations = {}
    for keep in (True, False):
        method = begun("sela", groups=12, keep_scalings=keep, tolerance=1e-3)
        method.begin("train", 5, embed_of(method), seeded())
        iterations[keep] = method.history[:, 3].tolist()
    assert iterations[True][0] == iterations[False][0] == iterations[False][1]
    assert iterations[True][1] < iterations[True][0]


def test_with_a_learned_prior_labels_follow_unequal_classes():
    few = np.concatenate([IMAGES[CLASSES == 0], IMAGES[CLASSES == 1][:8]])
    largest = {}
    for prior in ("uniform", "learned"):
        method = train(
            make("sela", few, n_clusters=2, heads=1, steps=40, relabellings=8, batch_size=32, prior=prior), few
        )
        largest[prior] = method.history[:, 4]
    assert float(largest["uniform"].max()) < 0.55
    assert largest["learned"][:5].equal(largest["uniform"][:5])  # until 40 % of the steps
    assert 0.7 < float(largest["learned"][-1]) < 0.85  # 30 of 38 would be .79


@pytest.mark.parametrize(
    ("prior", "message"),
    [("even", "must be uniform, learned, or numbers"), ("1,0,1,1", "above 0"), ("1,2", "each of the 4 labels"),
     ("1,nan,1,1", "above 0")],
)  # fmt: skip
def test_a_prior_that_is_none_is_refused(prior, message):
    with pytest.raises(InputError, match=message):
        make("sela", prior=prior)


def test_its_loss_is_the_mean_over_heads_of_the_cross_entropy_with_their_labels():
    method = begun("sela", heads=2)
    request = method.request("train", 0, seeded(), progress=0)["images"]
    images = floats(IMAGES)[request.indices]
    part = Part(images, request.indices, items=request.items)
    losses = method.loss({"images": part}, stage="train", step=0, progress=0)
    log = method.heads(method.encoder(images)).log_softmax(2)
    slow = [-log[i, head, method.labels[head, row]] for head in range(2) for i, row in enumerate(request.items)]
    torch.testing.assert_close(losses["total"], torch.stack(slow).mean())


def test_the_learning_rate_falls_three_times():
    stage = make("sela", steps=400).stages()[0]
    rates = [rate(stage.schedule, step, 400) for step in (149, 151, 299, 301, 349, 351)]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_the_head_with_the_lowest_loss_decides():
    method = begun("sela", heads=3)
    method.running_loss = torch.tensor([2.0, 1.0, 3.0])
    method.finish(embed_of(method), seeded())
    assert int(method.head) == 1
    weight, bias = method.starting_point.head
    images = floats(IMAGES)[:5]
    torch.testing.assert_close((method.eval().encoder(images) @ weight.T + bias).softmax(1), method.assign(images))


@pytest.mark.parametrize("groups", [0, 9])
def test_it_finds_easy_classes_with_as_many_labels_as_clusters_or_more(groups):
    method = train(make("sela", groups=groups, steps=40, relabellings=12, batch_size=32))
    clusters = method.assign(floats(IMAGES)).argmax(1).numpy()
    pure = sum(np.bincount(CLASSES[clusters == k]).max() for k in set(clusters))
    assert pure / N_IMAGES > 0.9


def test_labels_made_by_views_differ_and_are_the_same_with_the_same_seed():
    plain, views = begun("sela").labels, begun("sela", relabel_views=True).labels
    assert not plain.equal(views)
    assert views.equal(begun("sela", relabel_views=True).labels)


def test_on_embeddings_a_label_is_learned_from_neighbours():
    method = begun("sela", VECTORS, encoder="vectors", neighbours=3)
    request = method.request("train", 0, seeded(), progress=0)["images"]
    pairs = zip(request.indices.tolist(), request.items.tolist(), strict=True)
    assert all(near in method.neighbours[row].tolist() for near, row in pairs)
