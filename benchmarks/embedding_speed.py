"""Images per second of frozen embedding against a plain fp32 timm loop, in one run: a table, and JSON.

    .venv/bin/python benchmarks/embedding_speed.py --encoder lite2 --size 128 --threads 2 --out embedding_speed.json

Every contender gives the pooled head of the same uint8 images, resized beforehand. The contenders take turns, a few
seconds each, several rounds; the table shows the median round. On a busy machine read the second column: images per
second of processor time, of all threads together.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import smidgen.embedding.run as embedding
from smidgen.files import write_json
from smidgen.hardware import fast_dtype
from smidgen.nets.fast import FoldedConv, fold_batch_norm
from smidgen.nets.pretrained import pretrained_encoder
from smidgen.nets.timm_encoder import PretrainedEncoder

PLAIN = "plain: eager, fp32, batch 64"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="lite2")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--images", type=int, default=512, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("embedding_speed.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder = pretrained_encoder(options.encoder, size=options.size, layers=["head"]).eval()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.images, 3, options.size, options.size), dtype=np.uint8)
    results = measure(contenders(encoder), images, rounds=options.rounds)
    report(results, title=f"{options.encoder}, {options.size} px, {options.threads} threads, {processor()}")
    settings = {"encoder": options.encoder, "size": options.size, "threads": options.threads, "images": options.images}
    machine = {"processor": processor(), "torch": torch.__version__, "load_average": os.getloadavg()[0]}
    write_json(options.out, {**settings, **machine, "contenders": results})


def contenders(encoder: PretrainedEncoder) -> dict[str, Callable[[np.ndarray], object]]:
    """Return what is compared: each maps uint8 images to embeddings; every line adds one thing to the one above."""
    size = encoder.preprocess.size

    def folded(*, fused: bool) -> nn.Module:
        net = fold_batch_norm(encoder.trunk, example=torch.rand(2, 3, size, size))
        for module in net.modules():
            if isinstance(module, FoldedConv):
                module.fused = fused
        return net

    listed: dict[str, Callable[[np.ndarray], object]] = {
        PLAIN: loop(encoder.trunk, batch=64),
        "+ folded batch norm": loop(folded(fused=False), batch=64),
        "+ channels last, batch 16": loop(folded(fused=False), batch=16, layout=torch.channels_last),
        "+ fused kernels": loop(folded(fused=True), batch=16, layout=torch.channels_last),
    }
    if fast_dtype() == torch.bfloat16:
        half = folded(fused=True).bfloat16()
        listed["+ bfloat16"] = loop(half, batch=16, layout=torch.channels_last, dtype=torch.bfloat16)
    listed["embed_images: + one net per thread"] = lambda images: embedding.embed_images(images, encoder, cache=False)
    return listed


def loop(
    net: nn.Module,
    *,
    batch: int,
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.float32,
) -> Callable[[np.ndarray], object]:
    net = net.to(memory_format=layout)

    @torch.inference_mode()
    def run(images: np.ndarray) -> Tensor:
        results = []
        for start in range(0, len(images), batch):
            pixels = (torch.from_numpy(images[start : start + batch]).float() - 127.5) / 127.5
            results.append(net(pixels.to(dtype=dtype, memory_format=layout)))
        return torch.cat(results)

    return run


def measure(
    listed: dict[str, Callable[[np.ndarray], object]], images: np.ndarray, *, rounds: int
) -> dict[str, dict[str, float]]:
    walls: dict[str, list[float]] = {name: [] for name in listed}
    processors: dict[str, list[float]] = {name: [] for name in listed}
    for run in listed.values():  # warm: kernels are made on first use
        run(images[:64])
    for _ in range(rounds):
        for name, run in listed.items():
            wall, processor_time = time.perf_counter(), time.process_time()
            run(images)
            walls[name].append(time.perf_counter() - wall)
            processors[name].append(time.process_time() - processor_time)
    return {
        name: {
            "images_per_second": round(len(images) / statistics.median(walls[name]), 1),
            "images_per_processor_second": round(len(images) / statistics.median(processors[name]), 1),
            "slowest_round": round(len(images) / max(walls[name]), 1),
            "fastest_round": round(len(images) / min(walls[name]), 1),
        }
        for name in listed
    }


def report(results: dict[str, dict[str, float]], *, title: str) -> None:
    print(title)
    print(f"{'':36}{'images/s':>10}{'per cpu s':>11}{'speed-up':>10}")
    for name, result in results.items():
        wall, processor_time = result["images_per_second"], result["images_per_processor_second"]
        print(f"{name:36}{wall:10.0f}{processor_time:11.0f}{wall / results[PLAIN]['images_per_second']:9.2f}x")


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names) or os.cpu_count()} × {names[0] if names else 'processor'}"


if __name__ == "__main__":
    main()
