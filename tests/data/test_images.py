"""The zoo: one file of every kind that people have, its mean as it should be and as it is read."""

import contextlib
import io
import os
import sys
import tracemalloc
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFile

from smidgen.data import images
from smidgen.data.images import START, BadImage, image_format, image_size, load_image
from smidgen.errors import InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every grey once: mean 127.5
SIDES = np.zeros((8, 16), dtype=np.uint8)  # black left, white right
SIDES[:, 8:] = 255


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def half_transparent(mode: str) -> Image.Image:
    """Black, its left half opaque and its right half transparent: 127.5 on white."""
    return Image.merge(mode, [Image.new("L", (16, 8), 0)] * (len(mode) - 1) + [Image.fromarray(255 - SIDES)])


def palette() -> Image.Image:
    image = Image.frombytes("P", (16, 8), (SIDES // 255).tobytes())
    image.putpalette([200, 0, 0, 0, 100, 0])
    return image


def animation() -> bytes:
    frames = [Image.new("L", (8, 8), level) for level in (50, 250)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


ZOO: dict[str, tuple[Callable[[], bytes], float, float]] = {
    # name: (file, expected mean over the RGB channels, tolerance)
    "png grey": (lambda: encoded(Image.fromarray(RAMP), "PNG"), 127.5, 0),
    "png 16 bit": (lambda: encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"), 127.5, 0),
    "png 16 bit, 8 used": (lambda: encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), 127.5, 0),
    "tiff 32 bit, 8 used": (lambda: encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), 127.5, 0),
    "pgm 16 bit": (lambda: b"P5 16 16 65535\n" + (RAMP.astype(">u2") * 257).tobytes(), 127.5, 0),
    "pgm 16 bit, 8 used": (lambda: b"P5 16 16 65535\n" + RAMP.astype(">u2").tobytes(), 127.5, 0),
    "pgm 9 bit odd white": (lambda: b"P5 2 1 300\n" + np.array([0, 300], ">u2").tobytes(), 127.5, 0.01),
    "pgm plain": (lambda: b"P2 # a comment\n2 1 # more\n65535\n0 # black\n255\n", 127.5, 0.01),
    "ppm 16 bit": (lambda: b"P6 1 1 65535\n" + np.array([0, 65535, 0], ">u2").tobytes(), 85, 0.01),
    "ppm 16 bit, 8 used": (lambda: b"P6 1 1 65535\n" + np.array([0, 255, 0], ">u2").tobytes(), 85, 0.01),
    "ppm plain": (lambda: b"P3 1 1 1023\n0 1023 0", 85, 0.01),
    "pgm 10 bit": (lambda: b"P5 2 1 1023\n" + np.array([0, 1023], ">u2").tobytes(), 127.5, 0.5),
    "tiff 16 bit": (lambda: encoded(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"), 127.5, 0),
    "tiff 32 bit": (lambda: encoded(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"), 127.5, 0),
    "tiff 32 bit negative": (lambda: encoded(Image.fromarray(RAMP.astype(np.int32) * 1000 - 9), "TIFF"), 127.5, 0.5),
    "tiff float 0 to 1": (lambda: encoded(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"), 127.5, 0.5),
    "tiff float 0 to 255": (lambda: encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), 127.5, 0),
    "tiff float wide": (lambda: encoded(Image.fromarray(RAMP.astype(np.float32) * 1e6), "TIFF"), 127.5, 0.5),
    "tiff lzw": (lambda: encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"), 127.5, 0),
    "png 1 bit": (lambda: encoded(Image.fromarray(SIDES).convert("1"), "PNG"), 127.5, 0),
    "png grey alpha": (lambda: encoded(half_transparent("LA"), "PNG"), 127.5, 0),
    "png alpha": (lambda: encoded(half_transparent("RGBA"), "PNG"), 127.5, 0),
    "webp alpha": (lambda: encoded(half_transparent("RGBA"), "WEBP", lossless=True), 127.5, 0),
    "png palette": (lambda: encoded(palette(), "PNG"), (200 + 100) / 2 / 3, 0),
    "png palette transparent": (lambda: encoded(palette(), "PNG", transparency=0), (765 + 100) / 2 / 3, 0),
    "gif transparent": (lambda: encoded(palette(), "GIF", transparency=0), (765 + 100) / 2 / 3, 0),
    "png grey key": (lambda: encoded(Image.fromarray(SIDES), "PNG", transparency=0), 255, 0),
    "gif animation": (animation, 50, 0),
    "bmp": (lambda: encoded(Image.fromarray(RAMP), "BMP"), 127.5, 0),
    "jpeg": (lambda: encoded(Image.new("RGB", (16, 16), (30, 60, 90)), "JPEG"), 60, 1),
    "jpeg cmyk": (lambda: encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95), 170, 2),
    "avif": (lambda: encoded(Image.new("RGB", (16, 16), (30, 60, 90)), "AVIF"), 60, 3),
    "webp": (lambda: encoded(Image.new("RGB", (16, 16), (30, 60, 90)), "WEBP", lossless=True), 60, 0),
}


@pytest.mark.parametrize("kind", ZOO)
def test_zoo_is_read_with_the_right_mean(kind):
    make, expected, tolerance = ZOO[kind]
    assert load_image(make()).mean() == pytest.approx(expected, abs=max(tolerance, 1e-6))


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def test_heic_is_read_upright_and_known_by_its_content(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = heic(photo(48, 32), quality=100, exif=exif.tobytes())
    assert image_format(data[:START]) == "HEIC"
    (tmp_path / "photo.jpg").write_bytes(data)
    expected = np.asarray(photo(48, 32).transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    np.testing.assert_allclose(load_image(tmp_path / "photo.jpg").astype(int), expected.astype(int), atol=12)
    assert image_size(heic(photo(48, 32))) == (48, 32)
    assert Image.registered_extensions().get(".heic") is None  # Pillow is left as it was


def test_without_the_extra_heic_is_a_bad_image_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    for brand in (b"heic", b"mif1", b"hevc"):
        with pytest.raises(BadImage, match=r"HEIC needs the package pillow-heif: `pip install 'smidgen\[heic\]'`"):
            load_image(b"\0\0\0\x18ftyp" + brand + bytes(100))


def test_avif_that_this_pillow_cannot_read_says_so(monkeypatch):
    monkeypatch.setattr(images.features, "check", lambda name: False)
    with pytest.raises(BadImage, match="this Pillow was built without AVIF"):
        load_image(b"\0\0\0\x18ftypavif" + bytes(100))


@pytest.mark.parametrize("start", [b"BMW 320", b"P5 is a class", b"\0\0\0\x18ftypmp42isom", b"\0\0\0\x18ftypqt  ", b""])
def test_what_begins_a_little_like_an_image_is_none(start):
    assert image_format(start) is None


@pytest.mark.parametrize("kind", ["png grey", "png 16 bit", "jpeg", "gif animation"])
@pytest.mark.parametrize("channels", [1, 3])
def test_result_has_the_shape_asked_for(kind, channels):
    pixels = load_image(ZOO[kind][0](), size=5, channels=channels)
    assert pixels.shape == (channels, 5, 5)
    assert pixels.dtype == np.uint8


def test_grey_of_colour_is_luma():
    data = encoded(Image.new("RGB", (4, 4), (255, 0, 0)), "PNG")
    assert load_image(data, channels=1).mean() == 76  # 0.299 * 255


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours, all four corners different."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    upright = photo(48, 32)
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Transpose values that store it turned
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif, **options)
    whole, small = load_image(data), load_image(data, size=8)
    assert whole.shape == (3, 32, 48)
    np.testing.assert_allclose(whole, np.asarray(upright).transpose(2, 0, 1), atol=12)
    np.testing.assert_allclose(small, load_image(encoded(upright, "PNG"), size=8), atol=8)
    assert images.decode_image(data, size=8, channels=3, resize="crop").width == 48


def test_broken_exif_does_not_cost_the_image():
    data = encoded(photo(16, 16), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert load_image(data).shape == (3, 16, 16)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_large_jpegs_decoded_small_look_the_same(resize):
    image = photo(1200, 800)
    fast = load_image(encoded(image, "JPEG", quality=95), size=32, resize=resize)
    slow = load_image(encoded(image, "PNG"), size=32, resize=resize)
    assert np.abs(fast.astype(int) - slow).mean() < 1.5


def test_crop_pad_and_squash_keep_what_they_promise():
    data = encoded(Image.new("L", (20, 10), 0), "PNG")
    assert load_image(data, size=10, resize="crop").max() == 0
    assert load_image(data, size=10, resize="squash").max() == 0
    padded = load_image(data, size=10, resize="pad", channels=1)[0]
    assert padded.mean(axis=1).tolist() == [255, 255, 0, 0, 0, 0, 0, 255, 255, 255]


def test_resizing_is_pillows_bilinear_with_antialiasing():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8))
    expected = np.asarray(image.resize((7, 7), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(load_image(encoded(image, "PNG"), size=7, channels=1)[0], expected)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "text": (lambda: b"Dear Sir or Madam", "not an image"),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + b"\0" * 20, "damaged HEIC|HEIC needs"),
    "eps": (lambda: encoded(photo(8, 8), "EPS"), "not an image"),
    "icon": (lambda: encoded(photo(16, 16), "ICO"), "not an image"),
    "jpeg 2000": (lambda: encoded(photo(16, 16), "JPEG2000"), "not an image"),
    "jpeg head only": (lambda: encoded(photo(64, 64), "JPEG")[:30], "JPEG"),
    "nan": (lambda: encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "not finite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_image_is_refused_with_a_reason(kind):
    make, reason = BAD[kind]
    with pytest.raises(BadImage, match=reason):
        load_image(make())


@pytest.mark.parametrize("kind", images.FORMATS)
def test_truncated_files_are_refused_and_named(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(BadImage, match=r"damaged|truncated") as caught:
        load_image(data[: len(data) // 2], size=8)
    assert caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds almost nothing."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(("width", "height"), [(7072, 7071), (10_000, 10_000), (60_000, 60_000)])
def test_header_limit_holds_before_decoding_and_without_warnings(width, height, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    data = png_header(width, height)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns above 89 and raises above 179 megapixels
        with pytest.raises(BadImage, match="50 megapixels"):
            load_image(data)


def test_pillows_switches_stay_as_the_user_set_them(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filters = list(warnings.filters)
    load_image(ZOO["jpeg"][0]())
    with pytest.raises(BadImage, match="megapixels"):
        load_image(png_header(60_000, 60_000))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (None, True)
    assert warnings.filters == filters


def test_paths_that_are_no_regular_file_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would block for ever
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    reasons = {
        "pipe.jpg": "not a regular file",
        ".": "not a regular file",
        "none.jpg": "no such file",
        "a\0b.jpg": "cannot be opened",
        "loop.jpg": "cannot be opened",
    }
    for name, reason in reasons.items():
        with pytest.raises(BadImage) as caught:
            load_image(tmp_path / name)
        assert caught.value.reason.startswith(reason)


def test_reading_a_file_takes_no_more_memory_than_it_has_bytes(tmp_path):
    (tmp_path / "a").write_bytes(bytes(10**5))
    tracemalloc.start()
    assert len(images.read_capped(tmp_path / "a")) == 10**5
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


def test_files_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 2**20)
    (tmp_path / "a").write_bytes(bytes(2**20 + 1))
    with pytest.raises(BadImage, match="longer than 1 MB"):
        images.read_capped(tmp_path / "a")
    (tmp_path / "a").write_bytes(bytes(2**20))
    assert len(images.read_capped(str(tmp_path / "a"))) == 2**20


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 10**6}, {"channels": 2}, {"resize": "stretch"}])
def test_options_are_checked(options):
    with pytest.raises(InputError):
        load_image(ZOO["png grey"][0](), **options)


@pytest.mark.parametrize("kind", [*images.FORMATS, "MPO"])
def test_damaged_bytes_give_an_image_or_a_reason_and_nothing_else(kind, capfd):
    rng = np.random.default_rng(0)
    sound = encoded(Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)), kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(30):
            data = bytearray(sound)
            for place in rng.integers(0, min(len(data), 400), 3):
                data[place] = rng.integers(256)
            with contextlib.suppress(BadImage):
                assert load_image(bytes(data), size=16).shape == (3, 16, 16)
    assert capfd.readouterr().err == ""
