"""Poisson learning on small graphs, against the equation solved directly."""

import numpy as np
import pytest
import torch

from smidgen.errors import InputError
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.poisson_learning import neighbour_graph, poisson_learning


@pytest.fixture(scope="module")
def graph():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    return neighbour_graph([nearest_neighbours(x, 8)[0], nearest_neighbours(x, 4, metric="cosine")[0]])


def test_edges_have_no_direction_and_count_once_per_list():
    near = torch.tensor([[1], [0], [0]])
    assert neighbour_graph([near, near]).toarray().tolist() == [[0, 2, 2], [2, 0, 0], [2, 0, 0]]


def test_the_result_solves_the_equation(graph):
    rows, targets, weights = torch.tensor([3, 10, 40]), torch.eye(3)[[0, 1, 1]], torch.tensor([1.0, 2.0, 0.5])
    degrees = np.asarray(graph.sum(1)).ravel()
    sources = np.zeros((60, 3))
    sources[rows] = weights[:, None] * (targets - (weights[:, None] * targets).sum(0) / weights.sum())
    solved = np.linalg.pinv(np.diag(degrees) - graph.toarray()) @ sources
    solved -= degrees @ solved / degrees.sum()
    wanted = torch.from_numpy(solved / np.sqrt((solved**2).mean())).float()
    found = poisson_learning(graph, rows, targets, weights=weights, iterations=5000)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_one_label_of_each_class_reaches_all_of_its_group():
    generator = torch.Generator().manual_seed(1)
    classes = torch.arange(90) % 3
    x = 6 * torch.eye(3)[classes] + torch.randn(90, 3, generator=generator)
    found = poisson_learning(neighbour_graph([nearest_neighbours(x, 6)[0]]), torch.tensor([0, 1, 2]), torch.eye(3))
    assert (found.argmax(1) == classes).float().mean() > 0.97


def test_a_part_of_the_graph_without_labels_gives_no_class():
    near = torch.tensor([[1], [0], [3], [2]])
    found = poisson_learning(neighbour_graph([near]), torch.tensor([0, 1]), torch.eye(2))
    assert found[2:].abs().max() == 0


def test_no_iterations_are_refused(graph):
    with pytest.raises(InputError, match="`iterations` must be 1 or above, got 0"):
        poisson_learning(graph, torch.tensor([0]), torch.eye(1), iterations=0)


@pytest.mark.parametrize("iterations", [300, 301])
def test_two_points_that_are_only_each_other_s_neighbours_take_turns_and_are_told_apart(iterations):
    graph = neighbour_graph([torch.tensor([[1], [0]])])
    scores = poisson_learning(graph, torch.tensor([0, 1]), torch.eye(2), iterations=iterations)
    assert scores.argmax(1).tolist() == [0, 1]
