"""Pairs of hashes that differ in few bits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths import hamming
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


@given(HASHES, st.integers(0, 11))
def test_quarters_give_the_pairs_of_a_slow_loop(hashes, radius):
    given = np.array(hashes, dtype=np.uint64)
    slow = np.concatenate([np.zeros((0, 2), int), *hamming._one_by_one(given, radius, None)])
    assert np.concatenate(list(hamming._by_quarters(given, radius, None))).tolist() == slow.tolist()


def test_many_hashes_lose_no_pair(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    changed = hashes[:200] ^ np.array(
        [sum(1 << int(b) for b in rng.permutation(64)[: i % 12]) for i in range(200)], "u8"
    )
    crowded = np.full(50, 7, dtype=np.uint64)
    together = np.concatenate([hashes, changed, crowded])
    expected = pairs_within(together, 10)
    monkeypatch.setattr(hamming, "_MANY", 0)
    monkeypatch.setattr(hamming, "_AT_ONCE", 100)
    assert pairs_within(together, 10).tolist() == expected.tolist()
    assert len(expected) > 180 + 50 * 49 // 2


def test_progress_ends_at_all_rows():
    seen = []
    pairs_within(np.arange(1500, dtype=np.uint64), 0, progress=lambda *at: seen.append(at))
    assert seen == [(1, 1500), (1025, 1500), (1500, 1500)]


@pytest.mark.parametrize(("hashes", "radius"), [(np.zeros(2, int), 1), (np.zeros(2, np.uint64), 65)])
def test_other_types_and_radii_are_refused(hashes, radius):
    with pytest.raises(InputError, match=r"uint64|from 0 to 64 bits, got 65"):
        pairs_within(hashes, radius)
