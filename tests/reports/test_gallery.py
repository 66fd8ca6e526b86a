"""The choice of images: typical ones are near the mean, mistakes are mistakes, the sample is fair."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import digits_run, png, write_run

from smidgen.errors import InputError
from smidgen.reports.gallery import balanced_sample, choose, gallery_rows, open_embeddings
from smidgen.reports.page import write_page
from smidgen.reports.tables import read_assignments
from smidgen.reports.thumbnails import fit_thumbnails


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 70))
def test_balanced_sample_takes_alike_from_every_cluster(clusters: list[int], size: int) -> None:
    chosen = balanced_sample(np.array(clusters, dtype=np.int64), size=size)
    assert len(chosen) == min(size, len(clusters)) == len(set(chosen.tolist()))
    taken, sizes = np.bincount(np.array(clusters, int)[chosen], minlength=6), np.bincount(clusters, minlength=6)
    for a in range(6):  # nobody has less than another, unless there was no more to take
        assert taken[a] == sizes[a] or taken[a] >= taken.max() - 1


def test_typical_images_are_nearest_to_the_mean_and_uncertain_ones_least_certain(digits_folder: Path) -> None:
    assignments = read_assignments(digits_folder)
    embeddings = np.load(digits_folder / "embeddings.npy")
    galleries = choose(assignments, embeddings, per_cluster=8, map_points=10)
    cluster = galleries.clusters[3]
    members = np.flatnonzero(assignments.clusters == 3)
    distance = [np.linalg.norm(embeddings[row] - embeddings[members].mean(0)) for row in members]
    assert cluster.typical.tolist() == members[np.argsort(distance)[:6]].tolist()
    others = [row for row in members if row not in cluster.typical]
    assert cluster.uncertain.tolist() == sorted(others, key=lambda row: assignments.confidence[row])[:2]


def test_mistakes_are_of_the_test_split_and_the_most_frequent_first(digits_folder: Path) -> None:
    assignments = read_assignments(digits_folder)
    galleries = choose(assignments, None, per_cluster=0, map_points=0)
    counts = [mistake.count for mistake in galleries.mistakes]
    assert counts == sorted(counts, reverse=True)
    assert counts
    for mistake in galleries.mistakes:
        assert set(assignments.splits[mistake.rows]) == {"test"}
        assert (assignments.class_of[assignments.clusters[mistake.rows]] != assignments.classes[mistake.rows]).all()
        assert set(assignments.classes[mistake.rows]) == {mistake.class_number}


def test_equal_confidence_gives_no_gallery_of_uncertain_images(tmp_path: Path) -> None:
    fake = digits_run(40)
    fake.confidence = [1.0] * 40
    galleries = choose(read_assignments(write_run(tmp_path, fake)), None, per_cluster=8, map_points=10)
    assert len(galleries.uncertain) == sum(len(cluster.uncertain) for cluster in galleries.clusters) == 0


def test_rows_are_sorted_unique_and_few_of_many(tmp_path: Path) -> None:
    fake = digits_run(300)
    fake.classes = None
    rows = gallery_rows(write_run(tmp_path, fake), per_cluster=4, map_points=20, uncertain=5)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert 40 <= len(rows) < 170


def test_negative_number_of_images_is_refused(digits_folder: Path) -> None:
    with pytest.raises(InputError, match="'map_points' must be 0 or more, got -1"):
        gallery_rows(digits_folder, map_points=-1)


def test_missing_embeddings_are_none(tmp_path: Path) -> None:
    assert open_embeddings(tmp_path, rows=3) is None


def test_with_more_clusters_than_classes_mistakes_are_between_classes(tmp_path: Path) -> None:
    fake = digits_run(300)
    fake.clusters = [str(i % 40) for i in range(300)]
    assignments = read_assignments(write_run(tmp_path, fake))
    galleries = choose(assignments, None, per_cluster=0, map_points=0)
    judged = assignments.in_split("test") & assignments.mistaken()
    for mistake in galleries.mistakes:
        assert mistake.cluster == -1
        assert set(assignments.predicted()[mistake.rows]) == {mistake.stands_for}
        pair = (assignments.classes == mistake.class_number) & (assignments.predicted() == mistake.stands_for)
        assert mistake.count == (judged & pair).sum()
    page = write_page(tmp_path, layout="pca").read_text()
    first = galleries.mistakes[0]
    names = assignments.class_names[first.class_number], assignments.class_names[first.stands_for]
    pattern = r'<h4><bdi>{}</bdi> <span class="arrow" aria-label="went to">→</span> <bdi>{}</bdi><span'
    assert re.search(pattern.format(*names), page)


def test_pictures_that_are_only_on_the_map_are_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    picture = png(noise)
    rows, none = np.arange(4), np.zeros(0, dtype=np.int64)
    assert len(picture) > 2500
    found = fit_thumbnails(dict.fromkeys(range(4), picture), [rows[:1]], rows, budget=10**6)
    assert len(found.uris[0]) > len(picture)  # as it is, in a gallery
    assert all(len(found.uris[row]) < 0.7 * len(picture) for row in (1, 2, 3))
    assert fit_thumbnails({}, [none], none, budget=0).uris == {}
