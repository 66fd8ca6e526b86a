"""One thing to know about the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about the evidence.

    level: "problem" (statements contradict each other), "warning" (something stays undetermined), "note".
    text: what was found. remedy: what to add or change, "" where nothing needs to be.
    """

    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.text}" + (f" {self.remedy}" if self.remedy else "")


def number_of(n: int, one: str, many: str | None = None) -> str:
    """Return a number and what it counts.

    >>> number_of(1, "bag"), number_of(2000, "bag")
    ('1 bag', '2,000 bags')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
