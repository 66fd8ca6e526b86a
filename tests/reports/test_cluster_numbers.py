import numpy as np
import pytest

from smidgen.csv_tables import write_csv
from smidgen.errors import RunError
from smidgen.maths.cluster_count import Views, scored
from smidgen.reports.cluster_numbers import parts_chart, read_numbers, score_chart
from smidgen.reports.tables import read_assignments

NUMBERS = [2, 3, 4, 5]


def curve():
    same = np.full((2, 4), 0.1)
    return scored(Views(np.tile([0.2, 0.5, 0.4, 0.1], (2, 1)), same, same, same), NUMBERS).columns()


@pytest.fixture
def folder(tmp_path):
    write_csv(
        tmp_path / "assignments.csv",
        {
            "image": [f"{i}" for i in range(8)],
            "split": ["train"] * 8,
            "cluster": ["0"] * 8,
            "confidence": ["0.5"] * 8,
        },
    )
    (tmp_path / "tables").mkdir()
    write_csv(tmp_path / "tables" / "cluster_numbers.csv", curve())
    write_csv(
        tmp_path / "tables" / "cluster_merges.csv",
        {
            "node": list(range(7)),
            "first": ["", "", "", "", 0, 2, 4],
            "second": ["", "", "", "", 1, 3, 5],
            "height": ["", "", "", "", 1, 2, 3],
            "images": [3, 1, 2, 2, 4, 4, 8],
            "typical": ["0", "5", "7", "3", "0", "7", "0"],
        },
    )
    return tmp_path


def test_cuts_are_shown_with_their_sizes_and_typical_images(folder):
    found = read_numbers(folder, read_assignments(folder))
    assert (found.best, found.low, found.high) == (3, 3, 3)
    assert [cut.n_clusters for cut in found.cuts] == [3]
    assert [(size, rows.tolist()) for size, rows in found.cuts[0].groups] == [(4, [0, 5]), (2, [7]), (2, [3])]
    assert sorted(found.rows().tolist()) == [0, 3, 5, 7]


def test_a_run_without_the_tables_has_no_section(tmp_path, folder):
    (folder / "tables" / "cluster_numbers.csv").unlink()
    assert read_numbers(folder, read_assignments(folder)) is None


@pytest.mark.parametrize("name", ["cluster_numbers.csv", "cluster_merges.csv"])
def test_a_damaged_table_is_named(folder, name):
    (folder / "tables" / name).write_text("n_clusters,score\nmany,2\n")
    with pytest.raises(RunError, match="tables on the number of clusters"):
        read_numbers(folder, read_assignments(folder))


def test_figures_say_the_best_number_and_show_every_part():
    columns = {name: np.asarray(column, dtype=float) for name, column in curve().items()}
    assert "best: 3" in score_chart(columns)
    assert score_chart(columns).count("<circle") == len(NUMBERS) + 1
    shown = parts_chart(columns | {"labels": np.array([0.1, 0.2, 0.3, 0.2])})
    assert "agreement with labels" in shown
    assert shown.count("stroke-dasharray") == 2


def test_a_single_number_is_drawn_too():
    columns = {name: np.asarray(column, dtype=float)[1:2] for name, column in curve().items()}
    assert "best: 3" in score_chart(columns)
