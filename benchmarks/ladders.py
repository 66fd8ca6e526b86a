"""One plot of several ladders: what nothing, counts, proportions and labels are worth on different collections.

Usage: smidgen ladder DATA --out runs/ladder-NAME for each collection, then
       python benchmarks/ladders.py NAME=runs/ladder-NAME … > docs/ladder.svg
Prints the plot as SVG, and the table as Markdown on stderr.
"""

import sys
from pathlib import Path

from smidgen.csv_tables import read_csv
from smidgen.reports.level_chart import level_chart, standalone
from smidgen.reports.markdown import markdown_table

OF_BAGS = ("nothing", "counts", "proportions")


def ladder(folder: str) -> dict[str, float]:
    """Return level → accuracy of the first method and seed of a ladder."""
    table = read_csv(Path(folder) / "sweep.csv")
    accuracy = next(name for name in table if name.endswith("_accuracy"))
    return {level: float(value) for level, value in reversed(list(zip(table["level"], table[accuracy], strict=True)))}


def main(given: list[str]) -> None:
    found = {name: ladder(folder) for name, _, folder in (text.partition("=") for text in given)}
    levels = list(reversed(next(iter(found.values()))))
    kinds = [level if level in OF_BAGS else "labels" for level in levels]
    series = {
        name: [(place, values[level], 0.0) for place, level in enumerate(levels)] for name, values in found.items()
    }
    print(standalone(level_chart(series, levels, axis="what is known", label="Test accuracy", kinds=kinds)))
    rows = [[name, *(f"{values[level]:.3f}".lstrip("0") for level in levels)] for name, values in found.items()]
    print(markdown_table([["", *levels], *rows]), file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
