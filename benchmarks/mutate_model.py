"""Damaged model.json files: how many of 1,200 mutations escape `Model.load` as something other than one sentence.

    .venv/bin/python benchmarks/mutate_model.py [mutations of each model, 300 by default]

Every mutation is judged twice: as it is, where nothing but the same model may load; and forged, under a checksum that
fits again, where another model may load if it assigns images. Exits 1 if anything escapes.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from mutations import MODELS, fit_model, judge, mutated
from smidgen.model import Model
from smidgen.model_file import read_model_file


def main() -> int:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print(f"| model | mutations | refused | the same | another | escaped | seconds |\n|{' --- |' * 7}")
    escaped = 0
    for name in MODELS:
        model, images = fit_model(name)
        with tempfile.TemporaryDirectory() as folder:
            model.save(folder)
            for forged in (False, True):
                escaped += run(name, Path(folder), images, n, forged=forged)
    return int(escaped > 0)


def run(name, folder: Path, images, n: int, *, forged: bool) -> int:  # type: ignore[no-untyped-def]
    """Print a row of the table; return how many mutations escaped, those that load as another model unnoticed too."""
    path, began = folder / "model.json", time.monotonic()
    content, whole, sound = path.read_bytes(), read_model_file(folder), Model.load(folder).assign(images)
    verdicts = Counter[str]()
    for seed in range(n):
        path.write_bytes(mutated(content, random.Random(seed), forged=forged))
        verdicts[judge(folder, images, sound, whole)] += 1
    path.write_bytes(content)
    refused, same, another = (verdicts.pop(verdict, 0) for verdict in ("refused", "same", "another"))
    escaped = sum(verdicts.values()) + (0 if forged else another)
    cells = f"{n} | {refused} | {same} | {another} | {escaped} | {time.monotonic() - began:.0f}"
    print(f"| {name}{', forged' if forged else ''} | {cells} |", flush=True)
    for verdict, times in verdicts.items():
        print(f"  {times} × {verdict}", file=sys.stderr, flush=True)
    return escaped


if __name__ == "__main__":
    sys.exit(main())
