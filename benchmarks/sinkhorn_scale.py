"""Balanced labels at scale: smidgen's scaling against the published float64 update in NumPy, at equal iterations.

Each side runs in a process of its own, from the same embeddings and prototypes, so that its peak memory is its own.

    python benchmarks/sinkhorn_scale.py                       # 200,000 × 1,000, λ = 20
    python benchmarks/sinkhorn_scale.py --out-of-core         # 2,000,000 × 1,000 from 64 features on disk, ours alone
"""

import argparse
import json
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


def published(folder: Path) -> dict:
    """SeLa's update: P^λ in float64, (clusters, n), r and c in turn."""
    embeddings, prototypes = np.load(folder / "embeddings.npy"), np.load(folder / "prototypes.npy")
    base = memory()
    p = np.empty((len(embeddings), len(prototypes)))
    for start in range(0, len(p), 10_000):
        logits = (embeddings[start : start + 10_000] @ prototypes.T).astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        np.exp(logits, out=logits)
        p[start : start + 10_000] = logits / logits.sum(1, keepdims=True)
    start_time = time.perf_counter()
    p **= STRENGTH
    p = p.T
    c = (1 / p.shape[1]) / p.sum(0)
    for _ in range(ITERATIONS):
        r = (1 / p.shape[0]) / (p @ c)
        c = (1 / p.shape[1]) / (r @ p)
    scaled = np.concatenate([(p[:, i : i + 10_000] * r[:, None]).argmax(0) for i in range(0, p.shape[1], 10_000)])
    seconds = time.perf_counter() - start_time
    np.save(folder / "published.npy", scaled)
    return {"seconds": seconds, "memory_mb": memory() - base}


def ours(folder: Path, keep: str) -> dict:
    import torch

    from smidgen.maths.transport import balanced_labels, log_softmax_of, scale_columns

    torch.set_num_threads(2)
    embeddings = torch.from_numpy(np.load(folder / "embeddings.npy", mmap_mode="c"))
    prototypes = torch.from_numpy(np.load(folder / "prototypes.npy"))
    blocks = log_softmax_of(embeddings, prototypes, strength=STRENGTH, rows=512)
    marginals = torch.full((CLUSTERS,), 1 / CLUSTERS)
    next(iter(blocks()))
    base, start = memory(), time.perf_counter()
    kind = {"float32": torch.float32, "float16": torch.float16, "nothing": None}[keep]
    found = scale_columns(blocks, marginals=marginals, tolerance=0, max_iterations=ITERATIONS, keep=kind)
    labels = balanced_labels(blocks, found.log_scale)
    seconds = time.perf_counter() - start
    np.save(folder / f"ours-{keep}.npy", labels.numpy())
    return {"seconds": seconds, "memory_mb": memory() - base, "peak_mb": memory(), "error": found.error}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out-of-core", action="store_true")
    parser.add_argument("--n", type=int)
    parser.add_argument("--side", nargs=2)
    args = parser.parse_args()
    if args.side:
        side, folder = args.side
        print(json.dumps(published(Path(folder)) if side == "published" else ours(Path(folder), side)))
        return
    n = args.n or (2_000_000 if args.out_of_core else 200_000)
    sides = ["nothing"] if args.out_of_core else ["published", "float32", "float16", "nothing"]
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), n)
        for side in sides:
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, name], check=True, capture_output=True, text=True
            )
            line = json.loads(done.stdout)
            if side != "published" and "published" in sides:
                same = np.load(Path(name) / f"ours-{side}.npy") == np.load(Path(name) / "published.npy")
                line["same_labels"] = float(same.mean())
            print(f"{side:10} {line}", flush=True)


if __name__ == "__main__":
    main()
