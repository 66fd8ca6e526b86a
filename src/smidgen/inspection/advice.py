"""Conclusions from an inspection: why `fit` would refuse a collection, and what to know beforehand."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from smidgen.data.opened import allowing, too_many_bad

if TYPE_CHECKING:
    from smidgen.inspection.collection import Inspection

_FEW_PER_CLUSTER = 20


def refusals(found: Inspection, *, n_clusters: int, allow_bad: float) -> list[str]:
    """Return why `fit` would refuse the images, as sentences."""
    n_train, sentences = _n_train(found), []
    good, bad = Counter(found.splits), Counter(skipped.split or "" for skipped in found.dataset.skipped)
    for split in ("", "train", "test"):
        total = good[split] + bad[split]
        if too_many_bad(bad[split], total=total, allow_bad=allow_bad):
            enough = allowing(bad[split], total=total)
            sentences.append(
                f"{bad[split]:,} of {total:,} {split and f'{split} '}images cannot be read: repair or remove"
                f" them{enough and f', or pass `allow_bad={enough}`'}."
            )
    if n_train == 0 and found.splits:
        sentences.append("There is no 'train' split, only 'test': to train on it, give it alone or rename it.")
    elif n_train < n_clusters:
        sentences.append(
            f"{n_train:,} images cannot make {n_clusters} clusters: add images or pass `n_clusters={max(n_train, 1)}`."
        )
    return sentences


def advice(found: Inspection, *, n_clusters: int) -> list[str]:
    """Return advice, as sentences."""
    return [
        *found.dataset.doubts,
        *_about_size(found, n_clusters),
        *_about_copies(found),
        *_about_classes(found),
        *_about_scaling(found),
    ]


def _about_size(found: Inspection, n_clusters: int) -> list[str]:
    n_train = _n_train(found)
    if not n_clusters <= n_train < _FEW_PER_CLUSTER * n_clusters:
        return []
    return [
        f"{n_train:,} images are few for {n_clusters} clusters ({n_train / n_clusters:.0f} each):"
        " expect rough ones, or pass a smaller `n_clusters`."
    ]


def _about_copies(found: Inspection) -> list[str]:
    sentences = []
    if spare := sum(len(rows) - 1 for rows in found.copies):
        first, second = (str(found.dataset.ids[row]) for row in found.copies[0][:2])
        sentences.append(f"{spare:,} images are exact copies of others, for example {first!r} and {second!r}.")
    if leaks := sum({"train", "test"} <= {found.splits[row] for row in rows} for rows in found.copies):
        sentences.append(f"{leaks:,} images are in both train and test: test scores will be optimistic.")
    if near := _near_leaks(found):
        sentences.append(f"{near:,} test images are near copies of training images: test scores will be optimistic.")
    return sentences


def _near_leaks(found: Inspection) -> int:
    """Return how many test images are in one group with a training image without being the same bytes as any."""
    copies = [*found.issues.get("duplicate", []), *found.issues.get("near_duplicate", [])]
    trained = {issue.group for issue in copies if found.splits[issue.row] == "train"}
    same = {row for rows in found.copies if any(found.splits[row] == "train" for row in rows) for row in rows}
    return sum(found.splits[i.row] == "test" and i.group in trained and i.row not in same for i in copies)


def _about_classes(found: Inspection) -> list[str]:
    classes = found.dataset.classes
    if classes is None:
        return []
    torn = sum(len({int(classes[row]) for row in rows}) > 1 for rows in found.copies)
    return [
        *([f"{torn:,} groups of exact copies are in several classes."] if torn else []),
        "Classes are used for scores only; no method uses them except a supervised one.",
    ]


def _about_scaling(found: Inspection) -> list[str]:
    side = found.dataset.images.shape[-1]
    width, height = max(found.sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    if max(width, height) <= 2 * side:
        return []
    return [f"Images of up to {width} × {height} are resized to {side} × {side}: `size` changes that."]


def _n_train(found: Inspection) -> int:
    return sum(split in ("", "train") for split in found.splits)
