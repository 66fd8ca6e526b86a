"""A collection's embeddings by a frozen encoder: in threads, block by block, resumed after a kill, kept by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.checksums import read_array, write_array
from smidgen.data.collection import Item
from smidgen.data.decoding import Skipped, extents_of_items
from smidgen.data.images import BadImage, Resize, check_options, decode_image, quiet_pillow
from smidgen.data.sources import cache_folder
from smidgen.data.values import ValueRange, as_value_range
from smidgen.errors import Damaged, InputError, InputWarning
from smidgen.files import atomic_write
from smidgen.hardware import fast_dtype
from smidgen.nets.fast import FAST_BATCH
from smidgen.nets.timm_encoder import PretrainedEncoder

BLOCK = 256
"""Images per block: what a thread takes at a time, and what a kill can cost each of them."""

ACCELERATOR_BATCH = 256
"""Images at a time on anything but a CPU; halved until the memory suffices."""

CACHE_LIMIT = 10 * 2**30
"""Bytes that the default cache keeps: beyond them, what was not used for longest goes."""

FORMAT = 2  # raised when the same encoder and images give other embeddings than before, or files are written otherwise

_ENTRY = re.compile(r"[0-9a-f]{32}(\.npy)?")  # a file of embeddings, or a folder of the blocks made so far
_ABANDONED = 24 * 3600  # seconds without a new block after which nobody is waiting for the rest

Progress = Callable[[int, int], None]
Say = Callable[[str], object]


def warn(text: str) -> None:
    """Warn of something about the input that the user should know."""
    warnings.warn(InputWarning(text), stacklevel=2)


def embed_images(
    images: np.ndarray,
    encoder: PretrainedEncoder,
    *,
    cache: Path | str | bool = True,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    say: Say = warn,
) -> np.ndarray:
    """Return embeddings (n, features) float32 of images.

    images: (n, 1 or 3, height, width) uint8, in memory or mapped.
    cache: the folder that keeps embeddings, by the content of the images, the encoder's weights and its preprocessing;
        True is `embeddings` in `sources.cache_folder()`, which keeps what was used last, up to `CACHE_LIMIT` or the
        gigabytes in the variable SMIDGEN_CACHE_GB, and may be deleted at any time; a folder that is given keeps all;
        False keeps none. An interrupted call goes on from its last block; one with the same arguments returns at once.
    threads: None for torch's number. Each runs the net on images of its own, so the number changes no bit.
    device: where the net runs. dtype: None is bfloat16 where the device has it in hardware, otherwise float32.
    progress: called with (done, n). say: called with a sentence where the cache is damaged; that part is made anew.

    An image's embedding depends on no other image: all batches have one shape. Raises InputError for another shape or
    type of `images`.

    >>> from smidgen.nets.pretrained import pretrained_encoder
    >>> encoder = pretrained_encoder("lite0", size=32, flip=True)
    >>> embed_images(np.zeros((2, 1, 8, 8), dtype=np.uint8), encoder, cache=False).shape
    (2, 1904)
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != np.uint8:
        raise InputError(
            "Embedding wants uint8 images (n, 1 or 3, height, width), got"
            f" {images.dtype} {tuple(images.shape)}; `open_dataset` makes them."
        )
    return _embed(_Pixels(images), encoder, _Options(cache, threads, torch.device(device), dtype, progress, say))


def embed_files(
    items: Sequence[Item],
    encoder: PretrainedEncoder,
    *,
    resize: Resize = "crop",
    value_range: object = None,
    cache: Path | str | bool = True,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    say: Say = warn,
) -> tuple[np.ndarray, np.ndarray, tuple[Skipped, ...]]:
    """Return embeddings (n_good, features) of image files, the rows (n_good,) of `items` they show, and the others.

    Files are decoded at the encoder's own size while the net runs on others; the pixels are never held together. Every
    file is read three times, first for the range of values and for the cache's key (without a cache, twice).

    value_range: the values of black and white, see `open_dataset`; None decides them by those of all files, of which
        most are read to the end of the header for that. Other arguments are those of `embed_images`.
    """
    size = encoder.preprocess.size
    check_options(size=size, channels=3, resize=resize)
    with quiet_pillow():
        values = as_value_range(value_range)
        if values.integers is None or values.floats is None:
            values = values.decided(extents_of_items(items, n_threads=os.cpu_count() or 1).overall())
        source = _Files(items, size, resize, values)
        whole = _embed(source, encoder, _Options(cache, threads, torch.device(device), dtype, progress, say))
        bad = np.flatnonzero(np.isnan(whole[:, 0])) if len(whole) else np.empty(0, dtype=np.int64)
        skipped = tuple(Skipped(items[row].id, source.reason(row)) for row in bad.tolist())
    good = np.delete(np.arange(len(items)), bad)
    return (whole if not len(bad) else whole[good]), good, skipped


# --------------------------------------------------------------------------------------------------- where images are


class _Source(Protocol):
    """Images by rows; `read` leaves a row of the mask False where there is no image to be had."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str: ...

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class _Pixels:
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        hasher = hashlib.sha256(repr(tuple(map(int, self.images.shape))).encode())
        for start in range(0, len(self), 4096):  # in pieces: the images may be a mapped file
            hasher.update(np.ascontiguousarray(self.images[start : start + 4096]).data)
        return hasher.hexdigest()

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.array(self.images[start:stop])  # a copy: torch wants memory that can be written
        return pixels, np.ones(len(pixels), dtype=bool)


@dataclass(frozen=True)
class _Files:
    items: Sequence[Item]
    size: int
    resize: Resize
    values: ValueRange

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        hasher = hashlib.sha256(f"files {len(self)} {self.resize} {self.values.as_table()}".encode())
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for digests in pool.map(self._digests, range(0, len(self), BLOCK)):
                hasher.update(digests)
        return hasher.hexdigest()

    def _digests(self, start: int) -> bytes:
        digests = []
        for item in self.items[start : start + BLOCK]:
            try:
                digests.append(hashlib.sha256(item.read()).digest())
            except BadImage as error:
                digests.append(error.reason.encode())
        return b"".join(digests)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.zeros((stop - start, 3, self.size, self.size), dtype=np.uint8)
        good = np.ones(stop - start, dtype=bool)
        for row, item in enumerate(self.items[start:stop]):
            try:
                pixels[row] = self._decode(item)
            except BadImage:
                good[row] = False
        return pixels, good

    def _decode(self, item: Item) -> np.ndarray:
        return decode_image(item.read(), size=self.size, channels=3, resize=self.resize, values=self.values).pixels

    def reason(self, row: int) -> str:
        """Return why an image could not be read: asked again, because the cache holds embeddings only."""
        try:
            self._decode(self.items[row])
        except BadImage as error:
            return error.reason
        return "it could not be read when its embedding was made"


# ----------------------------------------------------------------------------------------------------------- the work


@dataclass(frozen=True)
class _Options:
    cache: Path | str | bool
    threads: int | None
    device: torch.device
    dtype: torch.dtype | None
    progress: Progress | None
    say: Say


def _embed(source: _Source, encoder: PretrainedEncoder, options: _Options) -> np.ndarray:
    dtype = fast_dtype(options.device) if options.dtype is None else options.dtype
    store = _open_store(source, encoder, dtype=dtype, options=options)
    kept = store.whole(len(source), encoder.features)
    if kept is None:
        kept = np.empty((len(source), encoder.features), dtype=np.float32)
        run = _Runner(encoder.frozen(device=options.device, dtype=dtype), source, store, kept, options.device)
        _report(run.blocks(options.threads or torch.get_num_threads()), len(source), options.progress)
        store.finish(kept)
    elif options.progress is not None:
        options.progress(len(source), len(source))
    return kept


def _report(blocks: Generator[int, None, None], total: int, progress: Progress | None) -> None:
    done = 0
    with contextlib.closing(blocks):
        for n in blocks:
            done += n
            if progress is not None:
                progress(done, total)


class _Runner:
    """The threads that fill the rows of an array, block by block."""

    def __init__(
        self, net: PretrainedEncoder, source: _Source, store: _Store, rows: np.ndarray, device: torch.device
    ) -> None:
        self.net, self.source, self.store, self.rows, self.device = net, source, store, rows, device
        self.batch = FAST_BATCH if device.type == "cpu" else ACCELERATOR_BATCH
        self.stopped = threading.Event()
        # On a CPU every thread runs the net, each on one core, which beats one net on all cores; an accelerator has
        # one queue, and the threads only keep it fed.
        self.turn: contextlib.AbstractContextManager[object] = (
            contextlib.nullcontext() if device.type == "cpu" else threading.Lock()
        )

    def blocks(self, n_threads: int) -> Generator[int, None, None]:
        """Yield how many images each block held, as blocks are done; closing it stops the threads within a batch."""
        starts = range(0, len(self.source), BLOCK)
        before, n_threads = torch.get_num_threads(), max(1, min(n_threads, len(starts)))
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                futures: list[Future[int]] = [pool.submit(self._block, start) for start in starts]
                for future in as_completed(futures):
                    yield future.result()
            finally:
                self.stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                torch.set_num_threads(before)

    def _block(self, start: int) -> int:
        stop = min(start + BLOCK, len(self.source))
        rows = self.store.block(start, stop - start, self.rows.shape[1])
        if rows is None:
            pixels, good = self.source.read(start, stop)
            rows = self._run(pixels)
            rows[~good] = np.nan
            self.store.keep(start, rows)
        self.rows[start:stop] = rows
        return stop - start

    @torch.inference_mode()
    def _run(self, pixels: np.ndarray) -> np.ndarray:
        results: list[Tensor] = []
        done = 0
        while done < len(pixels) and not self.stopped.is_set():
            size = self.batch
            images = torch.from_numpy(pixels[done : done + size])
            n = len(images)
            try:
                with self.turn:
                    padded = F.pad(images, (0, 0) * 3 + (0, size - n)).to(self.device)
                    results.append(self.net(padded)[:n].float().cpu())
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self.batch = size // 2
                continue
            done += n
        if self.stopped.is_set():
            raise _Stopped
        return torch.cat(results).numpy()


class _Stopped(Exception):
    """A thread gave up its block because the call is over; nobody waits for its result."""


# ---------------------------------------------------------------------------------------------------------- the cache


@dataclass(frozen=True)
class _Store:
    """Where embeddings with one key are kept: finished as `<key>.npy`, until then as blocks in a folder `<key>`.

    A folder that cannot be written costs the next call time, not this one its result.
    """

    say: Say
    folder: Path | None = None
    key: str = ""
    limit: int | None = None
    lost: threading.Event = field(default_factory=threading.Event)

    def whole(self, n: int, features: int) -> np.ndarray | None:
        if self.folder is None:
            return None
        rows = self._read(self.folder / f"{self.key}.npy", (n, features))
        if rows is not None:
            with contextlib.suppress(OSError):
                os.utime(self.folder / f"{self.key}.npy")  # used now: others go before it
        return rows

    def block(self, start: int, n: int, features: int) -> np.ndarray | None:
        return None if self.folder is None else self._read(self._blocks / f"{start:09d}.npy", (n, features))

    def keep(self, start: int, rows: np.ndarray) -> None:
        self._write(f"{self.key}/{start:09d}.npy", rows)

    def finish(self, rows: np.ndarray) -> None:
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
        self.say(f"The embeddings kept in {str(path)!r} are damaged ({reason}): they are made anew.")
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


def _open_store(source: _Source, encoder: PretrainedEncoder, *, dtype: torch.dtype, options: _Options) -> _Store:
    cache = options.cache
    if cache is False:
        return _Store(options.say)
    folder = cache_folder() / "embeddings" if cache is True else Path(cache)
    limit = _cache_limit() if cache is True else None
    content = [FORMAT, encoder.fingerprint(), str(dtype), source.fingerprint()]
    return _Store(options.say, folder, hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32], limit)


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
