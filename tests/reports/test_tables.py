"""Numbers of a run: the map from clusters to classes, the confusion matrix, tables that are cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_samples import digits_run, write_run
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix

from smidgen.csv_tables import write_csv
from smidgen.errors import RunError
from smidgen.reports.tables import confusion, count_pairs, match_classes, natural_key, read_assignments, read_table


def test_map_is_the_best_one_to_one_match_of_training_rows(digits_folder: Path) -> None:
    found = read_assignments(digits_folder)
    train = found.splits == "train"
    counts = confusion_matrix(found.clusters[train], found.classes[train])
    rows, columns = linear_sum_assignment(-counts)
    assert found.class_of[rows].tolist() == columns.tolist()


def test_with_more_clusters_than_classes_each_takes_its_most_frequent_class_and_empty_ones_none() -> None:
    clusters, classes = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 0, 0, 1, 0, 0, 0])
    assert match_classes(clusters, classes, shape=(4, 2)).tolist() == [0, 0, 0, -1]  # one-to-one would take 1 for 1
    assert match_classes(clusters[:6], classes[:6], shape=(2, 2)).tolist() == [0, 1]


def test_test_classes_do_not_move_the_map(tmp_path: Path) -> None:
    fake = digits_run(200)
    before = read_assignments(write_run(tmp_path / "a", fake)).class_of
    assert fake.classes
    fake.classes = [c if s == "train" else "0" for c, s in zip(fake.classes, fake.splits, strict=True)]
    assert read_assignments(write_run(tmp_path / "b", fake)).class_of.tolist() == before.tolist()


def test_confusion_counts_one_split(digits_folder: Path) -> None:
    found = read_assignments(digits_folder)
    rows = found.splits == "test"
    expected = confusion_matrix(found.classes[rows], found.clusters[rows], labels=range(10))
    assert confusion(found, split="test").tolist() == expected.tolist()


def test_count_pairs_of_nothing_is_zero() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert count_pairs(none, none, shape=(2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_names_sort_as_people_count() -> None:
    names = ["", "10", "2", "²", "a10", "a9", "9" * 30, "-1"]
    assert sorted(names, key=natural_key).index("2") < sorted(names, key=natural_key).index("10")
    assert sorted(["a10", "a9"], key=natural_key) == ["a9", "a10"]


def test_table_is_cut_in_rows_and_cells_and_restored(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", {"name": ["=1+1", "x" * 300, *["y"] * 98], "n": range(100)})
    table = read_table(tmp_path / "t.csv", limit=10)
    assert (table.name, table.total, len(table.rows)) == ("t", 100, 10)
    assert table.rows[0] == ["=1+1", "0"]
    assert len(table.rows[1][0]) == 200


def test_missing_column_is_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "assignments.csv", {"image": ["a"]})
    with pytest.raises(RunError, match="no column 'cluster'"):
        read_assignments(tmp_path)
