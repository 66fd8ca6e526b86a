"""Batches: requests become parts, and all chance comes from the key."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.batches import Request, seeded
from smidgen.data.loader import Loader
from smidgen.data.views import View

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 1, 6, 6), dtype=np.uint8)
KEYS = st.lists(st.integers(1, 2**70) | st.text(min_size=2, max_size=8), min_size=1, max_size=4).map(tuple)


def parts(requests, *key):
    loader = Loader(IMAGES, device=CPU)
    return loader.parts(loader.gather(requests), key=key or (0, "train", 3))


def test_images_become_floats_between_zero_and_one():
    rows = torch.tensor([3, 0, 3])
    part = parts({"a": Request(rows)})["a"]
    assert part.images.equal(torch.from_numpy(IMAGES[[3, 0, 3]]).float() / 255)
    assert part.indices.equal(rows)
    assert (part.offsets, part.items) == (None, None)


def test_bags_and_items_travel_along():
    offsets, items = torch.tensor([0, 2, 3]), torch.tensor([7, 8])
    part = parts({"bags": Request(torch.tensor([1, 2, 3]), offsets=offsets, items=items)})["bags"]
    assert part.offsets.equal(offsets)
    assert part.items.equal(items)


def test_a_slice_and_rows_of_a_mapped_file_give_the_same(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that may not be written to
        part = Loader(mapped, device=CPU).floats(slice(2, 5))
    assert part.equal(Loader(IMAGES, device=CPU).floats(torch.tensor([2, 3, 4])))


def test_the_original_images_are_not_changed():
    before = IMAGES.copy()
    Loader(IMAGES, device=CPU).floats(slice(0, 10)).zero_()
    assert (before == IMAGES).all()


def test_a_batch_is_the_same_for_the_same_key_only():
    request = {"a": Request(torch.tensor([3, 3]), View(rotate=30, shift=0.2))}
    assert parts(request, 0, "train", 3)["a"].images.equal(parts(request, 0, "train", 3)["a"].images)
    for key in ((1, "train", 3), (0, "other", 3), (0, "train", 4)):
        assert not parts(request, 0, "train", 3)["a"].images.equal(parts(request, *key)["a"].images)


def test_two_parts_and_two_copies_get_different_views():
    request = Request(torch.tensor([3, 3]), View(rotate=30, shift=0.2))
    both = parts({"a": request, "b": request})
    seen = [both["a"].images[0], both["a"].images[1], both["b"].images[0], both["b"].images[1]]
    assert not any(x.equal(y) for i, x in enumerate(seen) for y in seen[:i])


def test_a_part_does_not_depend_on_the_others():
    request = Request(torch.tensor([3, 4]), View(rotate=30))
    assert parts({"a": request})["a"].images.equal(parts({"b": request, "a": request})["a"].images)


@given(KEYS, KEYS)
def test_different_keys_give_different_streams(one, other):
    draws = [torch.randint(2**60, (2,), generator=seeded(*key)) for key in (one, other)]
    assert draws[0].equal(draws[1]) == (one == other)


def test_streams_of_neighbouring_steps_are_not_related():
    first = torch.stack([torch.rand(50, generator=seeded(0, "train", step)) for step in range(100)])
    correlations = torch.corrcoef(first).fill_diagonal_(0)
    assert float(correlations.abs().max()) < 0.65
    assert abs(float(first.mean()) - 0.5) < 0.02


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        seeded(-1)


def test_the_stream_is_the_same_on_every_machine():
    assert torch.randint(1000, (3,), generator=seeded(0, "train", 3)).tolist() == [361, 381, 382]
