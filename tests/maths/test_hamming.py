"""Pairs of hashes that differ in few bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.hamming import pairs_within

HASHES = st.lists(st.one_of(st.integers(0, 15), st.integers(0, 2**64 - 1)), max_size=12)


@given(HASHES, st.integers(0, 64))
def test_pairs_are_those_of_a_slow_loop(hashes, radius):
    slow = [
        [i, j]
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (hashes[i] ^ hashes[j]).bit_count() <= radius
    ]
    assert pairs_within(np.array(hashes, dtype=np.uint64), radius).tolist() == slow


def test_progress_ends_at_all_rows():
    seen = []
    pairs_within(np.arange(1500, dtype=np.uint64), 0, progress=lambda *at: seen.append(at))
    assert seen == [(1, 1500), (1025, 1500), (1500, 1500)]


@pytest.mark.parametrize(("hashes", "radius"), [(np.zeros(2, int), 1), (np.zeros(2, np.uint64), 65)])
def test_other_types_and_radii_are_refused(hashes, radius):
    with pytest.raises(InputError, match=r"uint64|from 0 to 64 bits, got 65"):
        pairs_within(hashes, radius)
