"""Export to folders: one per cluster, with copies of (or links to) the original images."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from smidgen.csv_tables import write_csv
from smidgen.data.collection import path_from_id
from smidgen.data.datasets import find_data, list_images, open_dataset
from smidgen.data.values import ValueRange
from smidgen.errors import InputError
from smidgen.exports.csv_file import chosen_rows
from smidgen.file_names import Names
from smidgen.files import appearing_folder, naming
from smidgen.listener import Listener
from smidgen.run_folder import RunFolder

Key = tuple[str, str]  # (split, image id)


@dataclass(frozen=True)
class Original:
    """The image behind an id: what to call it, and what puts it under a path."""

    name: str
    put: Callable[[Path], None]


def export_folders(
    run: RunFolder,
    out: Path,
    *,
    split: str = "all",
    data: str | None = None,
    link: bool = False,
    listener: Listener | None = None,
) -> str:
    """Write the folders and `images.csv`, which says where each image went, and return how many there are, in words.

    out: a new folder, or an empty one; all is written, or nothing under that name. data: where the images are now, None
    for where they were. link: make symbolic links instead of copies. Raises InputError if no image is there any more.
    """
    listener = listener or Listener()
    table = chosen_rows(run, split)
    keys = list(zip(table["split"], table["image"], strict=True))
    originals = find_originals(run, data=data, link=link, splits=set(table["split"]), listener=listener)
    rows = [i for i, key in enumerate(keys) if key in originals]
    if not rows:
        raise InputError(
            f"None of the run's images is in {data or run.setting('data')!r}: say with `--data` where they are."
        )
    if len(rows) < len(keys):
        listener.log(f"{len(keys) - len(rows):,} of the run's images are no longer there and left out.")
    with appearing_folder(out) as building:
        folders = _make_folders(building, [table["cluster"][i] for i in rows])
        taken, files = {cluster: Names() for cluster in folders}, []
        for done, i in enumerate(rows, start=1):
            cluster, original = table["cluster"][i], originals[keys[i]]
            path = folders[cluster] / taken[cluster].take(original.name)
            original.put(path)
            files.append(path.relative_to(building).as_posix())
            if done % 64 == 0 or done == len(rows):
                listener.progress("export", done, len(rows))
        columns = {name: [column[i] for i in rows] for name, column in table.items()}
        write_csv(building / "images.csv", {"file": files, **columns})
    return f"{len(rows):,} images in {len(folders)} folders"


def _make_folders(building: Path, clusters: list[str]) -> dict[str, Path]:
    """Make a folder for each cluster and return them by cluster."""
    free = Names()
    free.take("images.csv")
    folders = {cluster: building / free.take(cluster, otherwise="cluster") for cluster in sorted(set(clusters))}
    for folder in folders.values():
        folder.mkdir()
    return folders


def find_originals(
    run: RunFolder, *, data: str | None, link: bool, splits: set[str], listener: Listener
) -> dict[Key, Original]:
    """Return the images of some splits. Only what the collection itself lists is found: an id can name no other file.

    data: where the images are now, None for where they were. Raises InputError if there is nothing.
    """
    main, test = data or run.place_of("data") or "", run.place_of("test")
    found: dict[Key, Original] = {}
    for split in sorted(splits):
        source = test if split == "test" and test is not None else main
        found |= _in_source(run, source, split=split, link=link, listener=listener)
    return found


def _in_source(run: RunFolder, source: str, *, split: str, link: bool, listener: Listener) -> dict[Key, Original]:
    try:
        items = list_images(source)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}; say with `--data` where the images are now.") from None
    root = None if items is None else find_data(source)
    if link and (root is None or not root.is_dir()):
        raise InputError(f"{source!r} is no folder of image files to link to: leave out `--link`.")
    if items is None or root is None:
        return _in_arrays(run, source, split=split, listener=listener)
    paths = {item.id: path_from_id(item.id) for item in items}
    return {
        (split, item.id): Original(
            PurePosixPath(paths[item.id]).name,
            partial(_link, (root / paths[item.id]).absolute()) if link else partial(_write, item.read),
        )
        for item in items
    }


def _in_arrays(run: RunFolder, source: str, *, split: str, listener: Listener) -> dict[Key, Original]:
    """Return the images of a named dataset or an .npz, as PNG files of what the method saw."""
    if len(run.shape) != 3:
        raise InputError(f"{str(run.path)!r} is of ready embeddings: there are no images to put into folders.")
    dataset = open_dataset(
        source,
        split=split,  # type: ignore[arg-type]
        size=run.shape[-1],
        channels=run.shape[0],
        resize=run.setting("resize"),
        value_range=ValueRange.from_table(run.value_range),
        progress=lambda done, total: listener.progress("read images", done, total),
    )
    return {
        (split, image): Original(
            f"{image.replace('/', '-')}.png", partial(_write, partial(_as_png, dataset.images[row]))
        )
        for row, image in enumerate(map(str, dataset.ids))
    }


def _as_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _link(original: Path, path: Path) -> None:
    path.symlink_to(original)


def _write(read: Callable[[], bytes], path: Path) -> None:
    content = read()
    with naming(path), path.open("xb") as file:  # never over anything
        file.write(content)
