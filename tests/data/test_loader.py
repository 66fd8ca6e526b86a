"""The loader: the same parts wherever images lie, gathered once for all views of the same rows, and ahead of time."""

import threading

import numpy as np
import pytest
import torch

from pretend_device import DEVICE, pretend_device
from smidgen.data.batches import Request, seeded
from smidgen.data.loader import Loader, fits
from smidgen.data.views import View, apply_view
from smidgen.hardware import to_device

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 1, 6, 6), dtype=np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(10, 7)).astype(np.float32)
KEY = (0, "train", 3)
ROWS = torch.tensor([3, 0, 3])
BAGS = Request(ROWS, offsets=torch.tensor([0, 2, 3]), items=torch.tensor([7, 8]))
REQUESTS = {"weak": Request(ROWS, View(rotate=20)), "strong": Request(ROWS, View(crop=0.5)), "bags": BAGS}


def parts(loader, requests, key=KEY):
    return loader.parts(loader.gather(requests), key=key)


def tensors(batch):
    return {name: [t.cpu() for t in (part.images, part.indices, *part.views)] for name, part in batch.items()}


@pytest.mark.parametrize("images", [IMAGES, VECTORS], ids=["images", "vectors"])
@pytest.mark.parametrize("resident", [True, False])
def test_parts_are_the_same_wherever_images_lie(images, resident):
    requests = REQUESTS if images is IMAGES else {"bags": BAGS}
    wanted = tensors(parts(Loader(images, device=CPU), requests))
    with pretend_device():
        loader = Loader(images, device=DEVICE, resident=resident)
        found = parts(loader, requests)
        assert {part.images.device for part in found.values()} == {DEVICE}
        assert found["bags"].offsets.device == CPU  # what is cut by it is cut on the host
        found = tensors(found)
        assert loader.floats(slice(2, 4)).cpu().equal(Loader(images, device=CPU).floats(torch.tensor([2, 3])))
    assert found.keys() == wanted.keys()
    assert all(x.equal(y) for name in wanted for x, y in zip(found[name], wanted[name], strict=True))


def test_images_lie_on_an_accelerator_where_they_fit(monkeypatch):
    with pretend_device():
        assert Loader(IMAGES, device=DEVICE).is_resident
        monkeypatch.setattr("smidgen.data.loader._SHARED_MEMORY", IMAGES.nbytes - 1)
        loader = Loader(IMAGES, device=DEVICE)
        assert not loader.is_resident
        assert loader.works_ahead
    assert not fits(0, CPU)
    assert not Loader(IMAGES, device=CPU).works_ahead


def test_images_on_the_device_are_not_sent_there_again(monkeypatch):
    sent = []
    monkeypatch.setattr(
        "smidgen.data.loader.to_device", lambda t, device: sent.append((t.device, t.dtype)) or to_device(t, device)
    )
    with pretend_device() as count:
        loader = Loader(IMAGES, device=DEVICE)
        count.clear()
        parts(loader, REQUESTS)
        assert count.total_waits == 0
    assert (CPU, torch.uint8) not in sent
    assert (CPU, torch.int64) in sent


def test_several_views_are_of_the_same_rows_and_gathered_once():
    class Counting(np.ndarray):
        reads = 0

        def __getitem__(self, rows):
            Counting.reads += 1
            return np.asarray(self)[rows]

    views = (View(crop=0.5), View(crop=0.5), View(crop=0.2, size=4), None)
    part = parts(Loader(IMAGES.view(Counting), device=CPU), {"crops": Request(ROWS, views)})["crops"]
    assert Counting.reads == 1
    assert [tuple(view.shape[2:]) for view in part.views] == [(6, 6), (6, 6), (4, 4), (6, 6)]
    images = torch.from_numpy(IMAGES[ROWS]).float() / 255
    assert part.views[3].equal(images)
    assert not part.views[0].equal(part.views[1])
    assert part.images.equal(part.views[0])
    for number in range(3):
        assert part.views[number].equal(apply_view(views[number], images, generator=seeded(*KEY, "crops", number)))
    parts(Loader(IMAGES.view(Counting), device=CPU), REQUESTS)  # three requests for the same `indices`
    assert Counting.reads == 2


def test_what_was_gathered_ahead_is_taken_for_its_key_only():
    loader = Loader(IMAGES, device=CPU, ahead=True)
    wanted = tensors(parts(loader, REQUESTS))
    loader.gather_ahead(KEY, REQUESTS)
    taken = loader.take(KEY)
    assert taken.requests is REQUESTS
    found = tensors(loader.parts(taken, key=KEY))
    assert all(x.equal(y) for name in wanted for x, y in zip(found[name], wanted[name], strict=True))
    assert loader.take(KEY) is None
    loader.gather_ahead(KEY, REQUESTS)
    assert loader.take((0, "train", 4)) is None
    assert loader.take(KEY) is None  # it was another batch's turn: what has been is forgotten
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_an_error_in_the_thread_comes_out_where_the_batch_is_taken():
    loader = Loader(IMAGES, device=CPU, ahead=True)
    loader.gather_ahead(KEY, {"a": Request(torch.tensor([99]))})
    with pytest.raises(IndexError):
        loader.take(KEY)
    loader.close()
