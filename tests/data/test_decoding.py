import io

import numpy as np
import pytest
from PIL import Image

from smidgen.data import decoding
from smidgen.data.collection import Item
from smidgen.data.decoding import decode_items
from smidgen.errors import InputError


def items(*pictures):
    return [Item(f"{row}.png", lambda picture=picture: encoded(picture)) for row, picture in enumerate(pictures)]


def encoded(picture):
    if isinstance(picture, bytes):
        return picture
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def grey(side, level=7, mode="L"):
    return Image.new("L", (side, side), level).convert(mode)


RED = Image.new("RGB", (20, 20), (255, 0, 0))


@pytest.mark.parametrize(
    ("pictures", "shape"),
    [
        ([grey(20), grey(20)], (1, 20, 20)),
        ([grey(20), grey(20, mode="RGB")], (1, 20, 20)),  # stored as colour, yet grey in every pixel
        ([grey(20), RED], (3, 20, 20)),
        ([grey(64)], (1, 64, 64)),
        ([grey(65)], (1, 64, 64)),
        ([grey(20), grey(21)], (1, 64, 64)),
        ([grey(20).resize((20, 10))], (1, 64, 64)),
    ],
)
def test_default_size_and_channels(pictures, shape):
    images, good, skipped, *_ = decode_items(items(*pictures))
    assert images.shape == (len(pictures), *shape)
    assert images.dtype == np.uint8
    assert (len(good), skipped) == (len(pictures), ())


@pytest.mark.parametrize(
    ("odd", "shape"), [(RED, (3, 20, 20)), (grey(21), (1, 64, 64)), (RED.resize((9, 9)), (3, 64, 64))]
)
def test_one_image_that_was_not_looked_at_changes_the_guess_for_all(odd, shape):
    pictures = [grey(20, level) for level in range(100)]
    pictures[50] = odd  # 32 evenly spaced images are looked at first: 48, 51 …
    images, good, *_ = decode_items(items(*pictures))
    assert images.shape == (100, *shape)
    assert images[[3, 99]].mean(axis=(1, 2, 3)).tolist() == [3, 99]
    assert len(good) == 100


@pytest.mark.parametrize("n_threads", [1, 4])
def test_bad_images_are_left_out_and_the_rest_keep_their_order(n_threads, monkeypatch):
    monkeypatch.setattr(decoding, "_SMALL_AREA", 0 if n_threads > 1 else 10**9)
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: n_threads)
    pictures = [b"no image" if row % 7 == 0 else grey(8, row) for row in range(200)]
    images, good, skipped, *_ = decode_items(items(*pictures))
    assert good.tolist() == [row for row in range(200) if row % 7]
    assert images[:, 0, 0, 0].tolist() == good.tolist()
    assert [bad.id for bad in skipped][:2] == ["0.png", "7.png"]
    assert "not an image" in skipped[0].reason


def test_the_files_own_sizes_are_kept_upright():
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("L", (300, 200)).save(turned, "JPEG", exif=exif)
    decoded = decode_items(items(RED, b"no image", RED.resize((9, 7)), turned.getvalue()), size=8)
    assert decoded.sizes.tolist() == [[20, 20], [9, 7], [200, 300]]
    assert decoded.rows.tolist() == [0, 2, 3]


def test_threads_help_where_either_the_files_or_the_results_are_large(monkeypatch):
    used = []
    threads = decoding.in_threads
    monkeypatch.setattr(
        decoding, "in_threads", lambda *args, n_threads: used.append(n_threads) or threads(*args, n_threads=n_threads)
    )
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 2)
    for side, size in ((20, 20), (200, 20), (20, 160)):
        decode_items(items(grey(side)), size=size)
    assert used == [1, 2, 2]


def test_progress_reaches_the_end():
    seen = []
    decode_items(items(*[grey(4)] * 150), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 150), (128, 150), (150, 150)]


def test_large_arrays_live_in_a_file_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 100)
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    images, *_ = decode_items(items(grey(20, 1), b"", grey(20, 3)))
    assert isinstance(images, np.memmap)
    assert images[:, 0, 0, 0].tolist() == [1, 3]
    assert list((tmp_path / "cache").iterdir()) == []  # nameless: nothing is left behind, whatever happens


def test_a_full_disk_is_told_before_decoding(tmp_path, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding, "MEMORY_LIMIT", 100)
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(decoding.os, "posix_fallocate", full)
    with pytest.raises(InputError, match=r"No space left.*SMIDGEN_CACHE"):
        decode_items(items(grey(20)))
