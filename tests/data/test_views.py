"""Views: what they move and by how much, on hand-made images, and that chance is the caller's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.data.views import View, apply_view
from smidgen.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spot(x, y, *, side=33, n=1, radius=2.0):
    """Images with one bright round spot at column x and row y, measured in pixels from the centre."""
    at = torch.arange(side) - side // 2
    distance = ((at[None] - x).square() + (at[:, None] - y).square()).sqrt()
    return (-((distance / radius) ** 2)).exp().expand(n, 1, side, side).clone()


def centre(images):
    """The centres of mass (n, 2) as columns and rows from the centre, in pixels."""
    side = images.shape[-1]
    at = torch.arange(side, dtype=images.dtype) - side // 2
    mass = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, 2)) * at).sum(1) / mass, (images.sum((1, 3)) * at).sum(1) / mass], 1)


VIEWS = st.builds(
    View,
    rotate=st.sampled_from([0.0, 30.0]),
    scale=st.sampled_from([0.0, 0.4]),
    shear=st.sampled_from([0.0, 0.3]),
    shift=st.sampled_from([0.0, 0.2]),
    flip=st.booleans(),
    crop=st.sampled_from([1.0, 0.3]),
    thickness=st.sampled_from([0.0, 0.7]),
    brightness=st.sampled_from([0.0, 0.9]),
    contrast=st.sampled_from([0.0, 0.9]),
    saturation=st.sampled_from([0.0, 0.9]),
    grey=st.sampled_from([0.0, 0.5, 1.0]),
    blur=st.sampled_from([0.0, 1.5]),
    impulse=st.sampled_from([0.0, 0.3]),
    erase=st.sampled_from([0.0, 0.5]),
    size=st.sampled_from([None, 6, 11]),
    padding=st.sampled_from(["zeros", "border", "reflection"]),
)


@settings(max_examples=60)
@given(VIEWS, st.sampled_from([1, 3]), st.integers(1, 4))
def test_a_view_keeps_count_type_and_range_and_the_original(view, channels, n):
    images = torch.rand(n, channels, 8, 8, generator=seeded())
    before = images.clone()
    seen = apply_view(view, images, generator=seeded())
    side = view.size or 8
    assert seen.shape == (n, channels, side, side)
    assert seen.dtype == torch.float32
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1 + 1e-6
    assert images.equal(before)


@settings(max_examples=30)
@given(VIEWS)
def test_the_same_generator_gives_the_same_view(view):
    images = torch.rand(3, 3, 8, 8, generator=seeded())
    state = torch.get_rng_state()
    first, again = (apply_view(view, images, generator=seeded(5)) for _ in range(2))
    assert first.equal(again)
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 7, 7)])
def test_no_strength_is_the_identity(shape):
    images = torch.rand(shape, generator=seeded())
    assert apply_view(View(), images, generator=seeded()).equal(images)


@pytest.mark.parametrize(
    "view",
    [View(rotate=20), View(shift=0.2), View(crop=0.3), View(brightness=0.5), View(contrast=0.5), View(scale=0.4)],
)
def test_two_copies_of_an_image_get_different_views(view):
    images = spot(4, -3, n=2)
    one, other = apply_view(view, images, generator=seeded())
    assert not torch.allclose(one, other, atol=1e-3)


def test_a_flip_mirrors_left_and_right_half_of_the_time():
    images = torch.rand(1, 1, 8, 8, generator=seeded()).expand(200, 1, 8, 8)
    seen = apply_view(View(flip=True), images, generator=seeded())
    mirrored = torch.isclose(seen, images.flip(3), atol=1e-5).flatten(1).all(1)
    kept = torch.isclose(seen, images, atol=1e-5).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 70 < int(mirrored.sum()) < 130


def test_a_rotation_keeps_the_distance_from_the_centre_and_turns_both_ways():
    moved = centre(apply_view(View(rotate=40), spot(8, 0, n=300), generator=seeded()))
    angles = torch.atan2(moved[:, 1], moved[:, 0]).rad2deg()
    torch.testing.assert_close(moved.norm(dim=1), torch.full((300,), 8.0), atol=0.1, rtol=0)
    assert -40.5 < float(angles.min()) < -38
    assert 38 < float(angles.max()) < 40.5


def test_a_shift_moves_by_a_share_of_the_side():
    moved = centre(apply_view(View(shift=0.25), spot(0, 0, side=32, n=400), generator=seeded()))
    assert bool((moved.abs() <= 8.1).all())
    for direction in (moved[:, 0], moved[:, 1], -moved[:, 0], -moved[:, 1]):
        assert float(direction.max()) > 7.5
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.2  # left and right has nothing to do with up and down


def test_scaling_enlarges_and_shrinks_about_the_centre():
    moved = centre(apply_view(View(scale=0.5), spot(6, 0, n=300), generator=seeded()))
    assert 2.9 < float(moved[:, 0].min()) < 3.2
    assert 8.8 < float(moved[:, 0].max()) < 9.1
    assert float(moved[:, 1].abs().max()) < 0.1


def test_a_shear_moves_rows_sideways():
    moved = centre(apply_view(View(shear=0.5), spot(0, 8, n=300), generator=seeded()))
    assert 3.8 < float(moved[:, 0].abs().max()) < 4.1
    torch.testing.assert_close(moved[:, 1], torch.full((300,), 8.0), atol=0.1, rtol=0)


def test_a_crop_keeps_no_more_than_its_largest_share():
    ramp = torch.linspace(0, 1, 64).expand(500, 1, 64, 64)
    seen = apply_view(View(crop=0.05, crop_most=0.14, padding="border"), ramp, generator=seeded())
    sides = (seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))) * 63 / 64  # as shares of the image's
    assert float(sides.max()) < 0.14**0.5
    assert float(sides.min()) > 0.05**0.5 - 2 / 64
    assert float(sides.std()) > 0.02


def test_a_crop_keeps_at_least_its_share_and_stays_inside():
    ones = torch.ones(200, 1, 16, 16)
    assert bool((apply_view(View(crop=0.25), ones, generator=seeded()) > 0.999)[:, :, 1:-1, 1:-1].all())
    ramp = torch.linspace(0, 1, 64).expand(200, 1, 64, 64)
    seen = apply_view(View(crop=0.25), ramp, generator=seeded())
    widths = (seen[:, 0, 32, 60] - seen[:, 0, 32, 3]) * 63 / 57  # share of the side that is left
    assert 0.49 < float(widths.min()) < 0.55
    assert float(widths.max()) > 0.97


@pytest.mark.parametrize("size", [5, 8, 20])
def test_a_size_alone_resizes(size):
    images = torch.full((2, 1, 8, 8), 0.25)
    torch.testing.assert_close(
        apply_view(View(size=size), images, generator=seeded()), torch.full((2, 1, size, size), 0.25)
    )


def test_strokes_become_thicker_and_thinner():
    square = torch.zeros(200, 1, 9, 9)
    square[:, :, 3:6, 3:6] = 1.0  # 9 pixels; one more on each side makes 25, one less leaves 1
    mass = apply_view(View(thickness=1.0), square, generator=seeded()).sum((1, 2, 3))
    assert 1 <= float(mass.min()) < 1.2
    assert 24.5 < float(mass.max()) <= 25
    assert 80 < int((mass > 9).sum()) < 120


def test_brightness_multiplies():
    images = torch.full((300, 1, 2, 2), 0.5)
    seen = apply_view(View(brightness=0.4), images, generator=seeded())[:, 0, 0, 0]
    assert 0.3 <= float(seen.min()) < 0.31
    assert 0.69 < float(seen.max()) <= 0.7


def test_contrast_keeps_the_mean():
    images = torch.tensor([0.4, 0.6]).view(1, 1, 1, 2).expand(300, 1, 2, 2)
    seen = apply_view(View(contrast=0.5), images, generator=seeded())
    torch.testing.assert_close(seen.mean((1, 2, 3)), torch.full((300,), 0.5))
    spread = seen[:, 0, 0, 1] - seen[:, 0, 0, 0]
    assert 0.1 <= float(spread.min()) < 0.105
    assert 0.295 < float(spread.max()) <= 0.3 + 1e-6


def test_grey_is_the_luma_of_some_images():
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(400, 3, 2, 2)
    seen = apply_view(View(grey=0.25), red, generator=seeded())
    grey = torch.isclose(seen, torch.tensor(0.299)).flatten(1).all(1)
    assert bool((grey | torch.isclose(seen, red).flatten(1).all(1)).all())
    assert 70 < int(grey.sum()) < 130


def test_grey_images_have_no_saturation():
    images = torch.rand(4, 1, 5, 5, generator=seeded())
    assert apply_view(View(saturation=0.9, grey=1.0), images, generator=seeded()).equal(images)


def test_a_blur_spreads_a_spot_and_keeps_its_mass_and_place():
    images = spot(0, 0, n=200)
    seen = apply_view(View(blur=2.0), images, generator=seeded())
    torch.testing.assert_close(seen.sum((1, 2, 3)), images.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(centre(seen), centre(images), rtol=0, atol=1e-2)
    peaks = seen.amax((1, 2, 3)) / images.amax((1, 2, 3))
    assert peaks.min() < 0.75 < 0.99 < peaks.max() <= 1 + 1e-5
    assert apply_view(View(blur=2.0), torch.ones(3, 3, 7, 9), generator=seeded()).allclose(torch.ones(3, 3, 7, 9))


def test_impulses_are_black_and_white_pixels_of_all_channels_up_to_a_share():
    images = torch.full((400, 3, 10, 10), 0.5)
    seen = apply_view(View(impulse=0.4), images, generator=seeded())
    assert set(seen.unique().tolist()) == {0.0, 0.5, 1.0}
    assert seen[:, 0].equal(seen[:, 2])
    hit = (seen[:, 0] != 0.5).float().mean((1, 2))
    assert hit.max() < 0.6
    assert abs(float(hit.mean()) - 0.2) < 0.01
    assert abs(float((seen == 0).sum() / (seen == 1).sum()) - 1) < 0.1


def test_a_square_of_up_to_half_the_side_is_erased():
    images = torch.rand(300, 2, 20, 20, generator=seeded())
    seen = apply_view(View(erase=0.5), images, generator=seeded())
    changed = seen != images
    rows, columns = changed.any(3).sum(2), changed.any(2).sum(2)
    assert rows.max() == columns.max() == 10
    mean = images.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(seen[changed], mean[changed])


@pytest.mark.parametrize(("padding", "expected"), [("zeros", 0.0), ("border", 1.0), ("reflection", 1.0)])
def test_what_lies_outside_is_the_padding(padding, expected):
    seen = apply_view(View(rotate=45, padding=padding), torch.ones(50, 1, 16, 16), generator=seeded())
    assert math.isclose(float(seen[:, 0, 0, 0].min()), expected, abs_tol=1e-5)


def test_the_draws_do_not_depend_on_the_device_of_the_images():
    images = torch.zeros(2, 1, 8, 8, device="meta")
    assert apply_view(View(rotate=9, contrast=0.2, flip=True), images, generator=seeded()).device.type == "meta"


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        ({"rotate": -1}, "`rotate` must be 0 or above, got -1"),
        ({"scale": 1.0}, "`scale` is a share of the size, below 1, got 1.0"),
        ({"crop": 0.5, "crop_most": 0.4}, r"`crop_most` is the largest .* from `crop` \(0.5\) to 1, got 0.4"),
        ({"crop": 0.0}, r"`crop` is the smallest share of the area kept, in \(0, 1\], got 0.0"),
        ({"grey": 2.0}, "`grey` is a probability, got 2.0"),
        ({"blur": -1}, "`blur` must be 0 or above, got -1"),
        ({"erase": 1.5}, "`erase` is a share, from 0 to 1, got 1.5"),
        ({"impulse": -0.1}, "`impulse` is a share, from 0 to 1, got -0.1"),
        ({"size": 0}, "`size` is a side in pixels, at least 1, got 0"),
    ],
)
def test_impossible_strengths_are_refused(strength, message):
    with pytest.raises(InputError, match=message):
        View(**strength)
