"""Each kind of issue is found where it was planted, and few good images are named."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from smidgen.errors import InputError
from smidgen.inspection.issues import issue_columns
from smidgen.inspection.outliers import find_outliers, local_outlier_factors
from smidgen.inspection.search import find_issues


def photos(n, seed=0):
    """Colour images as photographs are: each scale has its share, and colours follow the brightness."""
    rng = np.random.default_rng(seed)
    scales = [gaussian_filter(rng.normal(size=(n, 1, 32, 32)), (0, 0, s, s)) * s**1.5 for s in (0.5, 1, 2, 4)]
    images = sum(scales) + gaussian_filter(rng.normal(size=(n, 3, 32, 32)), (0, 0, 4, 4)) * 4
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    return (255 * (images - low) / (high - low)).astype(np.uint8)


PHOTOS = photos(300)


def jpeg(images, quality=60):
    copies = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
        copies.append(np.asarray(Image.open(buffer)).transpose(2, 0, 1))
    return np.stack(copies)


def blurred(images, sigma):
    return gaussian_filter(images.astype(float), (0, 0, sigma, sigma)).astype(np.uint8)


def found(*parts, **options):
    """Kind → rows."""
    kinds = {}
    for issue in find_issues(list(parts), **options):
        kinds.setdefault(issue.kind, []).append(issue.row)
    return kinds


def groups(*parts):
    by_group = {}
    for issue in find_issues(list(parts)):
        by_group.setdefault(issue.group, []).append(issue.row)
    by_group.pop(None, None)  # the other kinds have none
    return sorted(map(sorted, by_group.values()))


def test_good_images_have_no_issues():
    assert find_issues([PHOTOS]) == []


def test_same_pixels_are_grouped():
    assert groups(PHOTOS, PHOTOS[[7, 7, 9]]) == [[7, 300, 301], [9, 302]]


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (jpeg, 20),
        (lambda images: np.roll(images, 1, 3), 12),  # the hash misses some
        (lambda images: (images * 0.3).astype(np.uint8), 20),
        (lambda images: blurred(images, 0.5), 20),
    ],
    ids=["recompressed", "shifted", "dark", "softened"],
)
def test_changed_copies_are_grouped_with_their_originals(change, least):
    pairs = groups(PHOTOS, change(PHOTOS[:20]))
    assert all(pair == [pair[0], 300 + pair[0]] for pair in pairs)
    assert len(pairs) >= least


def test_every_image_copied_once_is_still_seen():
    assert len(groups(PHOTOS[:100], jpeg(PHOTOS[:100]))) >= 95


def test_copies_of_a_copy_share_its_group_and_score_the_closest():
    issues = find_issues([PHOTOS, PHOTOS[:1], jpeg(PHOTOS[:1])])
    assert [(issue.row, issue.kind, issue.group) for issue in issues] == [
        (0, "duplicate", 0),
        (300, "duplicate", 0),
        (301, "near_duplicate", 0),
    ]
    assert 0.95 < issues[2].score < 1


def test_two_images_alone_can_be_near_duplicates():
    assert groups(PHOTOS[:1], jpeg(PHOTOS[:1])) == [[0, 1]]
    assert groups(PHOTOS[:2]) == []


def test_flat_images_are_nobodys_near_duplicates():
    rng = np.random.default_rng(1)
    flat = (200 + rng.integers(0, 2, (40, 3, 32, 32))).astype(np.uint8)
    assert "near_duplicate" not in found(PHOTOS, flat)


def test_many_images_of_one_hash_are_found_without_all_pairs():
    rng = np.random.default_rng(1)
    scans = (PHOTOS[0] // 2 + rng.integers(0, 2, (200, 3, 32, 32))).astype(np.uint8)
    assert groups(PHOTOS[1:], scans) == [list(range(299, 499))]


def test_blurred_images_are_found():
    assert set(found(PHOTOS, blurred(PHOTOS[:5], 2))["blurred"]) == set(range(300, 305))


def test_dark_bright_and_flat_images_are_found():
    dark, bright = (PHOTOS[:2] * 0.15).astype(np.uint8), (220 + PHOTOS[2:4] // 9).astype(np.uint8)
    flat = (120 + PHOTOS[4:6] // 16).astype(np.uint8)
    kinds = found(PHOTOS, dark, bright, flat)
    assert sorted(kinds["dark"]) == [300, 301]
    assert sorted(kinds["bright"]) == [302, 303]
    assert {304, 305} <= set(kinds["low_contrast"])


def test_what_holds_for_most_is_the_collections_way():
    assert "dark" not in found((PHOTOS * 0.15).astype(np.uint8))


def test_noise_is_a_stranger_among_digits():
    from sklearn.datasets import load_digits

    digits = (load_digits().images[:, None] * 15.9).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8)).astype(np.uint8)
    outliers = found(digits, noise)["outlier"]
    assert set(outliers[:3]) == {1797, 1798, 1799}  # the worst come first
    assert len(outliers) < 15


def test_outliers_are_found_by_embeddings_alone_and_by_a_sample(monkeypatch):
    embeddings = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    embeddings[42] = 100
    assert found(PHOTOS, embeddings=embeddings)["outlier"][0] == 42
    monkeypatch.setattr("smidgen.inspection.outliers._OTHERS", 100)
    assert found(PHOTOS, embeddings=embeddings)["outlier"][0] == 42


@pytest.mark.parametrize(("n", "most", "k"), [(120, 200, 10), (60, 200, 6), (30, 200, 5), (100, 50, 10)])
def test_factors_are_those_of_a_slow_loop(monkeypatch, n, most, k):
    monkeypatch.setattr("smidgen.inspection.outliers._OTHERS", most)
    x = np.random.default_rng(0).normal(size=(n, 3)) ** 3
    drawn = range(n) if n <= most else np.random.default_rng(0).permutation(n)[:most]
    far = np.linalg.norm(x[:, None] - x, axis=2)
    near = [sorted((j for j in drawn if j != i), key=lambda j, i=i: far[i, j])[:k] for i in range(n)]
    reach = [np.mean([max(far[i, j], far[j, near[j][-1]]) for j in near[i]]) for i in range(n)]
    around = [{*near[i], *(j for j in range(n) if i in near[j])} for i in range(n)]
    expected = [reach[i] / np.quantile([reach[j] for j in around[i]], 0.75, method="higher") for i in range(n)]
    assert local_outlier_factors(x)[0] == pytest.approx(expected, rel=1e-4)


def test_photographs_beside_bursts_are_no_outliers():
    rng = np.random.default_rng(0)
    for seed in range(3):
        burst = np.clip(photos(1, seed) + rng.normal(0, 5, (19, 3, 32, 32)), 0, 255).astype(np.uint8)
        assert len(found(burst, photos(17, seed + 40)).get("outlier", [])) <= 1


@pytest.mark.parametrize("scale", [1e-12, 1, 1e18])
def test_groups_of_other_spread_are_no_outliers(scale):
    rng = np.random.default_rng(0)
    tight, wide = rng.normal(size=(19, 16)) * 0.05, 8 + rng.normal(size=(17, 16))
    x = np.concatenate([tight, wide])
    assert "outlier" not in found(PHOTOS[:36], embeddings=x * scale)
    x[3, 0] += 4  # far for its own group, and near for the other
    x[30] += 12
    assert found(PHOTOS[:36], embeddings=x * scale)["outlier"] == [3, 30]


def test_bursts_of_repetitive_pictures_are_grouped():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    checks, stripes, dots = (x // 4 + y // 4) % 2, (x + y) // 3 % 2, (x % 6 < 2) & (y % 6 < 2)
    bursts = [
        [(60 + 90 * scene + rng.normal(0, 2, (3, 64, 64))).astype(np.uint8) for _ in range(20)]
        for scene in (checks, stripes, dots)
    ]
    pictures = np.repeat(np.repeat(PHOTOS, 2, 2), 2, 3)
    assert groups(pictures, *map(np.stack, bursts)) == [list(range(s, s + 20)) for s in (300, 320, 340)]


def test_look_alikes_are_grouped_by_embedding():
    embeddings = np.random.default_rng(0).normal(size=(300, 20))
    embeddings[10] = embeddings[200] * 3 + 1e-3
    issues = [i for i in find_issues([PHOTOS], embeddings=embeddings, look_alikes=True) if i.kind == "look_alike"]
    assert [(issue.row, issue.group) for issue in issues] == [(10, 0), (200, 0)]
    assert "look_alike" not in found(PHOTOS, embeddings=embeddings)
    for scale in (1e-20, 1e20):
        assert found(PHOTOS, embeddings=embeddings.astype(np.float32) * scale, look_alikes=True)["look_alike"] == [
            10,
            200,
        ]


def test_embeddings_that_are_not_finite_are_left_alone():
    assert "outlier" not in found(PHOTOS, embeddings=np.full((300, 2), np.nan), look_alikes=True)


def test_odd_sizes_are_by_area_and_by_sides():
    sizes = np.tile([300, 200], (300, 1))
    sizes[::3] = [200, 300]  # upright, not odd
    sizes[5], sizes[6], sizes[7] = (1300, 900), (1000, 60), (0, 0)  # the last: unknown
    issues = [issue for issue in find_issues([PHOTOS], sizes=sizes) if issue.kind == "odd_size"]
    assert [issue.row for issue in issues] == [6, 5]
    assert issues[1].score == pytest.approx((1300 * 900 / 60_000) ** 0.5)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_images_and_tiny_ones_are_no_error(n):
    for side in (1, 2, 8):
        images = np.zeros((n, 1, side, side), dtype=np.uint8)
        assert [i.kind for i in find_issues([images])] == ["duplicate"] * (n if n > 1 else 0)


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="a row for each of the 300 images, got 2"):
        find_issues([PHOTOS], sizes=np.ones((2, 2)))


def test_columns_of_the_table():
    issues = find_issues([PHOTOS[:2], PHOTOS[1:2]])
    columns = issue_columns(issues, ["a", "=b", "c"], ["train", "train", "test"])
    assert columns == {
        "image": ["=b", "c"],
        "split": ["train", "test"],
        "kind": ["duplicate"] * 2,
        "score": ["1", "1"],
        "group": [0, 0],
    }


def test_outlier_factors_are_finite_where_most_points_are_the_same():
    points = np.zeros((60, 3), dtype=np.float32)
    points[:20] = np.random.default_rng(0).normal(size=(20, 3))
    factors, _ = local_outlier_factors(points)
    assert np.isfinite(factors).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("near", [0.0, 1e-30])
def test_one_image_that_differs_among_equal_ones_is_an_outlier_without_overflow(near):
    points = np.random.default_rng(0).normal(size=(60, 3)) * near
    points[7] = 1000
    assert [issue.row for issue in find_outliers(points)] == [7]
