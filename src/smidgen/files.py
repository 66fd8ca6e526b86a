"""Crash-safe writing of files, and reading with a clear error for what is wrong with them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import tomli_w

from smidgen import checksums
from smidgen.errors import Damaged, RunError
from smidgen.schemas import (
    convert,
    decode_json,
    decode_toml,
)


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[IO[bytes]]:
    """Open a binary file that appears under its name whole or not at all.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and the file is renamed; a full
    disk or a killed process leaves what stood there before. Raises OSError as `open` and `write` do, with `path`.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        with naming(path, instead_of=temporary):
            with temporary.open("xb") as file:  # with the rights that the umask leaves
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def appearing_folder(path: Path | str) -> Iterator[Path]:
    """Give a new folder to fill, which appears under its name, in place of an empty one, when the body is done.

    Nothing is left of it if the body fails. An OSError about a file in it names where the file would have been.
    """
    path = Path(path)
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    building = _beside(path)
    building.mkdir()
    try:
        yield building
        building.replace(path)
    except BaseException as error:
        shutil.rmtree(building, ignore_errors=True)
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.filename is not None:
            error.filename = str(error.filename).replace(str(building), str(path))
        raise


@contextlib.contextmanager
def naming(path: Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """Name a file in the OSError of whoever writes it: "No space left on device" comes from `write`, which knows none.

    One that names another file, but for `instead_of`, stays as it is.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, instead_of, str(instead_of)):
            raise
        reason = error.strerror or f"Writing failed ({error}): is the disk full?"  # of NumPy, which counts bytes
        raise OSError(error.errno, reason.rstrip("."), str(path)) from error


def _beside(path: Path) -> Path:
    """Return a hidden name in the same folder that nothing has."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and infinity are refused (ValueError)."""
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def read_json(path: Path | str, *kinds: Any) -> Any:
    """Return the value in a JSON file; raise RunError if it is missing, damaged or not of all kinds.

    kinds: types that msgspec knows.
    """
    try:
        value = decode_json(Path(path).read_bytes())
        for kind in kinds:
            convert(value, kind)
        return value
    except FileNotFoundError:
        raise RunError(f"{str(path)!r} is missing: is this a run folder that has finished?") from None
    except Damaged as error:
        raise RunError(f"{str(path)!r} is damaged or is not smidgen's JSON ({error}).") from None


def read_array(path: Path | str) -> np.ndarray:
    """Return the array in a `.npy` file of a run, mapped; raise RunError if it is missing or damaged."""
    try:
        return checksums.read_array(path, unchecked=True)
    except FileNotFoundError:
        raise RunError(f"{str(path)!r} is missing: is this a run folder that has finished?") from None
    except Damaged as error:
        raise RunError(f"{str(path)!r} is damaged ({error}): fit the run again.") from None


def write_toml(path: Path | str, value: Mapping[str, Any]) -> None:
    """Write a table as TOML, atomically."""
    with atomic_write(path) as file:
        tomli_w.dump(value, file)


def read_toml(path: Path | str) -> dict[str, Any]:
    """Return the table in a TOML file; raise RunError if it is missing or damaged."""
    try:
        return decode_toml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{str(path)!r} is missing.") from None
    except (Damaged, UnicodeDecodeError) as error:
        raise RunError(f"{str(path)!r} is not TOML ({error}).") from None


def lies_inside(path: Path | str, data: str | Sequence[str] | None) -> bool:
    """Return whether an output lies in a folder of images, where it would be read as input the next time.

    data: as a configuration has it, None for none; only a folder has an inside.
    """
    places = [Path(place).expanduser() for place in ([data] if isinstance(data, str) else data or ())]
    return any(place.is_dir() and Path(path).resolve().is_relative_to(place.resolve()) for place in places)
