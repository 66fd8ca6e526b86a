"""What a report says about evidence: how the final assignments explain each kind, and the pieces that contradict most.

Everything comes from the run's `tables/evidence_*.csv`, which `outputs.write_explained` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.reports import figures
from smidgen.reports.names import cluster_title
from smidgen.reports.tables import Assignments, natural_key, percent, thousands

_SHOWN = 10  # pieces of each kind that are shown
_LIKELY = 0.5  # probability above which a piece is called wrong
_LARGEST_FIGURE = 24  # counts of a figure

Columns = Mapping[str, Sequence[str]]


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
class Kind:
    """One kind of evidence: its name, how well it is explained in short texts, a sentence, and the worst pieces."""

    name: str
    total: str
    agrees: str
    probability: str
    wrong: str
    verdict: str
    pieces: Sequence[Piece]
    figure: Markup | None = None
    figure_note: str = ""


def read_evidence(run_folder: Path | str, assignments: Assignments) -> list[Kind]:
    """Return what a run knew and how it is explained, empty where it knew nothing; RunError for a damaged table."""
    folder = Path(run_folder) / "tables"
    found = {kind: folder / f"evidence_{kind}.csv" for kind in _MAKERS}
    found = {kind: path for kind, path in found.items() if path.is_file()}
    if not found:
        return []
    pictures = _Pictures(folder / "evidence_images.csv", assignments)
    return [_kind(kind, path, pictures) for kind, path in found.items()]


def evidence_rows(kinds: Sequence[Kind]) -> np.ndarray:
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


def _kind(kind: str, path: Path, pictures: _Pictures) -> Kind:
    columns = read_csv(path)
    try:
        agrees, wrong = _numbers(columns["agrees"]) > 0, _numbers(columns["wrong_probability"])
        worst = np.flatnonzero(~agrees)[:_SHOWN]
        pieces = [_MAKERS[kind](columns, int(i), pictures) for i in worst]
        figure, note = _FIGURES[kind](columns) if kind in _FIGURES and len(agrees) else (None, "")
        if kind == "proportions":
            how = f"shares off by {percent(_mean(columns['error']))}"
        else:
            how = f"{_mean(columns['probability']):.3f}"
    except (KeyError, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a table of evidence ({error}).") from None
    n_wrong = int((wrong > _LIKELY).sum())
    return Kind(
        name=_NAMES[kind][0],
        total=thousands(len(agrees)),
        agrees=f"{thousands(agrees.sum())} ({percent(agrees.mean())})" if len(agrees) else "–",
        probability=how,
        wrong=thousands(n_wrong),
        verdict=_verdict(kind, n_wrong, int((~agrees).sum())),
        pieces=pieces,
        figure=figure,
        figure_note=note,
    )


def _numbers(texts: Sequence[str]) -> np.ndarray:
    return np.array([float(text) for text in texts])


def _mean(texts: Sequence[str]) -> float:
    return float(_numbers(texts).mean()) if texts else 0.0


_NAMES = {
    "labels": ("Labels", "label is most likely wrong", "labels are most likely wrong"),
    "counts": ("Unique counts of bags", "bag most likely holds a wrong count", "bags most likely hold wrong counts"),
    "proportions": ("Shares in bags", "bag most likely holds wrong shares", "bags most likely hold wrong shares"),
    "presence": ("Classes present in bags", "statement is most likely wrong", "statements are most likely wrong"),
    "pairs": ("Pairs", "pair is most likely wrong", "pairs are most likely wrong"),
}  # fmt: skip


def _verdict(kind: str, n_wrong: int, n_contradicting: int) -> str:
    """Return a sentence on the pieces that contradict the model.

    >>> _verdict("counts", 7, 9)
    'The first 7 bags most likely hold wrong counts; of the others the model is less sure.'
    >>> _verdict("counts", 7, 7)
    'These 7 bags most likely hold wrong counts, the clearest first.'
    """
    _, one, many = _NAMES[kind]
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


# ---------------------------------------------------------------------------------------------------------- the pieces


def _label(columns: Columns, i: int, pictures: _Pictures) -> Piece:
    image = columns["image"][i]
    given, seen = columns["label"][i], columns["predicted"][i]
    return Piece("", given, seen, _wrong(columns, i), [(image, pictures.of_image(image))])


def _pair(columns: Columns, i: int, pictures: _Pictures) -> Piece:
    given, seen = (_words(columns[name][i], "same", "different") for name in ("same", "predicted"))
    ends = [columns[name][i] for name in ("image_a", "image_b")]
    return Piece("", given, seen, _wrong(columns, i), [(name, pictures.of_image(name)) for name in ends])


def _count(columns: Columns, i: int, pictures: _Pictures) -> Piece:
    if "ucc" in columns:
        given = columns["ucc"][i]
    else:
        ends = columns["ucc_min"][i], columns["ucc_max"][i]
        given = ends[0] if ends[0] == ends[1] else " to ".join(ends)
    return _of_bag(columns, i, pictures, given, columns["predicted"][i])


def _presence(columns: Columns, i: int, pictures: _Pictures) -> Piece:
    label = columns["label"][i]
    given, seen = (_words(columns[name][i], f"holds {label}", f"no {label}") for name in ("present", "predicted"))
    return _of_bag(columns, i, pictures, given, seen)


def _proportion(columns: Columns, i: int, pictures: _Pictures) -> Piece:
    given, seen = (_largest_shares(columns, i, f"{name}(") for name in ("given", "predicted"))
    return _of_bag(columns, i, pictures, given, seen)


def _of_bag(columns: Columns, i: int, pictures: _Pictures, given: str, seen: str) -> Piece:
    groups = pictures.of_bag(columns["bag"][i])
    more = int(columns["size"][i]) - sum(len(rows) for _, rows in groups)
    return Piece(columns["bag"][i], given, seen, _wrong(columns, i), groups, max(more, 0))


def _wrong(columns: Columns, i: int) -> float:
    return float(columns["wrong_probability"][i])


def _words(cell: str, yes: str, no: str) -> str:
    return yes if float(cell) > 0 else no


def _largest_shares(columns: Columns, i: int, start: str, *, most: int = 4) -> str:
    """Return the largest shares in words: "cat: 50 %, dog: 25 %, …"."""
    shares = {name[len(start) : -1]: float(values[i]) for name, values in columns.items() if name.startswith(start)}
    held = [name for name in shares if shares[name] >= 0.005]
    order = sorted(held, key=lambda name: (-shares[name], natural_key(name)))
    words = [f"{name}: {percent(shares[name], 0)}" for name in order[:most]]
    return ", ".join(words + (["…"] if len(order) > most else [])) or "none of the classes"


_MAKERS: dict[str, Callable[[Columns, int, _Pictures], Piece]] = {
    "labels": _label, "counts": _count, "proportions": _proportion, "presence": _presence, "pairs": _pair,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the figures


def _count_figure(columns: Columns) -> tuple[Markup | None, str]:
    """Return how often which count was given and predicted, of the bags whose count is known exactly."""
    least = columns["ucc" if "ucc" in columns else "ucc_min"]
    largest = columns["ucc" if "ucc" in columns else "ucc_max"]
    known = np.array([a == b for a, b in zip(least, largest, strict=True)])
    given, seen = _numbers(least)[known].astype(int), _numbers(columns["predicted"])[known].astype(int)
    top = max(given.max(initial=0), seen.max(initial=0))
    if not 1 < top <= _LARGEST_FIGURE:
        return None, ""
    note = "Bags by the count given (rows) and the one that the model finds most likely (columns)."
    return _agreement(given - 1, seen - 1, [str(u) for u in range(1, top + 1)], note), note


def _share_figure(columns: Columns) -> tuple[Markup | None, str]:
    """Return how often a share given in tenths is predicted as which."""
    names = [name[len("given(") : -1] for name in columns if name.startswith("given(")]
    given, seen = (np.concatenate([_numbers(columns[f"{start}({name})"]) for name in names])
                   for start in ("given", "predicted"))  # fmt: skip
    tenths = [f"{10 * i}%" for i in range(11)]
    note = "Shares given (rows) and predicted (columns), to the nearest tenth, of all classes in all bags."
    rows, places = (np.clip(np.rint(10 * values), 0, 10).astype(int) for values in (given, seen))
    return _agreement(rows, places, tenths, note), note


def _agreement(given: np.ndarray, seen: np.ndarray, names: Sequence[str], label: str) -> Markup:
    n = len(names)
    counts = np.bincount(given * n + seen, minlength=n * n).reshape(n, n)
    return figures.heat_map(
        counts, np.eye(n, dtype=bool), rows=names, columns=names, label=label, words=("given", "predicted")
    )


_FIGURES: dict[str, Callable[[Columns], tuple[Markup | None, str]]] = {
    "counts": _count_figure, "proportions": _share_figure,
}  # fmt: skip
