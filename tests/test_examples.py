"""Every example runs to its end and says what it promises."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SAYS = {
    "a_fit_that_can_be_stopped": "the plug was pulled; finished: False",
    "a_little_evidence": "20 labels, 100 bags  accuracy on the 359 test images",
    "counts_of_bags": "1,000 counts, no label: accuracy on the 359 test images",
    "cluster_a_folder": "the loaded model agrees: True",
    "embeddings_in_a_pipeline": "fusion, 50 labels  NMI",
}


def test_every_example_is_known():
    assert [path.stem for path in EXAMPLES] == sorted(SAYS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is read from TMPDIR again
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[path.stem] in capsys.readouterr().out
