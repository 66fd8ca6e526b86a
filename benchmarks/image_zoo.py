"""The image zoo as a table: one file of every kind that people have, its mean as it should be and as it is read.

    .venv/bin/python benchmarks/image_zoo.py

The files are those of tests/data/test_images.py, which holds them to the tolerances shown. Exits 1 if one is wrong.
"""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

from PIL import Image

from smidgen.data.images import BadImage, load_image

TESTS = Path(__file__).parent.parent / "tests" / "data" / "test_images.py"


def main() -> int:
    zoo = tests()
    rows = [measured(name, *case) for name, case in zoo.ZOO.items()]
    print("| case | expected mean | measured mean | Pillow's own RGB | verdict |\n| --- | --- | --- | --- | --- |")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    refused = [refusal(name, *case) for name, case in zoo.BAD.items()]
    print("\n| case | refused because | verdict |\n| --- | --- | --- |")
    print("\n".join(f"| {' | '.join(row)} |" for row in refused))
    return int(any(row[-1] != "right" for row in rows + refused))


def tests() -> ModuleType:
    """Return the module of the tests, where the zoo lives."""
    spec = importlib.util.spec_from_file_location("image_zoo_tests", TESTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(name: str, make, expected: float, tolerance: float) -> tuple[str, ...]:  # type: ignore[no-untyped-def]
    mean = float(load_image(make()).mean())
    allowed = f" ± {tolerance:g}" if tolerance else ""
    right = abs(mean - expected) <= max(tolerance, 1e-6)
    return name, f"{expected:.2f}{allowed}", f"{mean:.2f}", plain_mean(make()), "right" if right else "WRONG"


def plain_mean(data: bytes) -> str:
    """Return what `Image.open(…).convert("RGB")` makes of the same bytes: what a plain loader sees."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = image.convert("RGB").tobytes()
    except Exception as error:  # whatever it is, a plain loader has no mean to show
        return type(error).__name__
    return f"{sum(pixels) / len(pixels):.2f}"


def refusal(name: str, make, reason: str) -> tuple[str, ...]:  # type: ignore[no-untyped-def]
    try:
        load_image(make())
    except BadImage as error:
        return name, error.reason, "right" if reason in str(error) else "WRONG"
    return name, "it was read", "WRONG"


if __name__ == "__main__":
    sys.exit(main())
