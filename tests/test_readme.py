"""The Python in README.md runs as it stands, where the folders that it speaks of are there."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from smidgen.methods import fusion_images

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def write_digits(folder, rows):
    folder.mkdir()
    pixels = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    for row in rows:
        Image.fromarray(pixels[row]).save(folder / f"{row:03d}.png")


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """What the blocks share: folders of digits, the labels of some, and a `fusion` of a few steps."""
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "photos", range(80))
    write_digits(tmp_path / "new", range(80, 100))
    labels = [f"{row:03d}.png,{load_digits().target[row]}" for row in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *labels, ""]))
    usual = fusion_images.FusionImagesConfig
    short = [(name, int, 3) for name in usual() if name.endswith("steps")]
    config = dataclasses.make_dataclass(usual.__name__, short, bases=(usual,), frozen=True)
    monkeypatch.setattr(fusion_images, usual.__name__, config)
    return {}


def test_the_blocks_of_the_readme_run_in_order(namespace, tmp_path):
    assert BLOCKS
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)
    model = namespace["model"]
    assert len(model.labels_) == 80
    assert set(model.cluster_names_) == set("0123456789")
    assert model.config_.options["steps"] == 3
    proportions = model.predict_proba("new/")
    assert proportions.shape == (20, 10)
    assert (proportions.argmax(1) == model.predict("new/")).all()
    assert len(model.transform("new/")) == 20
    assert (tmp_path / "runs" / "photos" / "model" / "model.json").exists()
