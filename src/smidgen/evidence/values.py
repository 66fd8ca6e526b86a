"""Evidence as Python values: read with a sentence that says which value is not what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from smidgen.data.cells import ImageKey, image_key, is_missing, shown
from smidgen.data.names import class_name
from smidgen.errors import InputError


def value_of(read: Callable[[Any], Any], value: Any, what: str) -> Any:
    """Return a value as `read` has it; raises InputError that begins with what it is."""
    try:
        return read(value)
    except ValueError as error:
        raise InputError(f"{what} {error}, got {shown(value)}.") from None


def image_keys(images: Iterable[Any], what: str) -> list[ImageKey]:
    """Return what names some images; raises InputError."""
    if isinstance(images, str) or not isinstance(images, Iterable):
        raise InputError(f"{what}: a list of images is wanted, got {shown(images)}.")
    return [value_of(image_key, image, f"{what}: an image") for image in images]


def about_classes(
    table: str, bag: str, values: Any, read: Callable[[Any], Any], *, may_be_missing: bool = False
) -> Iterator[tuple[str, str, Any]]:
    """Yield (bag, class, value) of what is known of classes in a bag, {class: value} or None; raises InputError.

    may_be_missing: whether a value may be None, NaN or the like, and says nothing then.
    """
    place = f"{table.replace('_', ' ').capitalize()} of bag {bag!r}"
    if values is not None and not isinstance(values, Mapping):
        raise InputError(f"{place} must be {{class: value}}, got a {type(values).__name__}.")
    for label, value in (values or {}).items():
        name = value_of(class_name, label, f"{place}: a class")
        if name is None:
            raise InputError(f"{place}: {label!r} does not name a class.")
        if not (may_be_missing and is_missing(value)):
            yield bag, name, value_of(read, value, f"{place}: the value of {name!r}")
