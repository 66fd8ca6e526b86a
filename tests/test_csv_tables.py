"""Tables read back as they were written, and run no formulas."""

import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.csv_tables import guard_cell, read_csv, restore_cell, write_csv

CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.from_regex(r"\A(\./)*[=+@\t\r-]\w*\Z")


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_a_table_reads_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    columns = {"image": [row[0] for row in rows], "note, odd": [row[1] for row in rows]}
    write_csv(path, columns)
    assert read_csv(path) == columns


@given(CELLS)
def test_no_written_text_starts_a_formula(text):
    guarded = guard_cell(text)
    assert restore_cell(guarded) == text
    if guarded.startswith(("=", "+", "-", "@", "\t", "\r")):
        float(guarded)  # only a number may


@pytest.mark.parametrize("number", ["-1", "+1", "-0.5", "-.5", "-1e-05", "-inf", "1.", "nan"])
def test_numbers_are_left_alone(number):
    assert guard_cell(number) == number


@pytest.mark.parametrize("text", ["-1+cmd|' /C calc'!A0", "=1", "@SUM(A1)", "+1+1", "-", "--1", "\t=1", "-1e"])
def test_formulas_are_not(text):
    assert guard_cell(text) == f"./{text}"


def test_a_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_csv(tmp_path / "t.csv", {"image": [name]})
    assert b"caf\xe9.png" in (tmp_path / "t.csv").read_bytes()
    assert read_csv(tmp_path / "t.csv") == {"image": [name]}


def test_other_programs_read_the_table(tmp_path):
    write_csv(tmp_path / "t.csv", {"image": ["a,b", 'say "x"', "line\nbreak", "r\rr"], "k": [1, 2, 3, 4]})
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a,b", 'say "x"', "line\nbreak", "r\rr"]


def test_columns_of_different_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_csv(tmp_path / "t.csv", {"a": [1, 2], "b": [1]})
