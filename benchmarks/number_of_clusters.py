"""How near the number of clusters that `--clusters auto` finds comes to that of the classes, and what its range holds.

    python benchmarks/number_of_clusters.py --sets rooms weather letters/4 gaussian/30 --evidence none labels-5 counts

One process and one thread, and a row for each set, draw and kind of evidence. A set is a collection as
`small_collections.py` takes them (a .tar in `$SMIDGEN_DATA/collections`, embedded, or a .npz in `--arrays`), of which
only the training images are used; `letters/4` is images of four classes of it, others in each draw; `mnist` is 10,000
raw images of its training set; `gaussian/30` is 30 Gaussian clusters of 64 features, `gaussian/30/4` nearer together.

The last lines are, for each kind of evidence: the median and mean of |log(found / true)|, how often the range of one
standard error holds the true number, the median of log2(largest / least), and the mean of the seconds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from small_collections import evidence_in, load

from smidgen.data.datasets import open_splits
from smidgen.setup.number_of_clusters import find_number_of_clusters

SETS = (
    *("rooms", "weather", "litter", "flowers", "letters", "mnist"),
    *(f"letters/{k}" for k in range(2, 10)),
    *(f"gaussian/{k}" for k in (30, 50, 70, 100)),
)
MOST = 10_000
"""Images of a set."""

PER_CLASS = 300
"""Images of a class in a subset of the classes."""


def images_of(name: str, arrays: Path | None, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings, or images, and their classes."""
    base, *rest = name.split("/")
    generator = np.random.default_rng(draw)
    if base == "gaussian":
        return _gaussian(int(rest[0]), float(rest[1]) if rest[1:] else 5.0, generator)
    if base == "mnist":
        train, _ = open_splits("mnist")
        x, y = train.images, np.asarray(train.classes)
    else:
        data = load(base, arrays, "lite2")
        x, y = data.x, data.y.astype(np.int64)
    rows = generator.permutation(len(x))
    if rest:
        chosen = generator.permutation(int(y.max()) + 1)[: int(rest[0])]
        rows = np.concatenate([rows[y[rows] == k][:PER_CLASS] for k in chosen])
    rows = generator.permutation(rows[: None if rest else MOST])
    return x[rows], np.unique(y[rows], return_inverse=True)[1]


def _gaussian(n: int, distance: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    centres = generator.normal(size=(n, 64))
    centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
    classes = np.repeat(np.arange(n), 50)
    points = centres[classes] + 0.7 * generator.normal(size=(len(classes), 64))
    return points.astype(np.float32), classes


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--evidence", nargs="+", default=("none", "labels-5", "counts"))
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--arrays", type=Path, help="folder of .npz files, instead of collections to embed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: defaultdict[str, list[tuple[float, bool, float, float]]] = defaultdict(list)
    print("set | draw | evidence | images | true | found | range | seconds", flush=True)
    for name in options.sets:
        for draw in options.draws:
            x, y = images_of(name, options.arrays, draw)
            true = int(y.max()) + 1
            for kind in options.evidence:
                known, begun = evidence_in(kind, y, draw), time.process_time()
                curve = find_number_of_clusters(x, known, seed=draw).curve
                seconds = time.process_time() - begun
                print(
                    f"{name} | {draw} | {kind} | {len(x)} | {true} | {curve.best} | {curve.low}-{curve.high} |"
                    f" {seconds:.1f}",
                    flush=True,
                )
                holds, width = curve.low <= true <= curve.high, float(np.log2(curve.high / curve.low))
                rows[kind].append((abs(float(np.log(curve.best / true))), holds, width, seconds))
    for kind, found in rows.items():
        errors, holds, widths, seconds = np.array(found, dtype=float).T
        print(
            f"{kind}: median |log| {np.median(errors):.2f}, mean {errors.mean():.2f}, in range {holds.mean():.0%},"
            f" width {np.median(widths):.1f} octaves, {seconds.mean():.1f} s"
        )


if __name__ == "__main__":
    main()
