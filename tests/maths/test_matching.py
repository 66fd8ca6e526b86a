from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.matching import align, count_table, majority_map, match_clusters


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=30))
def test_no_permutation_matches_more_images(pairs: list[tuple[int, int]]) -> None:
    clusters, classes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    known = (clusters >= 0) & (classes >= 0)
    clusters_known, classes_known = clusters[known], classes[known]
    best = max((np.array(p)[clusters_known] == classes_known).sum() for p in permutations(range(4)))
    found = match_clusters(clusters, classes, 4, 4)
    assert sorted(found) == [0, 1, 2, 3]
    assert (found[clusters_known] == classes_known).sum() == best


@pytest.mark.parametrize(("n_clusters", "n_classes", "unmatched"), [(2, 5, 0), (5, 2, 3), (0, 2, 0), (2, 0, 2)])
def test_the_smaller_side_is_matched_throughout(n_clusters: int, n_classes: int, unmatched: int) -> None:
    found = match_clusters(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), n_clusters, n_classes)
    assert found.shape == (n_clusters,)
    assert int((found == -1).sum()) == unmatched
    assert len(set(found[found >= 0].tolist())) == n_clusters - unmatched


def test_seed_002_score_is_the_two_labels_swapped() -> None:
    # METHODS section 3: "38.5 %" of 91 images is 61.5 % by the best match.
    clusters = torch.tensor([0] * 91)
    classes = torch.tensor([1] * 56 + [0] * 35)
    assert match_clusters(clusters, classes, 2, 2).tolist() == [1, 0]


def test_tensors_give_int64_tensors_and_arrays_give_arrays() -> None:
    found = match_clusters(torch.tensor([0, 1], dtype=torch.uint8), torch.tensor([1, 0], dtype=torch.uint8), 3, 2)
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.int64
    assert found.tolist() == [1, 0, -1]
    assert isinstance(match_clusters(np.array([0]), np.array([0]), 1, 1), np.ndarray)


def test_majority_takes_the_dominant_class_and_the_smaller_number_on_a_tie() -> None:
    clusters, classes = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([1, 1, 0, 1, 0, -1, -1])
    assert majority_map(clusters, classes, 4, 2).tolist() == [1, 0, -1, -1]
    assert majority_map(clusters[:0], classes[:0], 2, 0).tolist() == [-1, -1]


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(5)), labels=st.lists(st.integers(0, 4), min_size=5, max_size=30))
def test_align_undoes_a_renumbering(order: list[int], labels: list[int]) -> None:
    previous = torch.tensor(labels)
    current = torch.tensor(order)[previous]
    assert torch.equal(align(previous, current, 5)[current], previous)


def test_labels_out_of_range_or_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        match_clusters(torch.tensor([2]), torch.tensor([0]), 2, 2)
    with pytest.raises(InputError, match="-2"):
        count_table(np.array([0]), np.array([-2]), n_rows=1, n_columns=1)
    with pytest.raises(InputError, match="one length"):
        majority_map(torch.tensor([0, 1]), torch.tensor([0]), 2, 2)
