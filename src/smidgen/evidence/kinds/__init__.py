"""The kinds of evidence: a line here and a file of its own for each, which says all that is particular to it."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.evidence.kind import Kind

KINDS: dict[str, str] = {
    "labels": "image,label",
    "partial": "image,label, a row for each class that an image may be of, of which one is right",
    "bags": "bag,image: sets of images that --counts, --proportions or --presence refer to",
    "counts": "bag,ucc or bag,ucc_min,ucc_max: how many different classes a bag holds",
    "proportions": "bag,label,share or bag,label,count",
    "presence": "bag,label,present (1 or 0)",
    "pairs": "image_a,image_b,same (1 or 0)",
}
"""Name of a kind and of its module → the columns of its table, in words. Bags carry no information by themselves."""

LEARNED = tuple(name for name in KINDS if name != "bags")
"""The kinds that say something, which methods may learn from."""


@cache
def kind_of(name: str) -> Kind:
    """Return the kind of a name; its module is imported now, since some commands need none of them."""
    found: Kind = importlib.import_module(f"{__name__}.{name}").KIND
    return found


def all_kinds() -> tuple[Kind, ...]:
    """Return all kinds in their order."""
    return tuple(map(kind_of, KINDS))
