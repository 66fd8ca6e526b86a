"""Balanced labels at scale: smidgen's scaling against the published float64 update in NumPy, at equal iterations.

Both start from the same embeddings and prototypes and end with labels, each in a process of its own, so that its peak
memory is its own. Seconds of the clock and of the processor, which other work on the machine changes less; "update" is
without the softmax for the published side, and everything for ours.

    python benchmarks/sinkhorn_scale.py                       # 200,000 × 1,000, λ = 20
    python benchmarks/sinkhorn_scale.py --out-of-core         # 2,000,000 × 1,000 from 64 features on disk, ours alone
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CLUSTERS, FEATURES, STRENGTH, ITERATIONS = 1000, 64, 20.0, 20


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """Seconds since it was made, on the clock and of the processor."""

    def __init__(self) -> None:
        self.start, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": round(time.perf_counter() - self.start, 2),
            "processor": round(time.process_time() - self.processor, 2),
        }


def draw(folder: Path, n: int) -> None:
    """Write embeddings that lie around the prototypes in unequal numbers, as a trained net's do."""
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(CLUSTERS, FEATURES)).astype(np.float32)
    np.save(folder / "prototypes.npy", prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True) * 2)
    shares = rng.dirichlet(np.full(CLUSTERS, 2.0))
    file = np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float32, (n, FEATURES))
    for start in range(0, n, 100_000):
        rows = min(100_000, n - start)
        near = prototypes[rng.choice(CLUSTERS, rows, p=shares)]
        file[start : start + rows] = 0.2 * near + 0.2 * rng.normal(size=(rows, FEATURES))
    file.flush()


def published(folder: Path, iterations: int) -> dict:
    """SeLa's update: P^λ in float64, (clusters, n), r and c in turn."""
    embeddings, prototypes = np.load(folder / "embeddings.npy"), np.load(folder / "prototypes.npy")
    base, whole = memory(), Clock()
    p = np.empty((len(embeddings), len(prototypes)))
    for start in range(0, len(p), 10_000):
        logits = (embeddings[start : start + 10_000] @ prototypes.T).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        np.exp(logits, out=logits)
        p[start : start + 10_000] = logits / logits.sum(1, keepdims=True)
    update = Clock()
    p **= STRENGTH
    p = p.T
    c = (1 / p.shape[1]) / p.sum(0)
    for _ in range(iterations):
        r = (1 / p.shape[0]) / (p @ c)
        c = (1 / p.shape[1]) / (r @ p)
    scaled = np.concatenate([(p[:, i : i + 10_000] * r[:, None]).argmax(0) for i in range(0, p.shape[1], 10_000)])
    figures = {**whole.read(), "update": update.read(), "memory_mb": round(memory() - base)}
    np.save(folder / "published.npy", scaled)
    return figures


def ours(folder: Path, iterations: int, keep: str, threads: int) -> dict:
    import torch

    from smidgen.maths.transport import balanced_labels, logits_of, scale_columns

    torch.set_num_threads(threads)
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy", mmap_mode="c"))
    prototypes = torch.from_numpy(np.load(folder / "prototypes.npy"))
    blocks = logits_of(embeddings, prototypes, strength=STRENGTH)
    marginals = torch.full((CLUSTERS,), 1 / CLUSTERS)
    next(iter(blocks()))
    base, whole = memory(), Clock()
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16, "nothing": None}[keep]
    found = scale_columns(blocks, marginals=marginals, tolerance=0, max_iterations=iterations, keep=kind)
    scaling = whole.read()
    labels = balanced_labels(blocks, found.log_scale)
    figures = {**whole.read(), "scaling": scaling, "memory_mb": round(memory() - base), "peak_mb": round(memory())}
    np.save(folder / f"ours-{keep}.npy", labels.numpy())
    return figures | {"error": found.error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-of-core", action="store_true")
    parser.add_argument("--n", type=int)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side, folder = args.side[0], Path(args.side[1])
        found = (
            published(folder, args.iterations)
            if side == "published"
            else ours(folder, args.iterations, side, args.threads)
        )
        print(json.dumps(found))
        return
    n = args.n or (2_000_000 if args.out_of_core else 200_000)
    sides = ["nothing"] if args.out_of_core else ["published", "float32", "bfloat16", "nothing"]
    threads = {f"{name}_NUM_THREADS": str(args.threads) for name in ("OMP", "OPENBLAS", "MKL")}
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), n)
        for side in sides:
            command = [sys.executable, *sys.argv, "--side", side, name]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | threads)
            line = json.loads(done.stdout)
            if side != "published" and "published" in sides:
                same = np.load(Path(name) / f"ours-{side}.npy") == np.load(Path(name) / "published.npy")
                line["same_labels"] = float(same.mean())
            print(f"{side:10} {line}", flush=True)


if __name__ == "__main__":
    main()
