"""Images in an uncompressed .tar or a .zip, read member by member and never extracted."""

from __future__ import annotations

import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from smidgen.data.candidates import Sieve
from smidgen.data.collection import Collection, Item, id_from_path, refused
from smidgen.data.images import MAX_BYTES, START, BadImage
from smidgen.data.splits import arranged
from smidgen.errors import InputError

MAX_MEMBERS = 5_000_000
"""An archive with more members is refused."""

MAX_RATIO = 200
"""A .zip member, and a whole .zip, that unpacks to more than so many times its length is refused …"""

_SMALL = 2**20  # … unless it unpacks to no more than this: a small bitmap of one colour is no bomb
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


class _SoundTarInfo(tarfile.TarInfo):
    """A header that may not point backwards: older Pythons follow negative sizes for ever (CVE-2025-8194)."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.ReadError("a member has a negative size")
        return super()._block(count)  # type: ignore[misc]


def collect_tar(path: Path, *, exclude: Sequence[str] = ()) -> Collection:
    """Return the images in an uncompressed tar, in natural order of their names.

    exclude: patterns of members to leave out, see `candidates.Sieve`.

    Links, devices, sparse files and names that leave the archive become bad images if their name promises an image.

    Raises InputError if the file is compressed, damaged, no tar, or holds more than `MAX_MEMBERS` members.
    """
    with path.open("rb") as file:
        _refuse_compressed(path, file.read(8))
    items: dict[str, Item] = {}
    sieve = Sieve(exclude)
    try:
        with tarfile.open(path, "r:", tarinfo=_SoundTarInfo) as archive:
            n_members = 0
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header it has seen
                n_members += 1
                _check_count(path, n_members)
                if member.isdir():
                    continue
                read = partial(_read_span, path, member.offset_data, member.size)
                if sieve.admits_member(member.name, partial(_start_of_span, path, member)):
                    problem = _tar_problem(member)
                    _add(items, member.name, partial(refused, problem) if problem else read)
            _check_end(path, archive.offset)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{os.fspath(path)!r} is not a tar archive that can be read ({error}).") from error
    return _collected(items, sieve)


def collect_zip(path: Path, *, exclude: Sequence[str] = ()) -> Collection:
    """Return the images in a zip, in natural order of their names.

    exclude: patterns of members to leave out, see `candidates.Sieve`.

    Encrypted members, those that unpack to more than `MAX_BYTES` or `MAX_RATIO` times their length, and names that
    leave the archive become bad images if their name promises an image.

    Raises InputError if the file is damaged, no zip, holds too many members or would unpack to too much in all.
    """
    sieve = Sieve(exclude)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_sizes(path, members)
            items = _zip_items(path, archive, members, sieve)
    except InputError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)!r} is not a zip archive that can be read ({error}).") from error
    return _collected(items, sieve)


def _check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    _check_count(path, len(members))
    total = sum(member.file_size for member in members)
    if total > max(MAX_RATIO * path.stat().st_size, 64 * _SMALL):
        raise InputError(
            f"{os.fspath(path)!r} would unpack to {total / 1e9:.1f} GB, more than {MAX_RATIO} times its length; "
            "if it can be trusted, unpack it and give the folder."
        )


def _zip_items(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], sieve: Sieve) -> dict[str, Item]:
    items: dict[str, Item] = {}
    for member in members:
        name = _name_in_zip(member)
        if sieve.admits_member(name, partial(_zip_start, archive, member)):
            problem = _zip_problem(member)
            _add(items, name, partial(refused, problem) if problem else partial(_read_member, path, member))
    return items


def _name_in_zip(member: zipfile.ZipInfo) -> str:
    """Return a member's name with slashes, which some packers for Windows write the other way round."""
    is_windows = member.create_system == 0 and "/" not in member.filename
    return member.filename.replace("\\", "/") if is_windows else member.filename


def _collected(items: dict[str, Item], sieve: Sieve) -> Collection:
    found = arranged(items.values())
    return Collection(found.items, sieve.ignored, found.notes + sieve.notes())


def _refuse_compressed(path: Path, start: bytes) -> None:
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise InputError(
                f"{os.fspath(path)!r} is compressed with {kind}, and images in it can only be reached one after the "
                "other; unpack it and give the folder, or pack it again as a plain .tar or a .zip."
            )


def _check_count(path: Path, n_members: int) -> None:
    if n_members > MAX_MEMBERS:
        raise InputError(f"{os.fspath(path)!r} holds more than {MAX_MEMBERS} members; give a folder or split it.")


def _check_end(path: Path, offset: int) -> None:
    """Raise ReadError unless the headers end in zeros or with the file: tarfile takes a broken one for the end."""
    with path.open("rb") as file:
        file.seek(max(0, offset - tarfile.BLOCKSIZE))
        if file.read(2 * tarfile.BLOCKSIZE).strip(b"\0") and offset + tarfile.BLOCKSIZE <= path.stat().st_size:
            file.seek(offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {offset}")


def _add(items: dict[str, Item], name: str, read: Callable[[], bytes]) -> None:
    """Add a member under its id; as when extracting, the last of several with one name counts."""
    if _leaves(name):
        read = partial(refused, "its name leaves the archive")
    else:
        name = posixpath.normpath(name)
    items[name] = Item(id_from_path(name), read)


def _leaves(name: str) -> bool:
    return name.startswith("/") or ".." in name.split("/")


def _tar_problem(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link, not a regular file"
    if not member.isreg() or member.issparse():
        return "a device or another special member, not a regular file"
    if member.size > MAX_BYTES:
        return f"longer than {MAX_BYTES // 2**20} MB"
    return None


def _start_of_span(path: Path, member: tarfile.TarInfo) -> bytes:
    if not member.isreg() or member.issparse():
        return b""
    with path.open("rb") as file:
        file.seek(member.offset_data)
        return file.read(min(START, member.size))


def _read_span(path: Path, start: int, length: int) -> bytes:
    """Return a stretch of a file; opening it each time lets every thread read on its own."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(length)
    except OSError as error:
        raise BadImage(f"cannot be read from the archive ({error.strerror})") from error
    if len(data) < length:
        raise BadImage("the archive ends inside it")
    return data


def _zip_problem(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 1:
        return "encrypted"
    if (member.external_attr >> 16) & 0o170000 not in (0, 0o100000):  # Unix mode, where the packer noted one
        return "a link or another special member, not a regular file"
    if member.file_size > MAX_BYTES:
        return f"unpacks to more than {MAX_BYTES // 2**20} MB"
    if member.file_size > max(_SMALL, MAX_RATIO * member.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its length"
    return None


def _zip_start(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if _zip_problem(member):
        return b""
    try:
        with archive.open(member) as file:
            return file.read(START)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError):
        return b""


class _OneMember(zipfile.ZipFile):
    """A zip opened for a member that is known: the directory, which may be long, is not read again."""

    def _RealGetContents(self) -> None:
        pass


def _read_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    """Return a member's bytes, no more than the size in the directory, which was checked.

    Opening the file each time lets every thread read on its own, and leaves none open.
    """
    try:
        with _OneMember(path) as archive, archive.open(member) as file:
            return file.read(member.file_size)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BadImage(f"cannot be unpacked ({error})") from error
