"""When images are relabelled, what changes then, and which are drawn."""

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, PHOTOGRAPHS, VECTORS, embed_of, floats, make, seeded, train

from smidgen.data.loader import Loader
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.methods.relabelling import (
    Relabellings,
    drawn_evenly,
    find_neighbours,
    plain_view,
    relabelling_steps,
    rows_by_cluster,
    varied,
)


def test_eighty_relabellings_are_dense_at_first():
    steps = relabelling_steps(156_000, 80, schedule="quadratic")
    assert len(steps) == 80
    assert steps[:4] == (0, 24, 97, 219)
    assert steps[-1] == int(156_000 * (79 / 80) ** 2)
    assert (np.diff(steps, 2) >= -1).all()  # ever rarer, but for rounding


def test_relabellings_that_fall_on_one_step_are_one():
    assert relabelling_steps(6, 80, schedule="quadratic") == (0, 1, 2, 3, 4, 5)


def test_what_a_relabelling_changed():
    relabellings, like = Relabellings("loss"), torch.zeros(0, 4)
    before = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    after = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0]])
    rows = torch.cat([
        relabellings.row(0, torch.zeros(0, dtype=torch.int64), before, 0.5, like=like),
        relabellings.row(8, before, after, 0.25, like=like),
    ])  # fmt: skip
    assert relabellings.logged(rows)["reassigned"] == pytest.approx((1 + 0.25) / 2)
    assert 0.5 < float(relabellings.logged(rows)["nmi_previous"]) < 1  # 1 and less
    table = relabellings.table(rows)
    assert table["step"].tolist() == [0, 8]
    assert table["loss"].tolist() == [0.5, 0.25]
    assert np.isnan(table["reassigned"][0])


def test_every_cluster_is_drawn_from_as_often():
    labels = torch.tensor([5] * 90 + [2] * 9 + [7])
    rows = drawn_evenly(rows_by_cluster(labels), 3000, seeded())
    drawn = torch.bincount(labels[rows], minlength=8)
    assert drawn[[0, 1, 3, 4, 6]].sum() == 0
    assert all(900 < int(drawn[k]) < 1100 for k in (2, 5, 7))
    assert len(rows.unique()) == 100


def test_neighbours_of_embeddings_are_of_the_same_class():
    method = make("deepcluster", VECTORS, encoder="vectors")
    near = find_neighbours(embed_of(method, VECTORS), 5, problem=method.problem)
    assert near.shape == (len(VECTORS), 5)
    assert (near != torch.arange(len(VECTORS))[:, None]).all()
    assert (CLASSES[near.numpy()] == CLASSES[:, None]).mean() > 0.7  # chance: .25


def test_neighbours_of_images_are_nearest_by_their_pixels():
    method = make("deepcluster")
    near = find_neighbours(embed_of(method), 5, problem=method.problem)
    assert (CLASSES[near.numpy()] == CLASSES[:, None]).all()


def test_there_are_no_more_neighbours_than_images():
    few = VECTORS[:3]
    method = make("deepcluster", few, n_clusters=2, encoder="vectors")
    assert find_neighbours(embed_of(method, few), 9, problem=method.problem).shape == (3, 2)
    assert find_neighbours(embed_of(method, few[:1]), 9, problem=method.problem).tolist() == [[0]]


@pytest.mark.parametrize("name", ["deepcluster", "sela", "swav"])
def test_a_training_whose_clock_passed_step_0_begins_all_the_same(name):
    method = make(name, neighbours=3)
    method.begin("train", 4, embed_of(method), seeded())
    images = Loader(IMAGES, device=torch.device("cpu"))
    parts = images.parts(images.gather(method.request("train", 0, seeded(), progress=4)), key=(0, "train", 0))
    assert method.loss(parts, stage="train", step=0, progress=4)["total"].isfinite()


def test_only_embeddings_are_varied_by_dropout():
    vectors, images = torch.ones(4, 50), torch.ones(4, 1, 8, 8)
    assert varied(images, dropout=0.5) is images
    assert 0.2 < float((varied(vectors, dropout=0.5) == 0).float().mean()) < 0.8


def test_views_fit_what_is_shown():
    assert plain_view(make("deepcluster", VECTORS, encoder="vectors").problem, crop=0.2, colour=True) is None
    problem = make("deepcluster", PHOTOGRAPHS).problem
    assert plain_view(problem, crop=0.2, colour=False).grey == 0
    assert plain_view(problem, crop=0.2, colour=True).grey > 0


@pytest.mark.parametrize("name", ["deepcluster", "sela", "swav"])
def test_the_preset_for_embeddings_learns_from_neighbours_and_finds_the_classes(name):
    quick = {"steps": 40} | ({} if name == "swav" else {"relabellings": 4})
    method = train(make(name, VECTORS, preset="embeddings", encoder="vectors", **quick), VECTORS)
    assert method.neighbours.shape == (len(VECTORS), 10)
    assert clustering_accuracy(CLASSES, method.assign(floats(VECTORS)).argmax(1).numpy()) > 0.95
