"""A run folder made by hand in the settled format: digits, k-means clusters, two stages of metrics."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from smidgen.csv_tables import write_csv
from smidgen.files import write_json, write_toml


@dataclass
class Fake:
    """What a fake run says of its images; any part may be changed before it is written."""

    images: list[str]
    splits: list[str]
    clusters: list[str]
    confidence: list[Any]
    classes: list[str] | None
    embeddings: np.ndarray | None
    pixels: np.ndarray


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def digits_run(n: int = 300) -> Fake:
    digits = load_digits()
    x, y = digits.data[:n], digits.target[:n]
    embeddings = PCA(min(16, n), random_state=0).fit_transform(x).astype(np.float32) if n > 1 else x.astype(np.float32)
    kmeans = KMeans(min(10, n), n_init=3, random_state=0).fit(embeddings)
    distance = kmeans.transform(embeddings) ** 2
    soft = np.exp(-(distance - distance.min(1, keepdims=True)) / 150)
    return Fake(
        images=[f"train/{i:05d}" if i < 0.7 * n else f"test/{i:05d}" for i in range(n)],
        splits=["train" if i < 0.7 * n else "test" for i in range(n)],
        clusters=[str(c) for c in kmeans.labels_],
        confidence=(1 / soft.sum(1)).round(5).tolist(),
        classes=[str(c) for c in y],
        embeddings=embeddings,
        pixels=(digits.images[:n] * 255 / 16).astype(np.uint8),
    )


def write_run(
    folder: Path, fake: Fake, *, metrics: dict[str, Any] | None = None, thumbnails: dict[int, bytes] | None = None
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Sequence[Any]] = {
        "image": fake.images, "split": fake.splits, "cluster": fake.clusters, "confidence": fake.confidence,
    }  # fmt: skip
    write_csv(folder / "assignments.csv", columns | ({"class": fake.classes} if fake.classes else {}))
    write_toml(folder / "config.toml", {"method": {"name": "fusion", "learning_rate": 0.003}, "seed": 3})
    if fake.embeddings is not None:
        np.save(folder / "embeddings.npy", fake.embeddings)
    if metrics is not None:
        write_json(folder / "metrics.json", metrics)
    if thumbnails:
        write_thumbnails(folder, thumbnails)
    return folder


def write_thumbnails(folder: Path, thumbnails: dict[int, bytes]) -> None:
    table = pa.table({"row": pa.array(list(thumbnails), pa.int64()), "bytes": list(thumbnails.values())})
    pq.write_table(table, folder / "thumbnails.parquet")


METRICS = {
    "n_images": 300, "n_clusters": 10, "seconds": 83.25, "peak_memory_mb": 1234.0,
    "test_accuracy": 0.8123, "test_accuracy_low": 0.7801, "test_accuracy_high": 0.8402,
    "test_nmi": 0.7654, "test_ami": 0.7601, "test_ari": 0.6987, "train_accuracy": 0.8311, "train_nmi": 0.7712,
    "alarms": ["Cluster 4 holds above half of the images: lower the learning rate."],
}  # fmt: skip


def write_story(folder: Path) -> None:
    """Write what training leaves behind: manifest, metrics over two stages with an alarm, a table, skipped images."""
    write_json(folder / "manifest.json", {
        "smidgen": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "git": "abc1234", "seed": 3, "threads": 2,
        "device": "cpu", "method": "fusion-images", "method_choice": {"asked": "fusion", "why": "they are grey"},
        "encoder": "small-cnn", "evidence": {}, "trained_on": "train",
        "data": {"name": "digits", "train_images": 210, "test_images": 90, "shape": [1, 8, 8], "fingerprint": "f00"},
        "command": "smidgen fit digits --out runs/digits --seed 3", "started": "2026-11-22 01:00:00",
        "finished": "2026-11-22 01:01:23",
    })  # fmt: skip
    rng, lines = np.random.default_rng(0), []
    for step in range(0, 400, 2):
        value = 2.3 * np.exp(-step / 150) + 0.2 + 0.05 * rng.normal()
        lines.append({"stage": "warm-up", "step": step, "seconds": step / 9, "learning_rate": 0.003, "total": value})
    for step in range(0, 900, 2):
        value = 1.1 * np.exp(-step / 300) + 0.3 + 0.08 * rng.normal()
        line = {"stage": "heads", "step": step, "seconds": 50 + step / 9, "total": value, "consistency": value / 2,
                "learning_rate": 0.003 * (1 - step / 900)}  # fmt: skip
        if step % 150 == 0:
            line |= {"test_nmi": 0.75 - 0.4 * np.exp(-step / 200), "train_nmi": 0.78 - 0.4 * np.exp(-step / 200)}
        if step in (150, 300):
            line["alarms"] = [METRICS["alarms"][0], *(["Withdrawn later."] if step == 150 else [])]
        lines.append(line)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "tables").mkdir(exist_ok=True)
    write_csv(folder / "tables" / "bags.csv", {"bag": [f"bag {i}" for i in range(80)], "ucc": list(range(80))})
    write_csv(folder / "bad_images.csv", {"image": ["broken.png"], "reason": ["truncated file"]})
