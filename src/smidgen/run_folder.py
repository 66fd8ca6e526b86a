"""The run folder: its contents, reading, and locking for writers."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from smidgen import checksums, options
from smidgen.config import Config
from smidgen.csv_tables import Column, read_assignments, write_csv
from smidgen.errors import Damaged, InputError, RunError
from smidgen.files import atomic_write, read_json, read_toml, write_toml
from smidgen.resuming import changed_inputs, refuse_changes
from smidgen.schemas import KnownLine, KnownManifest, KnownMetrics, ManifestTable, MetricsTable, convert, decode_json

FROZEN = "frozen"
"""The folder inside a run folder that holds the run on a frozen encoder which was fine-tuned."""


class RunFolder:
    """A folder that one run writes to and reports read from.

    Opening one for writing takes a lock that a killed process leaves free again. See `start` and `open`.
    """

    def __init__(self, path: Path, lock: IO[str] | None = None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Return a run folder to read from; raise RunError if there is none."""
        path = Path(path)
        if not (path / "config.toml").is_file():
            raise RunError(
                f"{str(path)!r} is not a run folder: it holds no config.toml; `smidgen fit DATA --out RUN` makes one."
            )
        return cls(path)

    @classmethod
    def reopen(cls, path: Path | str) -> RunFolder:
        """Return the folder of a run that has finished, locked, to add to what it holds; raise RunError otherwise."""
        run = cls.open(path)
        if not run.finished:
            raise RunError(f"The run in {str(path)!r} has not finished: `smidgen fit … --resume` goes on with it.")
        return cls(run.path, _take_lock(run.path))

    @classmethod
    def start(cls, path: Path | str, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> RunFolder:
        """Return a folder to write a run into, locked, with `config.toml` in it.

        A folder that holds anything is refused unless `resume` (the same configuration, otherwise the difference is
        shown) or `overwrite` (which empties a run folder, and only a run folder). Raises RunError.
        """
        path = Path(path)
        _make_folder(path)
        lock = _take_lock(path)
        run = cls(path, lock)
        try:
            run._admit(config, resume=resume, overwrite=overwrite)
        except BaseException:
            run.close()
            raise
        return run

    @staticmethod
    def check(path: Path | str, *, resume: bool, overwrite: bool) -> None:
        """Raise RunError if `start` is bound to refuse the folder; quick, and nothing is written."""
        path = Path(path)
        if resume and overwrite:
            raise RunError("Either --resume or --overwrite: one goes on with a run, the other replaces it.")
        if path.exists() and not path.is_dir():
            raise RunError(f"{str(path)!r} is a file: --out wants a folder.")
        if not path.is_dir() or not _entries(path):
            return
        if not (path / "config.toml").exists():
            raise RunError(f"{str(path)!r} holds files that are not a run's: choose another --out.")
        if not resume and not overwrite:
            raise RunError(
                f"{str(path)!r} already holds a run: choose another --out, or pass --resume to go on with it"
                " or --overwrite to replace it."
            )

    @classmethod
    def around(cls, path: Path | str, *, overwrite: bool) -> RunFolder:
        """Return the folder around the run in `FROZEN`, locked; `overwrite` removes all else of the run in it.

        Raises RunError if it holds more than a run's, or if another process writes to it.
        """
        path = Path(path)
        _make_folder(path)
        run = cls(path, _take_lock(path))
        try:
            if overwrite:
                run._empty(spared=path / FROZEN)
        except BaseException:
            run.close()
            raise
        return run

    def require_same(self, config: Mapping[str, Any], fingerprints: Mapping[str, str]) -> None:
        """Raise RunError, with the difference, if the run was started with another configuration or other inputs.

        fingerprints: of the inputs by what they are; where they lie may have changed.
        """
        if (self.path / "config.toml").exists():
            refuse_changes(read_toml(self.path / "config.toml"), dict(config))
        path = self.path / "manifest.json"
        before = self.manifest.get("fingerprints") if path.exists() else None
        if before is None and any((self.path / name).exists() for name in ("checkpoints", "model", "metrics.json")):
            raise RunError(
                f"{str(path)!r} is missing or does not say what the run was started with, so that it cannot go on:"
                " use --overwrite, or another --out."
            )
        if before is not None and (changed := changed_inputs(before, fingerprints)):
            raise RunError(
                f"This run was started with other inputs ({changed}): resume it with the same ones, or use another"
                " --out."
            )

    def place_of(self, name: str) -> Any:
        """Return where a file or folder that the configuration names is, or several, None if it names none.

        name: a setting such as "data". The path is that of the time of the fit, absolute, so that the run can be used
        from another folder; as it was given if nothing is there any more.
        """
        given = self.setting(name)
        paths = self.manifest.get("paths", {}) if (self.path / "manifest.json").exists() else {}
        absolute = paths.get(name)
        places = [absolute] if isinstance(absolute, str) else absolute
        return absolute if places and all(Path(place).exists() for place in places) else given

    def _admit(self, config: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.check(self.path, resume=resume, overwrite=overwrite)
        config_path = self.path / "config.toml"
        if overwrite:
            self._empty(spared=config.get("init_from"))
        if resume and config_path.exists():
            refuse_changes(read_toml(config_path), dict(config))
            for leftover in [*filter(_is_leftover, self.path.iterdir())]:
                leftover.unlink()
        else:
            write_toml(config_path, config)

    def _empty(self, *, spared: Path | str | None = None) -> None:
        """Remove what a run wrote, but for the run that the next one starts from; RunError if there is more."""
        entries = [e for e in self.path.iterdir() if spared is None or e.resolve() != Path(spared).resolve()]
        own = [e for e in entries if e.name in _OWN_NAMES or _is_leftover(e) or _is_frozen_run(e)]
        foreign = sorted(e.name for e in entries if e not in own and not e.name.startswith("."))
        if foreign:
            raise RunError(
                f"{str(self.path)!r} also holds {foreign[0]!r}, which no run wrote: move it away or choose"
                " another --out."
            )
        # config.toml goes last: until then the folder is still known as a run's.
        for entry in sorted(own, key=lambda e: e.name == "config.toml"):
            _remove(entry)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def finished(self) -> bool:
        """Whether the run reached its end, which is written to the manifest last."""
        return (self.path / "manifest.json").is_file() and "finished" in self.manifest

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read_toml(self.path / "config.toml")

    @property
    def manifest(self) -> dict[str, Any]:
        """What ran: versions, seed, threads, data, command."""
        return read_json(self.path / "manifest.json", ManifestTable, KnownManifest)

    @property
    def metrics(self) -> dict[str, Any]:
        """The final figures, flat."""
        return read_json(self.path / "metrics.json", MetricsTable, KnownMetrics)

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of the images that were fitted, or (features,) of vectors.

        RunError if the manifest does not say.
        """
        data = self.manifest.get("data")
        shape = data.get("shape") if isinstance(data, dict) else None
        if shape is None or len(shape) not in (1, 3):
            raise RunError(f"{str(self.path / 'manifest.json')!r} is damaged: it says nothing of the images' shape.")
        return tuple(shape)

    @property
    def value_range(self) -> dict[str, Sequence[float]]:
        """The values that were black and white, by kind of number; nothing in runs that do not say."""
        data = self.manifest.get("data")
        found = data.get("value_range") if isinstance(data, dict) else None
        return found or {}

    @property
    def assignments(self) -> dict[str, list[str]]:
        """The columns of `assignments.csv`; RunError if it is missing, damaged or lacks one that every run writes."""
        return read_assignments(self.path / "assignments.csv", ("image", "split", "cluster", "confidence"))

    def setting(self, name: str) -> Any:
        """Return one setting of the run, by default what `Config` has; RunError if it is missing or of another type."""
        table, default = self.config, getattr(Config, name, None)
        try:
            if name not in table and name == "data":
                raise InputError("`data` is missing.")
            if name in table:
                options.convert(name, table[name], options.field_types(Config)[name], strict=True)
        except InputError as error:
            raise RunError(f"{str(self.path / 'config.toml')!r} is damaged: {error}") from None
        return table.get(name, default)

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write an array as `.npy` with its checksum, atomically."""
        with atomic_write(self.path / name) as file:
            checksums.write_array(file, array)

    def write_table(self, name: str, columns: Mapping[str, Column]) -> None:
        """Write `tables/<name>.csv`."""
        (self.path / "tables").mkdir(exist_ok=True)
        write_csv(self.path / "tables" / f"{name}.csv", columns)

    def write_thumbnails(self, rows: Column, pictures: Sequence[bytes]) -> None:
        """Write `thumbnails.parquet`: PNG or JPEG bytes for some rows of `assignments.csv`."""
        import pyarrow
        from pyarrow import parquet

        arrays = {"row": pyarrow.array(rows, pyarrow.int64()), "bytes": pyarrow.array(pictures, pyarrow.binary())}
        found = checksums.of_pictures(zip(map(int, rows), pictures, strict=True))
        table = pyarrow.table(arrays, metadata={"checksum": found})
        with atomic_write(self.path / "thumbnails.parquet") as file:
            parquet.write_table(table, file)

    def thumbnails(self) -> dict[int, bytes]:
        """Return the pictures in `thumbnails.parquet` by row, empty where there is none; RunError if it is damaged."""
        path = self.path / "thumbnails.parquet"
        if not path.exists():
            return {}
        import pyarrow

        try:
            return _read_pictures(path)
        except (Damaged, pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:150]
            raise RunError(f"{str(path)!r} is damaged ({reason}): without it, the report shows no pictures.") from None

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`, empty where there is none; RunError if one is damaged.

        What stands behind the last end of a line is left out: a training that is killed may leave half a line.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        try:
            return [_line(line, number) for number, line in enumerate(lines, start=1) if line.strip()]
        except Damaged as error:
            raise RunError(f"{str(path)!r} is damaged: {error}.") from None


def _read_pictures(path: Path) -> dict[int, bytes]:
    """Return the pictures in a Parquet file by row; raises Damaged, or what pyarrow raises."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        if file.metadata.num_rows > _MOST_PICTURES:
            raise Damaged(f"it claims to hold {file.metadata.num_rows:,} pictures")
        table = file.read(columns=["row", "bytes"])
    rows = convert(table.column("row").to_pylist(), list[int])
    pictures = convert(table.column("bytes").to_pylist(), list[bytes])
    expected = (table.schema.metadata or {}).get(b"checksum")
    if expected is not None and expected != checksums.of_pictures(zip(rows, pictures, strict=True)).encode():
        raise Damaged("its checksum does not fit its content")
    return dict(zip(rows, pictures, strict=True))


def _line(line: bytes, number: int) -> dict[str, Any]:
    try:
        value = decode_json(line, nan=True)
        convert(value, KnownLine)
        return convert(value, MetricsTable)
    except Damaged as error:
        raise Damaged(f"line {number} is not smidgen's ({error})") from None


_MOST_PICTURES = 10**6  # that a file of thumbnails is believed to hold


_OWN_NAMES = frozenset(
    (
        *("config.toml", "manifest.json", "metrics.jsonl", "metrics.json", "checkpoints", "model", "assignments.csv"),
        *("embeddings.npy", "filters.npy", "thumbnails.parquet", "tables", "bad_images.csv", "report.html"),
    )
)


def _is_leftover(entry: Path) -> bool:
    """Return whether this is a temporary file of an `atomic_write` that was killed."""
    return entry.name.startswith(tuple(f".{name}." for name in _OWN_NAMES)) and entry.is_file()


def _entries(path: Path) -> list[Path]:
    """Return the entries of a folder, except locks, leftovers of an interrupted `atomic_write`, and `FROZEN`."""
    return [e for e in path.iterdir() if not (e.name.startswith((".lock", ".config.toml.")) or _is_frozen_run(e))]


def _is_frozen_run(entry: Path) -> bool:
    """Return whether this is the run in `FROZEN`, which may hold nothing yet, and not a folder of somebody else's."""
    return entry.name == FROZEN and entry.is_dir() and ((entry / "config.toml").exists() or not _entries(entry))


def _make_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise RunError(f"{str(path)!r} is a file: --out wants a folder.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The run folder {str(path)!r} cannot be made: {error.strerror}.") from None


def _take_lock(path: Path) -> IO[str]:
    """Lock the folder for this process; the kernel frees the lock when the process ends, however it ends."""
    try:
        lock = (path / ".lock").open("w")
    except OSError as error:
        raise RunError(f"The run folder {str(path)!r} cannot be written to: {error.strerror}.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RunError(f"Another process is writing to {str(path)!r}: wait for it or choose another --out.") from None
    return lock


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            _remove(entry)
        path.rmdir()
    else:
        path.unlink()
