"""smidgen labels image collections from a smidgen of supervision."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.config import Config
    from smidgen.data.datasets import open_dataset
    from smidgen.estimator import ImageClusterer
    from smidgen.evidence.evidence import Evidence
    from smidgen.fitting import fit
    from smidgen.inspection.collection import inspect_collection
    from smidgen.inspection.number import count_clusters

__version__ = "0.1.0"

__all__ = ["Config", "Evidence", "ImageClusterer", "count_clusters", "fit", "inspect_collection", "open_dataset"]

_HOMES = {
    "Config": "config",
    "Evidence": "evidence.evidence",
    "ImageClusterer": "estimator",
    "count_clusters": "inspection.number",
    "fit": "fitting",
    "inspect_collection": "inspection.collection",
    "open_dataset": "data.datasets",
}


def __getattr__(name: str) -> Any:
    # Nothing is imported before it is asked for: torch alone takes seconds, and the command line must answer at once.
    if name not in _HOMES:
        raise AttributeError(f"module 'smidgen' has no attribute {name!r}")
    member = globals()[name] = getattr(importlib.import_module(f"smidgen.{_HOMES[name]}"), name)
    return member


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
