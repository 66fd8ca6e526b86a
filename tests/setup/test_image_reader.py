"""Opening the images of fits: once for all fits of the same ones."""

import numpy as np
import pytest

from smidgen.config import Config
from smidgen.experiments.recipes import parse_recipe
from smidgen.experiments.variants import run_variants
from smidgen.listener import Listener
from smidgen.setup import images
from smidgen.setup.images import ImageReader


@pytest.fixture
def reads(monkeypatch):
    """Return the data that were read, one entry each time."""
    found, read = [], images.open_splits

    def counted(data, **options):
        found.append(data)
        return read(data, **options)

    monkeypatch.setattr(images, "open_splits", counted)
    return found


def test_a_reader_reads_the_same_images_once(reads):
    reader = ImageReader()
    first = reader.open(Config("digits"), Listener())
    again = reader.open(Config("digits", n_clusters=4, seed=3), Listener())
    assert first[0] is again[0]
    assert first[1] is again[1]
    assert len(reads) == 1


def test_other_images_or_another_reading_of_them_are_read(reads):
    reader = ImageReader()
    for config in (Config("digits"), Config("digits", classes=("1", "2")), Config("digits")):
        reader.open(config, Listener())
    assert len(reads) == 3
    pixels = np.zeros((4, 8, 8), dtype=np.uint8)
    assert len(reader.open(Config("digits"), Listener(), data=pixels)[0]) == 4
    assert len(reader.open(Config("digits"), Listener())[0]) == 1438


def test_each_seed_draws_its_own_part_of_them(reads):
    reader = ImageReader()
    one, other = (reader.open(Config("digits", images=100, seed=seed), Listener())[0] for seed in (0, 1))
    assert one.ids.tolist() != other.ids.tolist()
    assert len(reads) == 1


def test_the_variants_of_a_recipe_share_their_images(reads, tmp_path):
    text = """
    data = "digits"
    images = 200
    method = "kmeans"
    seeds = [0, 1]
    issues = false
    [variants.plain]
    [variants.labels]
    simulate.labels_per_class = 2
    options.start = "labels"
    """
    run_variants(parse_recipe("both", text), tmp_path / "runs")
    assert len([*(tmp_path / "runs").glob("*/seed-*/metrics.json")]) == 4
    assert len(reads) == 1
