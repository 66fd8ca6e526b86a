"""Right and wrong predictions of each class, the table of clusters, and how the page says what clusters stand for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from report_samples import digits_run, write_run

from smidgen.csv_tables import read_csv, write_csv
from smidgen.outputs import write_clusters
from smidgen.reports.page import write_page
from smidgen.reports.predictions import choose_predictions, cluster_rows, cluster_table
from smidgen.reports.tables import Assignments, read_assignments
from smidgen.run_folder import RunFolder
from smidgen.scoring import score_run


def written(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a run whose images have these splits, clusters and classes."""
    folder.mkdir(parents=True, exist_ok=True)
    split, cluster, known = zip(*rows, strict=True)
    columns = {"image": [f"{i}.png" for i in range(len(rows))], "split": split, "cluster": cluster,
               "confidence": [0.5] * len(rows), "class": known}  # fmt: skip
    write_csv(folder / "assignments.csv", columns)
    (folder / "config.toml").write_text("seed = 0\n")
    return folder


SWAPPED = [
    *[("train", "0", "dog")] * 6, *[("train", "0", "cat")] * 2, *[("train", "1", "cat")] * 5,
    ("train", "1", "dog"), ("train", "1", ""),
    *[("test", "0", "cat")] * 3, ("test", "0", "dog"), *[("test", "1", "dog")] * 2, ("test", "1", "cat"),
]  # fmt: skip
"""Two clusters that stand for dogs and cats on training images, and on test images fit better the other way round."""

MANY = [
    *[("train", "0", "cat")] * 3, *[("train", "1", "cat")] * 2, *[("train", "2", "dog")] * 2, ("train", "2", "cat"),
    *[("test", "0", "cat")] * 2, ("test", "1", "cat"), ("test", "2", "cat"), ("test", "2", "dog"),
]  # fmt: skip


@pytest.fixture
def digits(digits_folder: Path) -> Assignments:
    return read_assignments(digits_folder)


def test_right_and_wrong_images_are_what_they_are_said_to_be(digits: Assignments) -> None:
    found = choose_predictions(digits)
    assert [(each.class_number, each.split) for each in found[:3]] == [(0, "train"), (0, "test"), (1, "train")]
    assert len(found) == 20
    for each in found:
        for rows, is_right in ((each.right, True), (each.wrong, False)):
            assert (digits.predicted()[rows] == each.class_number).all()
            assert ((digits.classes[rows] == each.class_number) == is_right).all()
            assert set(digits.splits[rows]) <= {each.split}
            assert len(rows) == min(8, each.n_right if is_right else each.n_wrong)
    assert sum(each.n_right + each.n_wrong for each in found) == len(digits)


def test_many_classes_share_the_pictures(tmp_path: Path) -> None:
    rows = [("train", str(i % 40), f"class {i % 41}") for i in range(4000)]
    found = choose_predictions(read_assignments(written(tmp_path, rows)))
    assert len(found) == 30
    assert sum(len(each.right) + len(each.wrong) for each in found) <= 480


def test_test_images_are_judged_by_the_map_of_training_images(tmp_path: Path) -> None:
    folder = written(tmp_path, SWAPPED)
    scores = score_run(folder)["test"]
    assert scores["accuracy"] == 5 / 7  # matched on these very images
    assert scores["mapped_accuracy"] == 2 / 7
    (folder / "metrics.json").write_text('{"test_accuracy": 0.7142857}')
    page = write_page(folder).read_text()
    assert "28.6 % by the match on training images" in page
    assert "one-to-one match that fits the training images best; test and new images are judged by that" in page


def test_more_clusters_than_classes_stand_for_their_most_frequent_class(tmp_path: Path) -> None:
    folder = written(tmp_path, MANY)
    assert score_run(folder)["test"]["mapped_accuracy"] == 4 / 5
    (folder / "metrics.json").write_text('{"test_accuracy": 0.6}')
    page = write_page(folder).read_text()
    assert '<p class="name">Accuracy by majority, test</p><p class="value">80.0 %</p>' in page
    assert "each stands for the most frequent class among its training images" in page
    assert "classes in rows, predicted classes in columns" in page


def test_clusters_are_counted_on_training_images_the_largest_first(tmp_path: Path) -> None:
    assignments = read_assignments(written(tmp_path, SWAPPED))
    first, second = cluster_rows(assignments, split="train")
    assert (first.number, first.size, first.counts.tolist(), first.purity) == (0, 12, [2, 6], 0.75)
    assert (second.number, second.size, second.counts.tolist(), second.known) == (1, 10, [5, 1], 6)
    assert dict(cluster_table(assignments)) == {
        "cluster": ["0", "1"], "images": [12, 10], "confidence": ["0.5000"] * 2, "stands_for": ["dog", "cat"],
        "split": ["train"] * 2, "of_known_class": [8, 6], "most_frequent_class": ["dog", "cat"],
        "purity": ["0.7500", "0.8333"], "class cat": [2, 5], "class dog": [6, 1],
    }  # fmt: skip


def test_the_table_s_file_is_named_where_it_is_and_says_the_same(digits_folder: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", digits_run(100))
    assert "tables/clusters.csv" not in write_page(folder, layout="pca").read_text()
    write_clusters(RunFolder.open(folder))
    page = write_page(folder, layout="pca").read_text()
    assert "tables/clusters.csv" in page
    table = read_csv(folder / "tables" / "clusters.csv")
    sizes = re.findall(r'<th scope="row"><bdi>(\d+)</bdi></th><td class="number">(\d+)</td>', page)
    assert sizes == list(zip(table["cluster"], table["images"], strict=True))


def test_two_hundred_clusters_are_folded_away_and_more_are_left_to_the_file(tmp_path: Path) -> None:
    rows = [("train", str(k), str(k % 15)) for k in range(220) for _ in range(1 + (k == 219))]
    page = write_page(written(tmp_path, rows)).read_text()
    body = page.split('class="clusters"')[1].split("</table>")[0]
    assert "The 200 largest clusters" in page
    assert body.count("<tr>") == 201
    assert body.index("<bdi>219</bdi>") < body.index("<bdi>0</bdi>")
    assert "Classes in it" in body  # fifteen columns would be too many


def test_a_run_without_classes_has_neither(tmp_path: Path) -> None:
    fake = digits_run(60)
    fake.classes = None
    folder = write_run(tmp_path, fake)
    assert choose_predictions(read_assignments(folder)) == []
    assert set(cluster_table(read_assignments(folder))) == {"cluster", "images", "confidence"}
    page = write_page(folder, layout="pca").read_text()
    assert "Right and wrong" not in page
    assert 'class="clusters"' not in page


def test_choices_are_the_same_each_time(digits: Assignments) -> None:
    one, other = choose_predictions(digits), choose_predictions(digits)
    assert all(np.array_equal(a.right, b.right) for a, b in zip(one, other, strict=True))
