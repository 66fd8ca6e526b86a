"""The kinds of image issues, and their table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

KINDS: dict[str, str] = {
    "duplicate": "the same pixels as another image",
    "near_duplicate": "another image slightly changed: recompressed, resized, darkened or moved a little",
    "look_alike": "an embedding next to another image's",
    "outlier": "much farther from the images nearest to it than these are from theirs",
    "odd_size": "more than twice, or less than half, the usual size or the usual proportion of its sides",
    "blurred": "much less sharp than the others",
    "dark": "next to no light in it",
    "bright": "next to nothing but white in it",
    "low_contrast": "next to nothing to see in it",
}
"""Kind of issue → what it means, in the order in which they are listed."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Issue:
    """One issue of one image.

    row: the image. kind: a name in `KINDS`.
    score: duplicates 1; near duplicates the correlation, and look-alikes the cosine, with their closest other; outliers
        the local outlier factor; odd sizes the factor, at least 1; blurred images the sharpness; dark and bright
        ones the brightness, flat ones the range of brightness, in [0, 1].
    group: images with one number are copies of each other; None for the other kinds.
    """

    row: int
    kind: str
    score: float
    group: int | None = None


def issue_columns(issues: Sequence[Issue], ids: Sequence[str], splits: Sequence[str]) -> dict[str, list[object]]:
    """Return the columns image, split, kind, score and group of a table; ids and splits of all images, (n,)."""
    return {
        "image": [str(ids[issue.row]) for issue in issues],
        "split": [splits[issue.row] for issue in issues],
        "kind": [issue.kind for issue in issues],
        "score": [f"{issue.score:.4g}" for issue in issues],
        "group": ["" if issue.group is None else issue.group for issue in issues],
    }


def named_progress(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Return a function of (done, total) that reports how far `what` is; None without a callback."""
    return None if progress is None else lambda done, total: progress(what, done, total)
