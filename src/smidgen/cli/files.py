"""Checks of output paths: nothing is overwritten unless asked to; errors are sentences, not tracebacks."""

from __future__ import annotations

from pathlib import Path

from smidgen.errors import InputError


def require_new_file(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if a file cannot be written there, or stands there and `overwrite` is not set."""
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder: --out wants a file.")
    if path.exists() and not overwrite:
        raise InputError(f"{str(path)!r} exists: choose another --out, or pass --overwrite to replace it.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {str(path.parent)!r} does not exist: make it, or choose another --out.")


def require_new_folder(path: Path) -> None:
    """Raise InputError if something stands there that is not an empty folder."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{str(path)!r} is a file: --out wants a folder.")
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"The folder {str(path)!r} is not empty: choose another --out.")
    if path.is_symlink():
        raise InputError(f"{str(path)!r} is a link: choose another --out.")
