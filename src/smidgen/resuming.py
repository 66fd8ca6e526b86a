"""Compares a run with the settings it is to be resumed with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smidgen.config import PATHS
from smidgen.errors import RunError


def refuse_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise RunError, with the difference, if two configurations differ in more than where inputs lie."""
    before, after = ({k: v for k, v in _flat(table) if not (_is_place(k) or k in _FREE)} for table in (old, new))
    changed = [
        f"{name}: {before.get(name, 'unset')!r} → {after.get(name, 'unset')!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    if changed:
        raise RunError(
            f"This run was started with another configuration ({'; '.join(changed)}): resume it with the"
            " same options, or use another --out."
        )


_FREE = ("issues",)  # settings of what comes after training


def _is_place(setting: str) -> bool:
    """Return whether a setting names a file: its location does not matter, its fingerprint identifies it."""
    return setting in PATHS or setting.startswith("evidence.")


def changed_inputs(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return which fingerprints differ, as a phrase, "" if none does.

    >>> changed_inputs({"training images": "0123456789"}, {"training images": "abcdefghij", "evidence": "0" * 64})
    'evidence: none → 00000000; training images: 01234567 → abcdefgh'
    """
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return "; ".join(f"{name}: {before.get(name, 'none')[:8]} → {after.get(name, 'none')[:8]}" for name in names)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value  # as TOML gives it back
