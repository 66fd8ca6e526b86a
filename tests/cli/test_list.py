"""`smidgen list encoders`: ours without importing anything slow, timm's by pattern."""

import subprocess
import sys

import pytest

from smidgen.cli import list as listing


@pytest.fixture(autouse=True)
def _few_names(monkeypatch):
    monkeypatch.setattr(listing, "_timm_names", lambda: ["convnext_tiny", "resnet18", "resnet50", "seresnet50"])


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet*", ["resnet18", "resnet50"]),
        ("resnet50", ["resnet50", "seresnet50"]),  # a part of a name
        ("conv*", ["conv", "convnext_tiny"]),
        ("resnet[15]?", ["resnet18", "resnet50"]),
    ],
)
def test_encoders_are_listed_by_pattern(smidgen, pattern, names):
    assert smidgen("list", "encoders", pattern).out.split("\n") == [*names, ""]


def test_a_pattern_that_nothing_fits_is_refused(smidgen):
    assert "None of 11 encoders is called 'vgg*'" in smidgen("list", "encoders", "vgg*").refusal()


def test_our_encoders_are_all_described():
    from smidgen.nets.encoders import ENCODERS

    assert list(listing.ENCODERS) == list(ENCODERS)


def test_listing_ours_imports_neither_torch_nor_timm():
    code = (
        "import sys; from smidgen.cli.main import main; main(['list', 'encoders']);"
        "sys.exit(bool({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "smidgen list encoders 'resnet*'" in done.stdout
