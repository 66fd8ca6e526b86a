"""The cache of embeddings: blocks of an embedding in progress, and whole collections keyed by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from smidgen.checksums import read_array, write_array
from smidgen.data.sources import cache_folder
from smidgen.embedding.sources import Source
from smidgen.errors import Damaged, InputError
from smidgen.files import atomic_write
from smidgen.nets.timm_encoder import PretrainedEncoder

CACHE_LIMIT = 10 * 2**30
"""Bytes that the default cache keeps: beyond them, what was not used for longest goes."""

FORMAT = 2  # raised when the same encoder and images give other embeddings than before, or files are written otherwise

_ENTRY = re.compile(r"[0-9a-f]{32}(\.npy)?")  # a file of embeddings, or a folder of the blocks made so far
_ABANDONED = 24 * 3600  # seconds without a new block after which nobody is waiting for the rest

Log = Callable[[str], object]


@dataclass(frozen=True)
class Store:
    """Where embeddings with one key are kept: finished as `<key>.npy`, until then as blocks in a folder `<key>`.

    A folder that cannot be written costs the next call time, not this one its result.
    """

    log: Log
    folder: Path | None = None
    key: str = ""
    limit: int | None = None
    lost: threading.Event = field(default_factory=threading.Event)

    def whole(self, n: int, features: int) -> np.ndarray | None:
        """Return the finished embeddings (n, features), None where there are none."""
        if self.folder is None:
            return None
        rows = self._read(self.folder / f"{self.key}.npy", (n, features))
        if rows is not None:
            with contextlib.suppress(OSError):
                os.utime(self.folder / f"{self.key}.npy")  # used now: others go before it
        return rows

    def block(self, start: int, n: int, features: int) -> np.ndarray | None:
        """Return the block (n, features) that begins at a row, None where it was not made yet."""
        return None if self.folder is None else self._read(self._blocks / f"{start:09d}.npy", (n, features))

    def keep(self, start: int, rows: np.ndarray) -> None:
        """Keep the block that begins at a row."""
        self._write(f"{self.key}/{start:09d}.npy", rows)

    def finish(self, rows: np.ndarray) -> None:
        """Keep the finished embeddings in place of their blocks."""
        self._write(f"{self.key}/whole.npy", rows)  # among the blocks first: what a kill leaves goes with them
        if self.folder is not None and not self.lost.is_set():
            with contextlib.suppress(OSError):
                (self._blocks / "whole.npy").replace(self.folder / f"{self.key}.npy")
            shutil.rmtree(self._blocks, ignore_errors=True)
            if self.limit is not None:
                _tidy(self.folder, limit=self.limit, kept=self.folder / f"{self.key}.npy")

    @property
    def _blocks(self) -> Path:
        assert self.folder is not None
        return self.folder / self.key

    def _read(self, path: Path, shape: tuple[int, int]) -> np.ndarray | None:
        """Return the rows in a file, None if it is missing or damaged, which is said: then they are made anew."""
        try:
            rows = read_array(path)
            if rows.shape == shape and rows.dtype == np.float32:
                return np.array(rows)  # not mapped: another process may tidy the cache
            reason = f"it holds {rows.dtype} {rows.shape} instead of float32 {shape}"
        except OSError:
            return None
        except Damaged as error:
            reason = str(error)
        self.log(f"The embeddings kept in {str(path)!r} are damaged ({reason}): they are made anew.")
        return None

    def _write(self, name: str, rows: np.ndarray) -> None:
        if self.folder is None or self.lost.is_set():
            return
        try:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / name) as file:
                write_array(file, rows)
        except OSError:
            self.lost.set()


def open_store(
    source: Source, encoder: PretrainedEncoder, *, dtype: torch.dtype, cache: Path | str | bool, log: Log
) -> Store:
    """Return where the embeddings of these images are kept; cache, log: see `run.embed_images`."""
    if cache is False:
        return Store(log)
    folder = cache_folder() / "embeddings" if cache is True else Path(cache)
    limit = _cache_limit() if cache is True else None
    content = [FORMAT, encoder.fingerprint(), str(dtype), source.fingerprint()]
    return Store(log, folder, hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32], limit)


def _cache_limit() -> int:
    given = os.environ.get("SMIDGEN_CACHE_GB")
    try:
        limit = CACHE_LIMIT if not given else int(float(given) * 2**30)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise InputError(f"The variable SMIDGEN_CACHE_GB must be a number of gigabytes, got {given!r}.")
    return limit


def _tidy(folder: Path, *, limit: int, kept: Path) -> None:
    """Remove what was not used for longest until the folder's embeddings take no more than `limit` bytes.

    `kept` stays however large it is, and so does what another call may be working on; other files are none of ours.
    """
    with contextlib.suppress(OSError):  # another process may be tidying too
        ours = [path for path in folder.iterdir() if _ENTRY.fullmatch(path.name) and path != kept]
        total = kept.stat().st_size
        for path in sorted(ours, key=lambda path: path.stat().st_mtime, reverse=True):
            total += sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else (path,)))
            if total > limit and path.is_dir() and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path, ignore_errors=True)
            elif total > limit and path.is_file():
                path.unlink(missing_ok=True)
