"""Reads users' tables in the forms they come in: CSV with commas, semicolons or tabs, JSONL and Parquet."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from smidgen.csv_tables import restore_cell
from smidgen.errors import Damaged, InputError, InputWarning
from smidgen.schemas import decode_json

IMAGE_COLUMNS = ("path", "file_name", "filepath", "image", "filename", "file", "file_path", "image_name", "image_path")
LABEL_COLUMNS = ("label", "class", "labels", "class_name", "category", "target")
"""What the columns that name images and classes are called."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_INDEX = "__index_level_0__"  # pandas writes a frame's index under this name
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
TABLES = (".csv", ".tsv", *PARQUET, *JSON_LINES)
"""What the names of tables end with."""


@dataclass(frozen=True)
class Records:
    """The columns of a table by name, in lower case; lines: where each row is in the file, counted from 1.

    A cell that a row does not have is None. unread: columns of a Parquet file that are not wanted.
    """

    path: str
    columns: dict[str, list[Any]]
    lines: list[int]
    unread: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, those that were not read among them."""
        return (*self.columns, *self.unread)

    def warn_of_ignored(self, used: Collection[str]) -> None:
        """Warn of columns with content that are not used."""
        ignored = [name for name, cells in self.columns.items() if name not in used and any(map(_holds, cells))]
        if ignored := [*ignored, *self.unread]:
            names = ", ".join(repr(name) if name else "without a name" for name in ignored[:5])
            names += f" and {len(ignored) - 5} more" if len(ignored) > 5 else ""
            warnings.warn(
                InputWarning(f"{self.path}: ignored the column{'s' * (len(ignored) > 1)} {names}."), stacklevel=2
            )


def read_records(
    path: Path | str, *, known: Collection[str], required: Collection[str], errors: str = "strict"
) -> Records:
    """Return a table of any of the formats, told apart by the file's name: .jsonl, .parquet, anything else is CSV.

    CSV is UTF-8, or UTF-16 as spreadsheets save it, with any line ends; its columns are separated by commas,
    semicolons, tabs or bars, whichever makes columns that are `known`; a column of row numbers without a title and
    commas at the ends of lines are allowed.

    known: the columns that mean something. required: those of which every row of a CSV file must have a cell.
    errors: what to do with bytes that are not UTF-8, as for `bytes.decode`.
    Raises InputError if the file is missing or of another format, names a column twice, or has a row of another length.
    """
    path, kind = Path(path), Path(path).suffix.lower()
    try:
        if kind in PARQUET:
            return _parquet(path, known)
        text = _decoded(path, errors)
    except FileNotFoundError:
        raise InputError(f"{str(path)!r} is missing; give the path of a table.") from None
    except InputError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's, too
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)!r} cannot be read ({str(reason).rstrip('.')}).") from None
    return _json_lines(path, text, known) if kind in JSON_LINES else _csv(path, text, known, required)


def _holds(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def _decoded(path: Path, errors: str) -> str:
    data = path.read_bytes()
    if path.suffix.lower() == ".json":
        raise ValueError("JSON is read from .jsonl files, one object a line")
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):  # .xlsx and .ods, .xls
        raise ValueError("it is a workbook or an archive; save it as CSV in UTF-8")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    else:
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding, errors="strict" if encoding.startswith("utf-16") else errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from None


def _titled(path: Path, names: Sequence[Any], known: Collection[str]) -> list[str]:
    """Return the names of columns as they are compared; raises InputError if two that mean something are the same."""
    titles = [str(name).strip().strip("\"'").strip().lower() for name in names]
    twice = next((name for i, name in enumerate(titles) if name in known and name in titles[:i]), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are called {twice!r}; keep one.")
    return titles


# ---------------------------------------------------------------------------------------------------- JSONL and Parquet


def _json_lines(path: Path, text: str, known: Collection[str]) -> Records:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = decode_json(line, dict[str, Any], nan=True)
            _refuse_half_characters(row)
        except Damaged as error:
            raise InputError(f"{str(path)!r} cannot be read (line {number}: {error}).") from None
        rows.append(row)
        lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    titles = _titled(path, names, known)
    return Records(
        str(path), {title: [row.get(name) for row in rows] for title, name in zip(titles, names, strict=True)}, lines
    )


def _refuse_half_characters(row: dict[str, Any]) -> None:
    """Raise Damaged for half a surrogate pair; bytes of a name that is not UTF-8, as Python escapes them, may stay."""
    for text in (text for pair in row.items() for text in pair if isinstance(text, str)):
        try:
            text.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise Damaged(f"{text!r} holds half a surrogate pair, which is no character") from None


def _parquet(path: Path, known: Collection[str]) -> Records:
    from pyarrow import parquet  # a slow import that few tables need

    file = parquet.ParquetFile(path)
    names = list(file.schema_arrow.names)
    titles = _titled(path, names, known)
    wanted = {title: name for title, name in zip(titles, names, strict=True) if title in known}
    table = file.read(columns=list(wanted.values()))
    return Records(
        str(path),
        {title: table[name].to_pylist() for title, name in wanted.items()},
        list(range(1, table.num_rows + 1)),
        unread=tuple(title for title in titles if title not in wanted and title != _INDEX),
    )


# ------------------------------------------------------------------------------------------------------------------ CSV


def _csv(path: Path, text: str, known: Collection[str], required: Collection[str]) -> Records:
    text, delimiter = _with_delimiter(text, known)
    (_, header), *body = _parsed(path, text, delimiter) or [(1, [])]
    titles = _titled(path, header, known)
    if _has_untitled_index(titles, [cells for _, cells in body]):
        titles = ["", *titles]
    least = max((titles.index(name) + 1 for name in required if name in titles), default=0)
    for line, cells in body:
        if len(cells) < least or any(cell.strip() for cell in cells[len(titles) :]):
            raise InputError(
                f"{path} line {line}: {len(cells)} cells, but {len(titles)} columns; quote texts with"
                f" {_DELIMITERS[delimiter]}."
            )
    columns = {
        title: [restore_cell(cells[i]) if i < len(cells) else None for _, cells in body]
        for i, title in enumerate(titles)
        if title not in titles[:i]
    }
    return Records(str(path), columns, [line for line, _ in body])


def _with_delimiter(text: str, known: Collection[str]) -> tuple[str, str]:
    """Return the text without a spreadsheet's line `sep=;`, and what separates its cells."""
    said = re.match(r'"?sep=([,;\t|])"?\r?\n', text)
    if said is not None:
        return "\n" + text[said.end() :], said[1]  # the lines keep their numbers
    header = next((line for line in text.splitlines() if line.strip()), "")

    def fit(delimiter: str) -> tuple[int, int]:
        titles = [title.strip().strip("\"'").strip().lower() for title in header.split(delimiter)]
        return len(set(titles) & set(known)), len(titles)

    return text, max(_DELIMITERS, key=fit)


def _parsed(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return (line, cells) of every line that is not blank."""
    try:
        return _parsed_strictly(text, delimiter)
    except csv.Error as error:
        spaced = re.sub(rf'" +(?=[{re.escape(delimiter)}\r\n]|$)', '"', text)  # "a.jpg" ,cat
        try:
            return _parsed_strictly(spaced, delimiter)
        except csv.Error:
            raise InputError(f"{path} line {error.args[1]}: not CSV ({error.args[0]}).") from None


def _parsed_strictly(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    quote = "'" if text.lstrip().startswith("'") else '"'
    spaced = re.search(rf"{re.escape(delimiter)} +{quote}", text) is not None  # a.jpg, "cat, small"
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quotechar=quote, skipinitialspace=spaced, strict=True
    )
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise csv.Error(str(error), reader.line_num) from None


def _has_untitled_index(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether rows begin with row numbers that the header lacks, as R writes them."""
    if not rows or any(len(cells) != len(titles) + 1 for cells in rows):
        return False
    numbers = [int(cells[0]) if re.fullmatch(r"[0-9]{1,15}", cells[0].strip()) else -1 for cells in rows]
    return numbers[0] in (0, 1) and all(after == before + 1 for before, after in pairwise(numbers))
