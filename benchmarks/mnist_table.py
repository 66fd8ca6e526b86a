"""Clusterings of MNIST side by side on one machine: accuracy on the test images, and seconds of fit.

    python benchmarks/mnist_table.py --seeds 3 --out /tmp/table          # ours
    python benchmarks/mnist_table.py --dec-python ENV/bin/python …      # ClustPy's DEC too, in its own environment

Trained on the 60,000 training images without labels, scored on the 10,000 test images. ClustPy is asked for fewer
epochs than its defaults (100 + 150), which take the better part of an hour here: `--dec-epochs` says how many of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path

import numpy as np

from smidgen.cli.main import main as smidgen
from smidgen.data.datasets import open_splits
from smidgen.evaluation.scores import clustering_accuracy

DEC = """
import sys, time, numpy as np, torch
from clustpy.deep import DEC
folder, epochs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
train, test = np.load(folder + "/train.npy"), np.load(folder + "/test.npy")
start = time.time()
dec = DEC(10, pretrain_epochs=epochs, clustering_epochs=epochs, random_state=seed).fit(train)
print("seconds", time.time() - start)
np.save(folder + "/dec.npy", np.asarray(dec.predict(test)))
"""


def ours(out: Path, name: str, seed: int, *options: str) -> dict[str, float]:
    """Fit through the command line and return the run's figures."""
    folder = out / f"{name}-{seed}"
    code = smidgen(["fit", "mnist", "--out", str(folder), "--seed", str(seed), "--overwrite", "--quiet", *options])
    if code:
        raise SystemExit(code)
    return json.loads((folder / "metrics.json").read_text())


def dec(out: Path, python: str, epochs: int, seed: int) -> dict[str, float]:
    """Run ClustPy's DEC in its own environment on the same pixels, scaled to [0, 1]."""
    train, test = open_splits("mnist")
    assert test is not None
    assert test.classes is not None
    for name, dataset in (("train", train), ("test", test)):
        np.save(out / f"{name}.npy", dataset.images.reshape(len(dataset), -1).astype("float32") / 255)
    command = [python, "-c", DEC, str(out), str(epochs), str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = float(done.stdout.split("seconds")[1].split()[0])
    return {"test_accuracy": clustering_accuracy(test.classes, np.load(out / "dec.npy")), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dec-python")
    parser.add_argument("--dec-epochs", type=int, default=20)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        rows.setdefault("k-means on pixels", []).append(ours(args.out, "pixels", seed, "--method", "kmeans"))
        rows.setdefault("fusion", []).append(ours(args.out, "fusion", seed))
        trained = ("--method", "kmeans", "--init-from", str(args.out / f"fusion-{seed}"))
        rows.setdefault("k-means on fusion's embeddings", []).append(ours(args.out, "embeddings", seed, *trained))
    if args.dec_python:
        rows[f"ClustPy DEC, {args.dec_epochs}+{args.dec_epochs} epochs"] = [
            dec(args.out, args.dec_python, args.dec_epochs, 0)
        ]
    for name, runs in rows.items():
        accuracies = [run["test_accuracy"] for run in runs]
        seconds = statistics.median(run["seconds"] for run in runs)
        print(f"{name:34s} {statistics.mean(accuracies):.4f}  {[round(a, 4) for a in accuracies]}  {seconds:.0f} s")
    (args.out / "table.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
