"""Embeds a collection with a frozen encoder: multi-threaded, in blocks, resumable, cached by content."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.collection import Item
from smidgen.data.decoding import Skipped, extents_of_items
from smidgen.data.images import Resize, check_options, quiet_pillow
from smidgen.data.values import as_value_range
from smidgen.embedding.cache import Log, Store, open_store
from smidgen.embedding.sources import BLOCK, Files, Pixels, Source
from smidgen.errors import InputError, InputWarning
from smidgen.hardware import fast_dtype
from smidgen.nets.fast import FAST_BATCH
from smidgen.nets.timm_encoder import PretrainedEncoder

ACCELERATOR_BATCH = 256
"""Images at a time on anything but a CPU; halved until the memory suffices."""

Progress = Callable[[int, int], None]


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
    log: Log = warn,
) -> np.ndarray:
    """Return embeddings (n, features) float32 of images.

    images: (n, 1 or 3, height, width) uint8, in memory or mapped.
    cache: the folder that keeps embeddings, by the content of the images, the encoder's weights and its preprocessing;
        True is `embeddings` in `sources.cache_folder()`, which keeps what was used last, up to `CACHE_LIMIT` or the
        gigabytes in the variable SMIDGEN_CACHE_GB, and may be deleted at any time; a folder that is given keeps all;
        False keeps none. An interrupted call goes on from its last block; one with the same arguments returns at once.
    threads: None for torch's number. Each runs the net on images of its own, so the number changes no bit.
    device: where the net runs. dtype: None is bfloat16 where the device has it in hardware, otherwise float32.
    progress: called with (done, n). log: called with a sentence where the cache is damaged; that part is made anew.

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
    return _embed(Pixels(images), encoder, _Options(cache, threads, torch.device(device), dtype, progress, log))


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
    log: Log = warn,
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
        source = Files(items, size, resize, values)
        whole = _embed(source, encoder, _Options(cache, threads, torch.device(device), dtype, progress, log))
        bad = np.flatnonzero(np.isnan(whole[:, 0])) if len(whole) else np.empty(0, dtype=np.int64)
        skipped = tuple(Skipped(items[row].id, source.reason(row)) for row in bad.tolist())
    good = np.delete(np.arange(len(items)), bad)
    return (whole if not len(bad) else whole[good]), good, skipped


@dataclass(frozen=True)
class _Options:
    cache: Path | str | bool
    threads: int | None
    device: torch.device
    dtype: torch.dtype | None
    progress: Progress | None
    log: Log


def _embed(source: Source, encoder: PretrainedEncoder, options: _Options) -> np.ndarray:
    dtype = fast_dtype(options.device) if options.dtype is None else options.dtype
    store = open_store(source, encoder, dtype=dtype, cache=options.cache, log=options.log)
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
        self, net: PretrainedEncoder, source: Source, store: Store, rows: np.ndarray, device: torch.device
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
