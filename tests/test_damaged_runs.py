"""Damaged files of a run: whoever reads them gets the right thing, or one sentence that names the file."""

import json

import pytest

from smidgen.errors import RunError
from smidgen.files import read_json, read_toml, write_toml
from smidgen.reports.tables import read_assignments
from smidgen.run_folder import RunFolder

DEEP = 5000


@pytest.fixture
def run(tmp_path):
    write_toml(tmp_path / "config.toml", {"data": "digits", "seed": 3})
    return RunFolder(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * DEEP, '{"a":' * DEEP, '{"a": "\\ud800"}', '{"a": NaN}', "", "{", '{"a": 1e999}']
)
def test_json_of_any_kind_is_read_or_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RunError, match=r"a\.json' is damaged or is not smidgen's JSON \("):
        read_json(tmp_path / "a.json")


def test_reasons_keep_the_name_of_json(tmp_path):
    (tmp_path / "a.json").write_text("x")
    with pytest.raises(RunError, match=r"\(JSON is malformed"):
        read_json(tmp_path / "a.json")


def test_deep_toml_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("a = " + "[" * DEEP)
    with pytest.raises(RunError, match="is not TOML"):
        read_toml(tmp_path / "a.toml")


def test_half_a_line_at_the_end_of_the_log_is_what_a_kill_leaves(run):
    (run.path / "metrics.jsonl").write_text('{"stage": "one", "step": 1, "total": NaN}\n{"stage": "one", "st')
    assert [line["step"] for line in run.history()] == [1]


@pytest.mark.parametrize(
    "line", ['{"stage": "one", "st', "3", "[]", '{"step": "1"}', '{"alarms": 5}', "[" * DEEP, "\udcff"]
)
def test_any_other_damage_to_the_log_is_named_by_its_line(run, line):
    content = '{"stage": "one", "step": 1}\n' + line + '\n{"stage": "one", "step": 2}\n'
    (run.path / "metrics.jsonl").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=r"metrics\.jsonl' is damaged: line 2 is not smidgen's"):
        run.history()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("manifest", []),
        ("manifest", {"data": 3}),
        ("manifest", {"data": {"shape": [1, "28", 28]}}),
        ("manifest", {"data": {"shape": [1, -28, 28]}}),
        ("manifest", {"data": {"fingerprint": 7}}),
        ("manifest", {"finished": 1}),
        ("manifest", {"a": {"b": {"c": {"d": {"e": 1}}}}}),
        ("metrics", 3),
        ("metrics", {"alarms": "one"}),
        ("metrics", {"a": {"b": {"c": {}}}}),
    ],
)
def test_manifest_and_metrics_of_another_form_are_refused(run, name, value):
    (run.path / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(RunError, match=rf"{name}\.json' is damaged"):
        getattr(run, name)


@pytest.mark.parametrize("manifest", [{}, {"data": {"shape": [1, 28]}}, {"data": {"shape": []}}])
def test_a_manifest_may_say_nothing_of_the_images(run, manifest):
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    assert run.manifest == manifest
    assert not run.finished
    with pytest.raises(RunError, match="says nothing of the images' shape"):
        run.shape  # noqa: B018


def test_settings_are_of_the_type_that_a_configuration_has(run):
    assert (run.setting("seed"), run.setting("resize"), run.setting("test")) == (3, "crop", None)
    write_toml(run.path / "config.toml", {"seed": "three", "resize": "stretch"})
    for name in ("seed", "resize", "data"):
        with pytest.raises(RunError, match=rf"config\.toml' is damaged: .*{name}"):
            run.setting(name)


@pytest.mark.parametrize("missing", ["image", "split", "cluster", "confidence"])
def test_assignments_without_a_column_are_refused(run, missing):
    columns = [name for name in ("image", "split", "cluster", "confidence") if name != missing]
    (run.path / "assignments.csv").write_text(f"{','.join(columns)}\na,b,c\n")
    with pytest.raises(RunError, match=rf"assignments\.csv' has no column '{missing}'"):
        run.assignments  # noqa: B018


@pytest.mark.parametrize(
    "row",
    [
        *(f"a.png,train,2,{cell}" for cell in ("abc", "nan", "inf", "1e400", "2", "-0.5")),
        "a.png,train,,1",
        "a.png,,2,1",
    ],
)
def test_cells_of_assignments_that_make_no_sense_are_refused(run, row):
    (run.path / "assignments.csv").write_text(f"image,split,cluster,confidence\nb.png,train,2,0.5\n{row}\n")
    with pytest.raises(RunError, match=r"assignments\.csv' is damaged \(.*\[1\]"):
        run.assignments  # noqa: B018
    with pytest.raises(RunError, match=r"assignments\.csv' is damaged \(.*\[1\]"):
        read_assignments(run.path)


def test_an_empty_table_of_assignments_is_no_table(run):
    (run.path / "assignments.csv").write_text("")
    with pytest.raises(RunError, match=r"assignments\.csv' is not a table: it is empty"):
        run.assignments  # noqa: B018


def test_every_damage_to_thumbnails_is_refused_or_harmless(run):
    pictures = {3: b"\x89PNG" + bytes(range(200)), 7: b"\xff\xd8\xff" + bytes(300)}
    run.write_thumbnails(list(pictures), list(pictures.values()))
    assert run.thumbnails() == pictures
    path = run.path / "thumbnails.parquet"
    whole = path.read_bytes()
    versions = [whole[:length] for length in range(0, len(whole), 97)]
    versions += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(0, len(whole), 5)]
    refused = 0
    for version in versions:
        path.write_bytes(version)
        try:
            assert run.thumbnails() == pictures
        except RunError:
            refused += 1
    assert refused > len(versions) / 3
    path.write_bytes(whole[:-50])
    with pytest.raises(RunError, match=r"thumbnails\.parquet' is damaged \(.*without it, the report shows no pictures"):
        run.thumbnails()


def test_no_thumbnails_are_none(run):
    assert run.thumbnails() == {}
