"""The method in ARCHITECTURE.md works as it stands, registered as the page says."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from smidgen.config import Config
from smidgen.fitting import fit
from smidgen.methods import METHODS
from smidgen.model import Model

PAGE = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.fixture
def name(monkeypatch):
    """The method's name, while it is registered."""
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    ((name, *entry),) = re.findall(r'`"([\w-]+)": \("(\w+)", "(\w+)", "([^"]+)"\)`', PAGE)
    module = ModuleType(f"smidgen.methods.{name.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(METHODS, name, tuple(entry))
    exec(compile(block, "ARCHITECTURE.md", "exec"), vars(module))
    return name


def test_the_method_of_the_page_finds_digits_and_is_saved(name, tmp_path):
    config = Config("digits", method=name, n_clusters=10, options={"steps": 200}, threads=1)
    outcome = fit(config)
    assert outcome.metrics["test_accuracy"] > 0.5  # chance: .1
    assert "alarms" not in outcome.metrics
    outcome.model.save(tmp_path)
    images = outcome.train.images
    assert (Model.load(tmp_path).assign(images) == outcome.model.assign(images)).all()
