"""Folders as people have them: 2,000 photographs of 3,000 × 2,000 pixels, and 100,000 small files; tables, and JSON.

    .venv/bin/python benchmarks/big_folders.py --out big_folders.json

Makes both folders in a temporary place (3 GB; `--keep FOLDER` leaves them there for the next time), then measures each
in processes of their own: seconds to list it, seconds to open it as arrays, images per second, the process's largest
memory; and on one thread, for some of the images, where the time goes. The photographs are a few made ones, smooth
noise at all scales with shapes and grain, and every file has bytes of its own. All files have been written a moment
ago, so they come from the system's memory and not from the disk. A folder that `--keep` kept is read once beforehand.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageFilter

from smidgen.data import images as decoding
from smidgen.data.datasets import list_images, open_dataset
from smidgen.data.folders import collect_folder
from smidgen.files import write_json

DISTINCT = {"large": 6, "small": 500}
SIZES = {"large": (64, 160), "small": (32, 64, 160)}
SAMPLE = {"large": 100, "small": 5000}
STEPS = ("read", "header", "decode", "resize", "other", "hash")
MEANING = {
    "read": "the file's bytes",
    "header": "which format, how many pixels, EXIF",
    "decode": "pixels, at 1/2, 1/4 or 1/8 of their number where that is enough",
    "resize": "to one size, antialiased",
    "other": "to a uint8 array",
    "hash": "sha256 of the bytes, for `smidgen check` and the cache of embeddings",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=int, default=2000, help="photographs")
    parser.add_argument("--small", type=int, default=100_000, help="small files")
    parser.add_argument("--only", choices=("large", "small"), help="one of the two folders")
    parser.add_argument("--keep", type=Path, help="make the folders here, or use those that are here")
    parser.add_argument("--out", type=Path, default=Path("big_folders.json"))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child[0]](*options.child[1:])))
        return
    wanted = {"large": options.large, "small": options.small}
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind in (options.only,) if options.only else ("large", "small"):
            folder = (options.keep or Path(temporary)) / f"{kind}-{wanted[kind]}"
            began = time.perf_counter()
            if not folder.exists():
                child("make", kind, folder, wanted[kind])  # not here: a child's peak memory begins with its parent's
            for path in folder.rglob("*.[jJ]*"):
                path.read_bytes()
            print(f"{kind}: made and read in {time.perf_counter() - began:.0f} s", file=sys.stderr)
            results[kind] = measure(kind, folder)
            report(kind, results[kind])
    machine = {"cores": os.cpu_count(), "load_average": os.getloadavg()[0], "pillow": Image.__version__}
    write_json(options.out, {**machine, **results})


# ---------------------------------------------------------------------------------------------------- making the files


def make(kind: str, to: str, many: str) -> dict[str, float]:
    """Write n JPEGs, in nested folders: a few distinct pictures, each file with a comment of its own."""
    folder, n, rng = Path(to), int(many), np.random.default_rng(0)
    pictures = [jpeg(photograph(rng) if kind == "large" else thumbnail(rng)) for _ in range(DISTINCT[kind])]
    per_folder, name = (100, "IMG_{:05d}.JPG") if kind == "large" else (250, "{}.jpg")
    unfinished = folder.with_suffix(".making")
    for number in range(n):
        inner = unfinished / f"{number // per_folder // 20:02d}" / f"batch {number // per_folder % 20}"
        if number % per_folder == 0:
            inner.mkdir(parents=True, exist_ok=True)
        (inner / name.format(number)).write_bytes(commented(pictures[number % len(pictures)], number))
    unfinished.rename(folder)
    return {"images": n}


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def commented(data: bytes, number: int) -> bytes:
    """Return a JPEG with a comment behind its first marker: other bytes, the same picture."""
    words = f"file {number}".encode()
    return data[:2] + b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words + data[2:]


def photograph(rng: np.random.Generator, width: int = 3000, height: int = 2000) -> Image.Image:
    """Return smooth noise at scales of 3 to 800 pixels, twenty ellipses, and a camera's grain."""
    scene = np.full((height, width, 3), 110, dtype=np.float32)
    for step in (800, 200, 50, 12, 3):
        coarse = rng.normal(0, 5 + 12 * (step > 20), (height // step + 2, width // step + 2, 3))
        layers = [Image.fromarray(coarse[..., c].astype(np.float32)) for c in range(3)]
        scene += np.stack([np.asarray(x.resize((width, height), Image.Resampling.BICUBIC)) for x in layers], axis=2)
    down, across = np.ogrid[:height, :width]
    for _ in range(20):
        x, y, a, b = rng.uniform(0, width), rng.uniform(0, height), *rng.uniform(40, 500, 2)
        scene[((across - x) / a) ** 2 + ((down - y) / b) ** 2 < 1] += rng.normal(0, 40, 3)
    scene += rng.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))


def thumbnail(rng: np.random.Generator) -> Image.Image:
    noise = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    return noise.filter(ImageFilter.GaussianBlur(1.5)).crop((8, 8, 40, 40))


# -------------------------------------------------------------------------------------------- what a child process does


def scan(folder: str) -> dict[str, float]:
    began = time.perf_counter()
    items = list_images(folder)
    assert items is not None
    return {"seconds": time.perf_counter() - began, "images": len(items), "peak_memory_mb": peak_memory_mb()}


def open_all(folder: str, size: str) -> dict[str, float]:
    calls = 0

    def progress(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1

    began, processor = time.perf_counter(), time.process_time()
    dataset = open_dataset(folder, size=int(size), progress=progress)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    return {
        "seconds": seconds,
        "images_per_second": len(dataset) / seconds,
        "processor_seconds": processor,
        "array_mb": dataset.images.nbytes / 1e6,
        "peak_memory_mb": peak_memory_mb(),
        "progress_calls": calls,
    }


def where_time_goes(folder: str, size: str, n: str) -> dict[str, float]:
    """Return milliseconds per image of each step, on one thread, for n images spread over the folder."""
    items = collect_folder(Path(folder)).items
    chosen = [items[row] for row in np.linspace(0, len(items) - 1, min(int(n), len(items))).astype(int)]
    spent = dict.fromkeys(("read", "open", "decode", "resize", "whole", "hash"), 0.0)

    def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[step] += time.perf_counter() - began

        return run

    ImageFile.ImageFile.load = timed("decode", ImageFile.ImageFile.load)  # type: ignore[method-assign]
    Image.open = timed("open", Image.open)
    decoding.resized = timed("resize", decoding.resized)
    read = timed("read", lambda item: item.read())
    whole, hashed = timed("whole", decoding.decode_image), timed("hash", lambda data: hashlib.sha256(data).digest())
    with decoding.quiet_pillow():
        for item in chosen:
            data = read(item)
            whole(data, size=int(size), channels=3, resize="crop")
            hashed(data)
    spent["header"] = spent.pop("open")
    spent["other"] = spent.pop("whole") - spent["header"] - spent["decode"] - spent["resize"]
    return {step: 1000 * spent[step] / len(chosen) for step in STEPS}


def plain(folder: str, size: str, n: str) -> dict[str, float]:
    """Return images per second of a plain loop: Pillow's whole picture, converted, then made small."""
    items = collect_folder(Path(folder)).items
    chosen = [items[row] for row in np.linspace(0, len(items) - 1, min(int(n), len(items))).astype(int)]
    began = time.perf_counter()
    for item in chosen:
        with Image.open(io.BytesIO(item.read())) as image:
            np.asarray(image.convert("RGB").resize((int(size), int(size)), Image.Resampling.BILINEAR))
    return {"images_per_second": len(chosen) / (time.perf_counter() - began)}


CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "make": make,
    "scan": scan,
    "open": open_all,
    "where": where_time_goes,
    "plain": plain,
}


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


# ------------------------------------------------------------------------------------------------ measuring and telling


def child(*words: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *map(str, words)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(kind: str, folder: Path) -> dict[str, Any]:
    some = SAMPLE[kind]
    return {
        "bytes": sum(path.stat().st_size for path in folder.rglob("*.[jJ]*")),
        "scan": child("scan", folder),
        "open": {size: child("open", folder, size) for size in SIZES[kind]},
        "milliseconds": {size: child("where", folder, size, some) for size in SIZES[kind]},
        "plain_images_per_second": {
            size: child("plain", folder, size, some // 4)["images_per_second"] for size in SIZES[kind]
        },
    }


def report(kind: str, result: dict[str, Any]) -> None:
    n, seconds = result["scan"]["images"], result["scan"]["seconds"]
    print(
        f"\n{kind}: {n:,} files, {result['bytes'] / 1e9:.2f} GB; listed in {seconds:.2f} s "
        f"({n / seconds:,.0f} per second, peak memory {result['scan']['peak_memory_mb']:.0f} MB)"
    )
    print(f"{'opened at':>12}{'seconds':>10}{'images/s':>11}{'plain loop':>12}{'array':>10}{'peak memory':>13}")
    for size, opened in result["open"].items():
        print(
            f"{size:>9} px{opened['seconds']:10.1f}{opened['images_per_second']:11,.0f}"
            f"{result['plain_images_per_second'][size]:12,.0f}{opened['array_mb']:7,.0f} MB"
            f"{opened['peak_memory_mb']:10,.0f} MB"
        )
    print(f"{'milliseconds an image, one thread':<34}" + "".join(f"{size:>6} px" for size in result["milliseconds"]))
    for step in STEPS:
        spent = [times[step] for times in result["milliseconds"].values()]
        print(f"  {step:<32}" + "".join(f"{x:9.3f}" for x in spent) + f"   {MEANING[step]}")


if __name__ == "__main__":
    main()
