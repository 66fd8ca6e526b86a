"""Tables as GitHub writes them."""

from __future__ import annotations

from collections.abc import Sequence

from smidgen.reports.names import visible


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of texts, the header first, as a table; whatever a name holds, it stays one row of as many cells.

    >>> print(markdown_table([["method", "10"], ["a|b", ".9"]]), end="")
    | method | 10 |
    | --- | --- |
    | a\\|b | .9 |
    """
    header, *body = rows
    lines = [header, ["---"] * len(header), *([_escaped(cell) for cell in row] for row in body)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(text: str) -> str:
    r"""Return a text that Markdown takes as it is.

    >>> print(_escaped("a|b *c* <d>"))
    a\|b \*c\* \<d>
    """
    return "".join(f"\\{c}" if c in r"\`*<[|" else c for c in visible(text))
