"""Export to Parquet: one table that FiftyOne, Spotlight and Embedding Atlas read, with embeddings and a 2-D map."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from smidgen import __version__
from smidgen.data.collection import path_from_id
from smidgen.data.datasets import find_data, list_images
from smidgen.errors import InputError, RunError
from smidgen.exports.csv_file import chosen
from smidgen.files import atomic_write, read_array
from smidgen.listener import Listener
from smidgen.reports.map import map_points
from smidgen.run_folder import RunFolder

MOST_TSNE = 2000
"""Images up to which the map is drawn by t-SNE unless another layout is asked for; they take five seconds."""

_FLOATS = 2**24  # of embeddings in memory at once: 64 MB


def export_parquet(
    run: RunFolder,
    out: Path,
    *,
    split: str = "all",
    data: str | None = None,
    layout: str = "auto",
    listener: Listener | None = None,
) -> str:
    """Write the table of a split, and return how many rows it has and how its map was drawn, in words.

    data: where the images are now, None for where they were. layout: "tsne", "umap", "pca" or "auto".

    Columns: image (the image id), path (the original file, absolute; null if it is no file of its own, is gone, or has
    a name that is not UTF-8, which Parquet cannot hold), split, cluster, confidence, class where known, embedding
    (list<float32>), x and y. Texts stand as they are: nothing in Parquet runs formulas.

    The map shows all rows at once, never a sample with the others put in: up to 2,000 rows t-SNE, beyond that UMAP if
    it is installed, and otherwise the first two principal components, which are honest about distances but let
    clusters overlap. The file's metadata name the layout.
    """
    listener = listener or Listener()
    table, rows = chosen(run, split)
    embeddings = _embeddings(run, rows)
    layout = _layout(layout, n=len(rows))
    listener.progress("map", 0, 1)
    places = map_points(np.asarray(embeddings[rows]), layout=layout)
    listener.progress("map", 1, 1)
    paths = _paths(run, table, data=data)
    about = {"layout": layout, "run": run.path.resolve().name, "smidgen": __version__}
    _write(out, table, paths, embeddings, rows, places, about)
    n_files = sum(path is not None for path in paths)
    return f"{len(rows):,} rows, {n_files:,} with their file, map by {layout}"


def _embeddings(run: RunFolder, rows: list[int]) -> np.ndarray:
    path = run.path / "embeddings.npy"
    embeddings = read_array(path)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or len(embeddings) <= max(rows):
        raise RunError(f"{str(path)!r} has shape {embeddings.shape}, which does not fit assignments.csv.")
    return embeddings


def _layout(wanted: str, *, n: int) -> str:
    if wanted != "auto":
        return wanted
    if n <= MOST_TSNE:
        return "tsne"
    return "umap" if importlib.util.find_spec("umap") else "pca"


def _paths(run: RunFolder, table: dict[str, list[str]], *, data: str | None) -> list[str | None]:
    """Return the absolute path of each image's file, None where there is none that can be named."""
    main, test = data or run.place_of("data") or "", run.place_of("test")
    folders: dict[str, dict[str, Path]] = {}
    for split in set(table["split"]):
        folders[split] = _files(test if split == "test" and test is not None else main)
    return [_as_utf8(folders[split].get(image)) for split, image in zip(table["split"], table["image"], strict=True)]


def _files(source: str) -> dict[str, Path]:
    """Return the files of a folder or manifest by image id; nothing for archives, arrays, and what is not there."""
    try:
        items = list_images(source)
    except InputError:
        return {}
    if items is None or (given := find_data(source)).suffix.lower() in (".zip", ".tar"):
        return {}
    root = given if given.is_dir() else given.parent
    files = {item.id: (root / path_from_id(item.id)).absolute() for item in items}
    return {image: path for image, path in files.items() if path.is_file()}


def _as_utf8(path: Path | None) -> str | None:
    try:
        return None if path is None else str(path).encode().decode()
    except UnicodeEncodeError:
        return None


def _write(
    out: Path,
    table: dict[str, list[str]],
    paths: list[str | None],
    embeddings: np.ndarray,
    rows: list[int],
    places: np.ndarray,
    about: dict[str, str],
) -> None:
    text, real = pyarrow.string(), pyarrow.float32()
    columns = {"image": text, "path": text, "split": text, "cluster": text, "confidence": real}
    columns |= {"class": text} if "class" in table else {}
    columns |= {"embedding": pyarrow.list_(real), "x": real, "y": real}
    schema = pyarrow.schema(list(columns.items()), metadata={"smidgen": json.dumps(about)})
    texts = {name: [_repaired(cell) for cell in table[name]] for name in columns if name in table}
    confidence, length = [float(cell or "nan") for cell in table["confidence"]], embeddings.shape[1]
    step = max(1, _FLOATS // max(length, 1))
    with atomic_write(out) as file, parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            own = np.ascontiguousarray(embeddings[rows[block]], dtype=np.float32)
            offsets = np.arange(len(own) + 1, dtype=np.int32) * length
            values = {name: cells[block] for name, cells in texts.items() if columns[name] == text}
            values["path"] = paths[block]  # type: ignore[assignment]
            values["class"] = [cell or None for cell in values.get("class", [])]  # type: ignore[misc]
            arrays = {name: pyarrow.array(cells, text) for name, cells in values.items() if name in columns}
            arrays["confidence"] = pyarrow.array(np.array(confidence[block], dtype=np.float32), real)
            arrays["embedding"] = pyarrow.ListArray.from_arrays(offsets, own.ravel())
            arrays |= {"x": pyarrow.array(places[block, 0], real), "y": pyarrow.array(places[block, 1], real)}
            writer.write_table(pyarrow.table([arrays[name] for name in columns], schema=schema))


def _repaired(cell: str) -> str:
    """Return a text as UTF-8 can hold it; image ids can be held as they are, see `collection.id_from_path`."""
    return cell.encode(errors="surrogateescape").decode(errors="backslashreplace")
