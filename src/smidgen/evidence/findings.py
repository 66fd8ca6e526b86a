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
