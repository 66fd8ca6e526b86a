"""Damage of every kind to a file's bytes and to what JSON holds, drawn by seed, and what loading makes of it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.checksums import sealed
from smidgen.config import Config
from smidgen.errors import SmidgenError
from smidgen.evidence.evidence import Evidence
from smidgen.fitting import fit
from smidgen.model import Model
from smidgen.model_file import read_model_file

MODELS: dict[str, dict[str, Any]] = {
    "kmeans": {"method": "kmeans", "options": {"n_init": 1}},
    "fusion": {"method": "fusion", "options": {"encoder": "conv", "steps": 2, "refine_steps": 1, "heads": 2}},
    "fusion on embeddings": {
        "method": "fusion",
        "encoder": "lite0@32",
        "options": {"steps": 2, "heads": 4, "kept": 2, "votes": 1, "refine_steps": 1},
    },
    "ucc": {"method": "ucc", "options": {"steps": 1, "bag_size": "2", "ucc": "1-2"}},
}
"""Name → what to fit on a few images, of every kind of model that is saved differently."""

HOSTILE = (
    *(None, True, False, 0, -1, 1.5, 2, 2**31, 10**30, 1e308, float("nan"), float("inf")),
    *("", "x", "conv", "../x", "scratch:resnet18", "\ud800", "é"),
    *([], {}, [0], [[]], {"x": 1}, [None] * 3, [1] * 10_000),
)
PIECES = (b"9" * 400, b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"\x00", b"NaN")


def fit_model(name: str) -> tuple[Model, np.ndarray]:
    """Return a model as of `MODELS`, and the images it was fitted to."""
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    config = Config("array", n_clusters=3, threads=1, **MODELS[name])
    return fit(config, data=images, evidence=Evidence.from_labels(np.arange(24) % 3)).model, images


# -------------------------------------------------------------------------------------------------------- mutations


def of_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with one thing changed: a bit, a byte, a piece left out, doubled, moved, cut off or put in."""
    start = draw.randrange(len(data))
    stop = min(len(data), start + draw.choice((1, 1, 2, 8, 40)))
    kind = draw.randrange(7)
    if kind == 0:
        return data[:start] + bytes([data[start] ^ 1 << draw.randrange(8)]) + data[start + 1 :]
    if kind == 1:
        return data[:start] + bytes([draw.choice(b'0123456789-+.eE"{}[],: \\x\x00\xff')]) + data[start + 1 :]
    if kind == 2:
        return data[:start] + data[stop:]
    if kind == 3:
        return data[:stop] + data[start:]
    if kind == 4:
        return data[:start]
    if kind == 5:
        return data[:start] + draw.choice(PIECES) + data[start:]
    other = draw.randrange(len(data))
    return data[:start] + data[other : other + stop - start] + data[stop:]


def of_json(value: Any, draw: random.Random) -> Any:
    """Return JSON values with one entry changed: another value or type, left out, renamed, doubled or put in."""
    value = copy.deepcopy(value)
    holder, key = draw.choice([*_places(value)])
    kind = draw.randrange(6)
    if kind <= 2:
        holder[key] = draw.choice(HOSTILE)
    elif kind == 3:
        del holder[key]
    elif kind == 4 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif isinstance(holder, dict):
        holder["more"] = draw.choice(HOSTILE)
    else:
        holder.insert(key, draw.choice((holder[key], *HOSTILE)))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in [*entries]:
        yield value, key
        if isinstance(entry, dict | list) and entry:
            yield from _places(entry)


def mutated(content: bytes, draw: random.Random, *, forged: bool = False) -> bytes:
    """Return a JSON file mutated by bytes or by content; forged: by content, under a checksum that fits again."""
    if not forged and draw.random() < 0.5:
        return of_bytes(content, draw)
    table = of_json(json.loads(content), draw)
    if forged and isinstance(table, dict):
        table = sealed(table)
    return json.dumps(table).encode()


# ---------------------------------------------------------------------------------------------------------- verdicts


def judge(folder: Path, images: np.ndarray, sound: np.ndarray, whole: Any) -> str:
    """Load the model in a folder and return "refused", "same", "another" (a valid one), or what escaped.

    sound: the assignments of `images` by the model that was saved. whole: what its `read_model_file` returned.
    """
    try:
        model = Model.load(folder)
        found = model.assign(images)
        described = read_model_file(folder)
        described.checksum, described.weights = whole.checksum, whole.weights
        same = described == whole and found.shape == sound.shape and bool(np.array_equal(found, sound))
        return "same" if same else "another"
    except SmidgenError as error:
        message = str(error)
        return "refused" if "\n" not in message and len(message) < 1000 else f"no sentence: {message[:200]}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
