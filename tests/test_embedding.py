"""Embedding: no bit depends on threads, neighbours in the batch or interruptions; the cache is by content."""

import io
import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from smidgen.data.collection import Item
from smidgen.embedding import run as embedding
from smidgen.embedding.run import embed_files, embed_images
from smidgen.errors import InputError, InputWarning
from smidgen.nets.pretrained import pretrained_encoder


@pytest.fixture(scope="module")
def encoder():
    return pretrained_encoder("lite0", size=32, layers=["block6", "head"], flip=True).eval()


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 8)
    monkeypatch.setattr(embedding, "FAST_BATCH", 4)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 3, 12, 12), dtype=np.uint8)


@pytest.fixture
def runs(monkeypatch):
    """How many images each block sent through the net."""
    sent, run = [], embedding._Runner._run

    def counted(self, pixels):
        sent.append(len(pixels))
        return run(self, pixels)

    monkeypatch.setattr(embedding._Runner, "_run", counted)
    return sent


def test_embeddings_are_the_encoders(images, encoder):
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(images)).numpy()
    found = embed_images(images, encoder, cache=False, dtype=torch.float32)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_depends_on_no_other_image_and_no_number_of_threads(images, encoder, dtype):
    embed = partial(embed_images, encoder=encoder, cache=False, dtype=dtype)
    whole = embed(images, threads=1)
    assert (embed(images, threads=3) == whole).all()
    rows = [29, 3, 17, 4, 5]
    assert (embed(images[rows]) == whole[rows]).all()
    assert (embed(images[7:8]) == whole[7:8]).all()


def test_torchs_number_of_threads_is_given_back(images, encoder):
    before = torch.get_num_threads()
    embed_images(images, encoder, cache=False, threads=2)
    assert torch.get_num_threads() == before


def test_an_interrupted_call_goes_on_from_its_last_block(images, encoder, tmp_path, runs):
    def interrupt(done, _total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_images(images, encoder, cache=tmp_path, threads=1, progress=interrupt)
    blocks = sorted(path.name for path in tmp_path.glob("*/*.npy"))
    assert blocks[:2] == ["000000000.npy", "000000008.npy"]
    runs.clear()
    seen = []
    found = embed_images(images, encoder, cache=tmp_path, threads=1, progress=lambda *step: seen.append(step))
    assert sum(runs) == max(0, 30 - 8 * len(blocks))  # a fast worker may have finished them all
    assert seen[-1] == (30, 30)
    assert (found == embed_images(images, encoder, cache=False)).all()
    assert [path.name for path in tmp_path.iterdir()] == [next(tmp_path.glob("*.npy")).name]  # no blocks left


def test_the_second_call_runs_no_net(images, encoder, tmp_path, runs):
    first = embed_images(images, encoder, cache=tmp_path)
    runs.clear()
    assert (embed_images(images.copy(), encoder, cache=tmp_path) == first).all()
    assert runs == []


def test_other_pixels_another_encoder_and_another_precision_have_embeddings_of_their_own(images, encoder, tmp_path):
    other = images.copy()
    other[4, 0, 0, 0] ^= 1
    unflipped = pretrained_encoder("lite0", size=32, layers=["block6", "head"])
    embed_images(images, encoder, cache=tmp_path, dtype=torch.bfloat16)
    embed_images(other, encoder, cache=tmp_path, dtype=torch.bfloat16)
    embed_images(images, unflipped, cache=tmp_path, dtype=torch.bfloat16)
    embed_images(images, encoder, cache=tmp_path, dtype=torch.float32)
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_the_default_cache_lies_in_the_cache_folder(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path))
    embed_images(images[:2], encoder)
    assert len(list((tmp_path / "embeddings").glob("*.npy"))) == 1


def test_the_default_cache_forgets_what_was_not_used_for_longest(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path))
    folder = tmp_path / "embeddings"
    first = [embed_images(images[:n], encoder) for n in (8, 7, 6)]
    for path in folder.iterdir():
        os.utime(path, (1e9 + path.stat().st_size, 1e9 + path.stat().st_size))  # used long ago, the largest last
    (folder / "mine.npy").write_bytes(bytes(10**6))
    (folder / ("0" * 32)).mkdir()  # the blocks of a call that may still be running
    assert (embed_images(images[:6], encoder) == first[2]).all()  # used now
    three = sum(n * encoder.features * 4 + 128 for n in (8, 6, 5))  # a header takes 128 bytes
    monkeypatch.setenv("SMIDGEN_CACHE_GB", str(three / 2**30))
    embed_images(images[:5], encoder)
    left = sorted(len(np.load(path)) for path in folder.glob("*.npy") if path.name != "mine.npy")
    assert left == [5, 6, 8]  # the one of 7 had to go
    assert (folder / "mine.npy").exists()
    assert (folder / ("0" * 32)).exists()
    monkeypatch.setenv("SMIDGEN_CACHE_GB", "0")
    os.utime(folder / ("0" * 32), (1e9, 1e9))
    embed_images(images[:4], encoder)
    assert [path.name for path in folder.iterdir() if len(path.stem) == 32] == [
        path.name for path in folder.glob("*.npy") if path.name != "mine.npy"
    ]
    assert len(list(folder.glob("*.npy"))) == 2  # the newest stays however little is allowed


def test_a_folder_that_is_given_keeps_everything(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", "0")
    for n in (3, 2):
        embed_images(images[:n], encoder, cache=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


@pytest.mark.parametrize("wrong", ["many", "-1", "nan", "inf"])
def test_a_wrong_size_of_the_cache_is_refused(images, encoder, monkeypatch, wrong):
    monkeypatch.setenv("SMIDGEN_CACHE_GB", wrong)
    with pytest.raises(InputError, match="SMIDGEN_CACHE_GB must be a number of gigabytes"):
        embed_images(images[:1], encoder)


def turned_over(place):
    """Return what turns one bit of a file over."""
    return lambda whole: whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]


DAMAGE = {
    "cut": lambda whole: whole[:-100],
    "empty": lambda whole: b"",
    "magic": turned_over(1),
    "length of the header": turned_over(8),
    "header": turned_over(12),
    "shape": turned_over(62),
    "checksum": turned_over(90),
    "value": turned_over(-3),
    "another array": lambda whole: whole.replace(b"<f4", b"<i4"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew_and_it_is_said_once(images, encoder, tmp_path, damage):
    first = embed_images(images, encoder, cache=tmp_path)
    path = next(tmp_path.glob("*.npy"))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    said = []
    assert (embed_images(images, encoder, cache=tmp_path, log=said.append) == first).all()
    assert len(said) == 1
    assert str(path) in said[0]
    assert said[0].endswith("they are made anew.")
    embed_images(images, encoder, cache=tmp_path, log=said.append)
    assert len(said) == 1


def test_a_damaged_block_is_made_anew_and_the_user_of_the_library_is_warned(images, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 8)
    first = embed_images(images, encoder, cache=tmp_path, threads=1)
    monkeypatch.setattr(embedding.Store, "finish", lambda self, rows: None)  # as if killed just before
    next(tmp_path.glob("*.npy")).unlink()
    embed_images(images, encoder, cache=tmp_path, threads=1)
    block = min(tmp_path.glob("*/*.npy"))
    block.write_bytes(turned_over(-3)(block.read_bytes()))
    with pytest.warns(InputWarning, match="are damaged .*they are made anew"):
        assert (embed_images(images, encoder, cache=tmp_path, threads=1) == first).all()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(images, encoder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    found = embed_images(images, encoder, cache=tmp_path / "file" / "cache")
    assert (found == embed_images(images, encoder, cache=False)).all()


def test_when_memory_runs_out_the_batch_is_halved(images, encoder, monkeypatch):
    expected = embed_images(images, encoder, cache=False, dtype=torch.float32)
    sizes, forward = [], type(encoder).forward

    def small_memory(self, batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return forward(self, batch)

    monkeypatch.setattr(type(encoder), "forward", small_memory)
    found = embed_images(images, encoder, cache=False, dtype=torch.float32, threads=1)
    assert sizes[:3] == [4, 2, 1]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_an_error_in_a_thread_is_the_callers(images, encoder, monkeypatch):
    def broken(self, batch):
        raise RuntimeError("kernel")

    monkeypatch.setattr(type(encoder), "forward", broken)
    with pytest.raises(RuntimeError, match="kernel"):
        embed_images(images, encoder, cache=False)


def test_no_images_have_no_embeddings(encoder):
    assert embed_images(np.zeros((0, 3, 8, 8), dtype=np.uint8), encoder, cache=False).shape == (0, encoder.features)


@pytest.mark.parametrize("wrong", [np.zeros((2, 8, 8), np.uint8), np.zeros((2, 3, 8, 8), np.float32)])
def test_other_arrays_are_refused_in_words(wrong, encoder):
    with pytest.raises(InputError, match="wants uint8 images"):
        embed_images(wrong, encoder)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_files_are_read_while_the_net_runs_and_bad_ones_are_skipped_with_their_reason(encoder, tmp_path):
    photos = np.random.default_rng(1).integers(0, 256, (11, 3, 32, 32), dtype=np.uint8)
    contents = [png(photo) for photo in photos]
    contents[5] = b"Dear Sir,"
    items = [Item(f"{i}.png", lambda data=data: data) for i, data in enumerate(contents)]
    for _ in range(2):  # the second time from the cache
        found, rows, skipped = embed_files(items, encoder, cache=tmp_path, threads=2)
        assert rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
        assert [(bad.id, bad.reason[:12]) for bad in skipped] == [("5.png", "not an image")]
        assert (found == embed_images(photos[rows], encoder, cache=False)).all()


def test_files_of_more_than_8_bits_are_read_by_one_range(encoder):
    photos = np.random.default_rng(1).integers(0, 128, (3, 32, 32))
    items = []
    for row, photo in enumerate([*photos, *(photos * 32)]):
        buffer = io.BytesIO()
        Image.fromarray(photo.astype(np.uint16)).save(buffer, "PNG")
        items.append(Item(f"{row}.png", buffer.getvalue))
    found = embed_files(items, encoder, cache=False)[0]
    alike = [np.rint(photo * (255 / 4095)).astype(np.uint8) for photo in [*photos, *(photos * 32)]]
    assert (found == embed_images(np.stack(alike)[:, None], encoder, cache=False)).all()
    low = embed_files(items[:3], encoder, cache=False)[0]
    assert (low == embed_images(photos.astype(np.uint8)[:, None], encoder, cache=False)).all()
