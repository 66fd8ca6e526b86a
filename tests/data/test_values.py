"""Values of more than 8 bits: what is decided for a collection, in every container, and what is said of it."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smidgen import Config, fit
from smidgen.config import from_table
from smidgen.data.datasets import open_dataset, open_like, open_splits
from smidgen.data.images import load_image
from smidgen.data.values import ValueRange, as_value_range, decide, to_levels
from smidgen.errors import InputError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 128, (40, 12, 12)).astype(np.uint8)  # as they are in 8 bits
DEEP = PICTURES.astype(np.int64)
COLOUR = RNG.integers(0, 128, (5, 12, 12, 3)).astype(np.uint8)


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def png16(pixels):
    """A PNG of 16 bits: (h, w) grey, or (h, w, c) with 2 (grey, alpha), 3 or 4 channels."""
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else {2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff16(pixels, order="<", planar=1):
    """An uncompressed TIFF of 16 bits in colour, (h, w, 3 or 4)."""
    height, width, n = pixels.shape
    stored = pixels if planar == 1 else pixels.transpose(2, 0, 1)
    data = stored.astype(f"{order}u2").tobytes()
    size = len(data) // (1 if planar == 1 else n)
    offsets = [8 + size * plane for plane in range(1 if planar == 1 else n)]
    after = 8 + len(data)
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, n, after), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, len(offsets), after + 8 if planar == 2 else 8), (277, 3, 1, n), (278, 3, 1, height)]
    tags += [(279, 4, len(offsets), after + 24 if planar == 2 else size), (284, 3, 1, planar)]
    tags += [(338, 3, 1, 2)] if n == 4 else []
    extra = struct.pack(f"{order}4H", *[16] * 4)
    extra += struct.pack(f"{order}8I", *[*offsets, 0, 0, 0, 0][:4], *[size] * 4)
    directory = after + len(extra)
    entries = b""
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        entries += struct.pack(f"{order}HHI", tag, kind, count) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    return head + data + extra + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4


def pnm(magic, pixels, white=65535):
    height, width = pixels.shape[:2]
    head = f"{magic} {width} {height} {white}\n".encode()
    if magic in ("P5", "P6"):
        return head + pixels.astype(">u2").tobytes()
    return head + " ".join(map(str, pixels.ravel().tolist())).encode()


def folder_of(path, files):
    path.mkdir(parents=True)
    for row, data in enumerate(files):
        (path / f"{row:02d}.img.png").write_bytes(data)
    return path


# ------------------------------------------------------------------------------------------------------- the decision


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (0, 0, "integers", (0, 255)),
        (0, 255, "integers", (0, 255)),
        (3, 256, "integers", (0, 1023)),
        (0, 1024, "integers", (0, 4095)),
        (0, 4096, "integers", (0, 16383)),
        (0, 16384, "integers", (0, 65535)),
        (5, 65536, "integers", (5, 65536)),
        (-1024, 3071, "integers", (-1024, 3071)),
        (0.0, 1.0, "floats", (0, 1)),
        (-0.9, 0.7, "floats", (-1, 1)),
        (0.0, 1.01, "floats", (0, 255)),
        (0.0, 300.0, "floats", (0, 1023)),
        (-1.2, 1.0, "floats", (-1.2, 1.0)),
    ],
)
def test_the_range_is_the_smallest_depth_that_holds_all_values(low, high, kind, expected):
    assert decide(low, high, kind=kind) == expected


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=5), st.sampled_from(["integers", "floats"]))
def test_nothing_is_clipped_and_order_is_kept(values, kind):
    values = np.array(values) if kind == "floats" else np.rint(np.clip(values, -(2**40), 2**40)).astype(np.int64)
    low, high = decide(float(values.min()), float(values.max()), kind=kind)
    assert low <= values.min() <= values.max() <= high
    levels = to_levels(np.sort(values), (low, high))
    assert (np.diff(levels.astype(int)) >= 0).all()


@pytest.mark.parametrize("text", ["0:4095", "12-bit", "12 bits", "12bit", (0, 4095), [0, np.uint16(4095)], (0.0, 4095)])
def test_a_range_can_be_given_in_several_ways(text):
    assert as_value_range(text) == ValueRange((0, 4095), (0, 4095), (0, 255))


def test_a_range_within_8_bits_is_about_images_of_8_bits_too():
    assert as_value_range("0:16") == ValueRange((0, 16), (0, 16), (0, 16))
    assert as_value_range("-1:1").eight_bits == (0, 255)
    assert as_value_range(None) == as_value_range("auto") == ValueRange()


@pytest.mark.parametrize("wrong", ["", "4095", "5:5", "9:3", "0:nan", "0:inf", "a:b", 255, (1, 2, 3), "64-bit", {}])
def test_other_ranges_are_refused_in_a_sentence(wrong):
    with pytest.raises(InputError, match="`value_range` must be the values of black and white"):
        open_dataset(PICTURES, value_range=wrong)


# ----------------------------------------------------------------------------------------------------- every container

GREY = {
    "png": png16,
    "tiff": lambda p: encoded(p.astype(np.uint16), "TIFF"),
    "tiff int32": lambda p: encoded(p.astype(np.int32), "TIFF"),
    "tiff float": lambda p: encoded(p.astype(np.float32), "TIFF"),
    "pgm": lambda p: pnm("P5", p),
    "pgm of 10 bits": lambda p: pnm("P5", p, 1023),
    "pgm plain": lambda p: pnm("P2", p),
}
IN_COLOUR = {
    "png": png16,
    "png alpha": lambda p: png16(np.dstack([p.astype(np.uint16), np.full(p.shape[:2], 65535)])),
    "tiff": tiff16,
    "tiff big-endian": lambda p: tiff16(p, ">"),
    "tiff alpha": lambda p: tiff16(np.dstack([p.astype(np.uint16), np.full(p.shape[:2], 65535)])),
    "ppm": lambda p: pnm("P6", p),
    "ppm plain": lambda p: pnm("P3", p),
}


@pytest.mark.parametrize("kind", GREY)
def test_low_values_in_deep_grey_files_are_read_as_in_8_bits(kind, tmp_path):
    folder = folder_of(tmp_path / "a", map(GREY[kind], PICTURES))
    dataset = open_dataset(folder)
    assert (dataset.images[:, 0] == PICTURES).all()
    assert "0 to 255 (8 bits)" in dataset.notes[0]


@pytest.mark.parametrize("kind", IN_COLOUR)
def test_low_values_in_deep_colour_files_are_read_as_in_8_bits(kind, tmp_path):
    dataset = open_dataset(folder_of(tmp_path / "a", map(IN_COLOUR[kind], COLOUR)))
    assert (dataset.images == COLOUR.transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize("make", [*GREY.values()][:3])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_files_of_every_depth_use_all_of_black_to_white(make, bits):
    ramp = np.linspace(0, 2**bits - 1, 256).reshape(16, 16).astype(np.uint16)
    assert load_image(make(ramp), channels=1).ravel().tolist() == pytest.approx(range(256), abs=0.6)


def test_deep_transparency_is_laid_on_white():
    grey, clear = np.full((4, 4), 100), np.zeros((4, 4), int)
    for pixels in ([grey, clear], [grey, grey, grey, clear]):
        assert load_image(png16(np.dstack(pixels))).min() == 255
    assert load_image(png16(np.dstack([grey, clear + 65535]))).max() == 100


def test_16_bit_colours_in_separate_planes_are_refused_and_not_garbled():
    with pytest.raises(InputError, match="16-bit colours in separate planes"):
        load_image(tiff16(COLOUR[0], planar=2))


@pytest.mark.parametrize("kind", ["uint16", "int16", "int32", "uint64", "float32", "float64"])
def test_low_values_in_deep_arrays_are_read_as_in_8_bits(kind, tmp_path):
    dataset = open_dataset(PICTURES.astype(kind))
    assert (dataset.images[:, 0] == PICTURES).all()
    np.savez(tmp_path / "a.npz", images=PICTURES.astype(kind))
    assert (open_dataset(tmp_path / "a.npz").images == dataset.images).all()


def test_the_alpha_of_deep_arrays_has_its_own_depth():
    opaque = np.full((5, 12, 12, 1), 65535)
    for alpha in (opaque, opaque // 257):
        images = np.concatenate([COLOUR.astype(np.uint16), alpha.astype(np.uint16)], axis=3)
        assert (open_dataset(images).images == COLOUR.transpose(0, 3, 1, 2)).all()


# ------------------------------------------------------------------------------------------------------- one collection


def test_a_configuration_takes_a_pair_or_a_text():
    assert Config(data="digits", value_range=(0, 127)).value_range == "0:127"
    assert from_table({"data": "digits", "value_range": [0.5, 3]}).value_range == "0.5:3"
    model = fit(Config(data="array", method="kmeans", n_clusters=2, value_range=(0, 127)), data=DEEP).model
    assert model.preprocessing.value_range.integers == (0, 127)


def test_archives_and_manifests_are_read_like_folders(tmp_path):
    folder = folder_of(tmp_path / "a", map(png16, DEEP[:4]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    (tmp_path / "a.csv").write_text("image\n" + "".join(f"a/{path.name}\n" for path in sorted(folder.iterdir())))
    for data in (tmp_path / "a.zip", tmp_path / "a.csv"):
        dataset = open_dataset(data)
        assert (dataset.images[:, 0] == PICTURES[:4]).all()
        assert dataset.value_range == ValueRange(integers=(0, 255))


@pytest.mark.parametrize("odd", [0, 17, 39])
def test_one_large_value_anywhere_decides_for_all(odd, tmp_path):
    pictures = PICTURES.astype(np.uint16)
    pictures[odd, 0, 0] = 4000
    dataset = open_dataset(folder_of(tmp_path / "a", map(png16, pictures)))
    assert dataset.value_range.integers == (0, 4095)
    assert (dataset.images == open_dataset(pictures).images).all()
    assert dataset.images.max() == 249
    assert "Most images hold no values outside 0 to 127" in dataset.doubts[0]
    assert "`value_range=0:127`" in dataset.doubts[0]


def test_8_bits_integers_and_floats_in_one_collection_are_each_read_as_they_are(tmp_path):
    files = [encoded(PICTURES[0], "PNG"), png16(DEEP[0] * 32), encoded((PICTURES[0] / 255).astype("f4"), "TIFF")]
    dataset = open_dataset(folder_of(tmp_path / "a", files))
    assert (dataset.value_range.integers, dataset.value_range.floats) == ((0, 4095), (0, 1))
    assert (dataset.images[0, 0] == PICTURES[0]).all()
    assert (dataset.images[2, 0] == PICTURES[0]).all()
    assert np.abs(dataset.images[1, 0] - 2.0 * PICTURES[0]).max() <= 1


def test_training_images_decide_for_test_images_and_what_is_clipped_is_said(tmp_path):
    folder_of(tmp_path / "a" / "train", map(png16, DEEP[:4] * 4))
    folder_of(tmp_path / "a" / "test", map(png16, DEEP[:4] * 40))
    train, test = open_splits(tmp_path / "a")
    everything = open_dataset(tmp_path / "a", split="all")
    assert train.value_range == test.value_range == everything.value_range
    assert train.value_range.integers == (0, 1023)
    assert sorted(everything.images.sum(axis=(1, 2, 3)).tolist()) == sorted(
        [*train.images.sum(axis=(1, 2, 3)).tolist(), *test.images.sum(axis=(1, 2, 3)).tolist()]
    )
    assert "4 images hold values beyond 0 to 1,023" in test.doubts[0]
    arrays = {"x_train": DEEP[:4].astype("u2") * 4, "x_test": DEEP[:4].astype("u2") * 40}
    np.savez(tmp_path / "a.npz", **arrays)
    assert open_splits(tmp_path / "a.npz")[1].value_range.integers == (0, 1023)
    assert open_dataset(tmp_path / "a.npz", split="all").value_range.integers == (0, 1023)


def test_new_images_are_read_with_the_range_given(tmp_path):
    dark = open_like(PICTURES[:1].astype(np.uint16), (1, 12, 12), value_range=ValueRange(integers=(0, 4095)))
    assert dark.images.max() == round(DEEP[0].max() * 255 / 4095)
    assert "No image holds values outside" in dark.doubts[0]
    folder = folder_of(tmp_path / "a", [png16(PICTURES[0])])
    assert (open_dataset(folder, value_range=dark.value_range).images == dark.images).all()


def test_a_range_that_is_given_stretches_8_bits_too(tmp_path):
    sixteenths = PICTURES // 8
    folder = folder_of(tmp_path / "a", [encoded(picture, "PNG") for picture in sixteenths])
    assert "`value_range=0:15`" in open_dataset(folder).doubts[0]
    for data in (folder, sixteenths, sixteenths.astype(float)):
        assert (open_dataset(data, value_range="0:15").images[:, 0] == sixteenths * 17).all()


def test_bool_is_black_and_white_whatever_the_range():
    mask = PICTURES > 60
    assert (open_dataset(mask, value_range="0:15").images[:, 0] == mask * 255).all()
    assert (open_dataset(mask).images[:, 0] == mask * 255).all()
    assert open_dataset(mask).doubts == ()


def test_ordinary_images_are_not_spoken_of():
    for data in ("digits", RNG.integers(0, 256, (20, 8, 8)).astype(np.uint8)):
        assert (open_dataset(data).notes, open_dataset(data).doubts) == ((), ())


def test_thumbnails_show_the_images_as_they_were_read(tmp_path):
    dataset = open_dataset(folder_of(tmp_path / "a", map(png16, DEEP[:3] * 8)))
    with Image.open(io.BytesIO(dataset.thumbnail(0))) as small:
        assert (np.asarray(small) == dataset.images[0, 0]).all()
    assert (np.asarray(dataset.original(0)) == dataset.images[0, 0]).all()
