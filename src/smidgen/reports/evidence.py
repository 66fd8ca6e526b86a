"""The report's section on evidence: how the final assignments explain each kind, and the worst contradictions.

Everything comes from the run's `tables/evidence_*.csv`, which `outputs.write_explained` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.evidence.kind import Agreement, Columns, Kind, Words
from smidgen.evidence.kinds import LEARNED, kind_of
from smidgen.reports import figures
from smidgen.reports.names import cluster_title
from smidgen.reports.tables import Assignments, percent, thousands

_SHOWN = 10  # pieces of each kind that are shown
_LIKELY = 0.5  # probability above which a piece is called wrong


@dataclass(frozen=True, eq=False)
class Piece:
    """One piece of evidence that contradicts the model.

    title: its bag, if it is about one. given, seen: what was said, and what the model finds most likely.
    wrong: P(it is wrong). groups: captions and rows of `assignments.csv`; more: how many images are not shown.
    """

    title: str
    given: str
    seen: str
    wrong: float
    groups: Sequence[tuple[str, list[int]]]
    more: int = 0


@dataclass(frozen=True, eq=False)
class Section:
    """One kind of evidence: its name, how well it is explained in short texts, a sentence, and the worst pieces.

    wrong: how many are likely wrong. rate: the estimated share of wrong ones.
    """

    name: str
    total: str
    agrees: str
    probability: str
    wrong: str
    rate: str
    verdict: str
    pieces: Sequence[Piece]
    figure: Markup | None = None
    figure_note: str = ""


def read_evidence(run_folder: Path | str, assignments: Assignments) -> list[Section]:
    """Return what a run knew and how it is explained, empty where it knew nothing; RunError for a damaged table."""
    folder = Path(run_folder) / "tables"
    found = {kind: folder / f"evidence_{kind}.csv" for kind in LEARNED}
    found = {kind: path for kind, path in found.items() if path.is_file()}
    if not found:
        return []
    pictures = _Pictures(folder / "evidence_images.csv", assignments)
    return [_section(kind_of(kind), path, pictures) for kind, path in found.items()]


def evidence_rows(kinds: Sequence[Section]) -> np.ndarray:
    """Return the rows of the images that the section shows, (m,) int64, in order."""
    rows = [row for kind in kinds for piece in kind.pieces for _, group in piece.groups for row in group]
    return np.array(rows, dtype=np.int64)


class _Pictures:
    """Finds the rows of images and of the bags whose images were kept."""

    def __init__(self, path: Path, assignments: Assignments) -> None:
        self.assignments = assignments
        self.row = {str(name): row for row, name in reversed(list(enumerate(assignments.images)))}  # train comes first
        table = read_csv(path) if path.is_file() else {"bag": [], "image": []}
        self.bags: dict[str, list[int]] = {}
        for bag, image in zip(table.get("bag", ()), table.get("image", ()), strict=False):
            if image in self.row:
                self.bags.setdefault(bag, []).append(self.row[image])

    def of_image(self, name: str) -> list[int]:
        return [self.row[name]] if name in self.row else []

    def of_bag(self, name: str) -> list[tuple[str, list[int]]]:
        """Return the images of a bag by cluster, the most frequent first."""
        groups: dict[int, list[int]] = {}
        for row in self.bags.get(name, ()):
            groups.setdefault(int(self.assignments.clusters[row]), []).append(row)
        names = self.assignments.cluster_names
        order = sorted(groups, key=lambda cluster: (-len(groups[cluster]), cluster))
        return [(f"{cluster_title(names[k])}: {len(groups[k])}", sorted(groups[k])) for k in order]


def _section(kind: Kind, path: Path, pictures: _Pictures) -> Section:
    columns = read_csv(path)
    try:
        agrees, wrong = _numbers(columns["agrees"]) > 0, _numbers(columns["wrong_probability"])
        worst = np.flatnonzero(~agrees)[:_SHOWN]
        pieces = [_piece(kind, columns, int(i), pictures) for i in worst]
        agreement = kind.agreement(columns) if len(agrees) else None
        how = kind.fit_in_words(columns)
    except (KeyError, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a table of evidence ({error}).") from None
    n_wrong = int((wrong > _LIKELY).sum())
    return Section(
        name=kind.words.title,
        total=thousands(len(agrees)),
        agrees=f"{thousands(agrees.sum())} ({percent(agrees.mean())})" if len(agrees) else "–",
        probability=how,
        wrong=thousands(n_wrong),
        rate=percent(wrong.mean()) if len(wrong) else "–",
        verdict=_verdict(kind.words, n_wrong, int((~agrees).sum())),
        pieces=pieces,
        figure=None if agreement is None else _figure(agreement),
        figure_note="" if agreement is None else agreement.note,
    )


def _numbers(texts: Sequence[str]) -> np.ndarray:
    return np.array([float(text) for text in texts])


def _verdict(words: Words, n_wrong: int, n_contradicting: int) -> str:
    """Return a sentence on the pieces that contradict the model.

    >>> words = Words(one="bag most likely holds a wrong count", many="bags most likely hold wrong counts")
    >>> _verdict(words, 7, 9)
    'The first 7 bags most likely hold wrong counts; of the others the model is less sure.'
    >>> _verdict(words, 7, 7)
    'These 7 bags most likely hold wrong counts, the clearest first.'
    """
    one, many = words.one, words.many
    if n_contradicting == 0:
        return "None contradicts the model."
    if n_wrong == 0:
        return f"The model finds something else likelier for {thousands(n_contradicting)}, but none is clearly wrong."
    if n_wrong == 1:
        return f"This {one}." if n_contradicting == 1 else f"The first {one}; of the others the model is less sure."
    if n_wrong < min(n_contradicting, _SHOWN):
        return f"The first {thousands(n_wrong)} {many}; of the others the model is less sure."
    order = f"the {_SHOWN} clearest are shown" if n_wrong > _SHOWN else "the clearest first"
    return f"These {thousands(n_wrong)} {many}, {order}."


def _piece(kind: Kind, columns: Columns, i: int, pictures: _Pictures) -> Piece:
    said, wrong = kind.row_in_words(columns, i), float(columns["wrong_probability"][i])
    if not said.bag:
        return Piece("", said.given, said.seen, wrong, [(name, pictures.of_image(name)) for name in said.images])
    groups = pictures.of_bag(said.bag)
    more = int(columns["size"][i]) - sum(len(rows) for _, rows in groups)
    return Piece(said.bag, said.given, said.seen, wrong, groups, max(more, 0))


def _figure(agreement: Agreement) -> Markup:
    names = agreement.names
    n = len(names)
    counts = np.bincount(agreement.given * n + agreement.seen, minlength=n * n).reshape(n, n)
    return figures.heat_map(
        counts, np.eye(n, dtype=bool), rows=names, columns=names, label=agreement.note, words=("given", "predicted")
    )
