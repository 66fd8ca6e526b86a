from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_samples import QUICK, fill

from smidgen.cli.main import main


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refusal(self) -> str:
        """The one sentence of a refusal, after checking that it is one."""
        assert self.code == 2
        assert self.out == ""
        assert self.err.startswith("smidgen: ")
        assert self.err.count("\n") == 1
        assert "Traceback" not in self.err
        return self.err.removeprefix("smidgen: ").rstrip("\n")


@pytest.fixture
def smidgen(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*argv: Any) -> Said:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three clusters that are the classes, on the folder `photos` beside it; not to be changed."""
    home = tmp_path_factory.mktemp("finished")
    assert main(["fit", str(fill(home / "photos")), "--out", str(home / "run"), *QUICK]) == 0
    return home / "run"
