"""`smidgen list encoders`: ours without importing anything slow, timm's by pattern."""

import re
import subprocess
import sys

import pytest

from smidgen.cli import list as listing
from smidgen.methods import make_config


@pytest.fixture(autouse=True)
def _few_names(monkeypatch):
    monkeypatch.setattr(listing, "_timm_names", lambda: ["convnext_tiny", "resnet18", "resnet50", "seresnet50"])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet*", ["resnet18", "resnet50"]),
        ("resnet50", ["resnet50", "seresnet50"]),  # a part of a name
        ("conv*", ["conv", "conv-2x2", "convnext_tiny"]),
        ("resnet[15]?", ["resnet18", "resnet50"]),
    ],
)
def test_encoders_are_listed_by_pattern(smidgen, pattern, names):
    assert smidgen("list", "encoders", pattern).out.split("\n") == [*names, ""]


def test_a_pattern_that_nothing_fits_is_refused(smidgen):
    assert "None of 15 encoders is called 'vgg*'" in smidgen("list", "encoders", "vgg*").refusal()


def test_our_encoders_are_all_described():
    from smidgen.nets.encoders import ENCODERS, VECTORS

    assert list(listing.ENCODERS) == [*ENCODERS, VECTORS]


def test_listing_ours_imports_neither_torch_nor_timm():
    code = (
        "import sys; from smidgen.cli.main import main; main(['list', 'encoders']);"
        "sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "smidgen list encoders 'resnet*'" in done.stdout


def test_fusion_is_listed_with_its_rule_and_the_options_of_its_methods(smidgen):
    rule, images, embeddings = re.split("^fusion-[a-z]+: ", smidgen("list", "methods", "fusion").out, flags=re.M)
    assert "of grey images of up to 64 pixels a side" in rule
    assert ("\nsettle " in images, "\nhidden " in images, "\nheads " in images) == (True, False, True)
    assert ("\nsettle " in embeddings, "\nhidden " in embeddings, "\nheads " in embeddings) == (False, True, True)
    names = [line.split()[0] for line in smidgen("list", "methods").out.split("\n\n")[0].splitlines()]
    assert names[:3] == ["fusion", "fusion-images", "fusion-embeddings"]
    assert names[3:6] == ["consistency", "deepcluster", "kmeans"]
    assert names[3:] == sorted(names[3:])
    assert {"mutual-information", "rcc", "seeded-autoencoder", "sela", "supervised", "swav", "ucc"} < {*names}


def test_recipes_are_listed_with_what_they_run(smidgen):
    lines = smidgen("list", "recipes").out.splitlines()
    assert any(line.startswith("mnist_none ") and "MNIST" in line for line in lines)
    assert "`smidgen run NAME` runs one." in lines


@pytest.mark.parametrize("method", ["ucc", "rcc"])
def test_options_of_the_paper_come_before_those_for_comparison(smidgen, method):
    said = smidgen("list", "methods", method).out
    paper, further, compared = re.split(
        r"\n\n(?:Beyond the UCC paper|For comparison only).*:\n", said.partition("\n\nSet")[0]
    )
    names = [{line.split()[0] for line in part.splitlines() if line[:1].strip()} for part in (paper, further, compared)]
    assert {"points", "bandwidth", "reconstruction", "steps"} < names[0]
    assert {"log_output", "augment", "clip"} < names[1]
    assert names[2] == {"random_shares", "start_bandwidth", "attention", "warmup_steps", "freeze_encoder"}
    presets = [set(preset) for preset in type(make_config(method)).PRESETS.values()]
    assert not any(names[2] & preset for preset in presets)
