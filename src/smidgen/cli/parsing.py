"""Argument parsing: a parser with one-sentence errors, and the value types of options."""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NoReturn

from smidgen.errors import InputError, unknown


class Parser(argparse.ArgumentParser):
    """An argument parser that raises InputError, with the nearest known option, where argparse prints its usage."""

    def __init__(self, *, prog: str, description: str, usage: str | None = None, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            usage=usage,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the parsed arguments; raises InputError for what they do not allow."""
        args, extra = self.parse_known_intermixed_args(argv)  # several paths may stand on both sides of an option
        for given in extra:
            if given.startswith("-") and given != "-":
                raise unknown("option", given.partition("=")[0], self._option_names())
        if extra and re.match(r"[a-z_]+=", extra[0]):
            raise InputError(f"{extra[0]!r} stands alone: write `--set` before every option, `--set {extra[0]}`.")
        if extra:
            raise InputError(
                f"{extra[0]!r} is one argument too many: `{self.prog} --help` shows what is wanted"
                " (names with spaces, and globs, need quotes)."
            )
        return args

    def _option_names(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings if name.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """Raise argparse's complaint as InputError."""
        raise InputError(_as_sentence(message, self.prog))


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def _as_sentence(message: str, prog: str) -> str:
    """Rewrite one of argparse's messages as a sentence in smidgen's style.

    >>> _as_sentence("the following arguments are required: DATA, RUN", "smidgen predict")
    'DATA and RUN are missing: `smidgen predict --help` shows what is wanted.'
    >>> _as_sentence("argument --steps: expected one argument", "smidgen fit")
    '`--steps` expected one argument: `smidgen fit --help` shows what is wanted.'
    >>> _as_sentence("argument --seed: must be 0 or above, got '-1'", "smidgen fit")
    "`--seed` must be 0 or above, got '-1'."
    """
    remedy = f": `{prog} --help` shows what is wanted."
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = missing[1].split(", ")
        return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} missing{remedy}"
    if about := re.fullmatch(r"argument ([^:]+): (.*)", message, re.DOTALL):
        if about[2].startswith("Unknown "):
            return about[2]
        text = re.sub(r"not allowed with argument (\S+)", r"cannot be given together with `\1`", about[2])
        return f"`{about[1]}` {text}{'.' if 'got' in text else remedy}"
    return f"{message[:1].upper()}{message[1:]}{remedy}"


# ------------------------------------------------------------------------------------------ kinds of values: argparse
# keeps the message of ArgumentTypeError only, and puts the option's name before it.


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a converter to whole numbers from `least` to `most`."""

    def convert(text: str) -> int:
        wanted = f"{least} or above" if most is None else f"from {least} to {most}"
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not least <= int(text) <= (
            int(text) if most is None else most
        ):
            raise argparse.ArgumentTypeError(f"must be a whole number, {wanted}, got {text!r}")
        return int(text)

    return convert


def clusters(text: str) -> int | Literal["auto"]:
    """Return a number of clusters, or "auto".

    >>> clusters("auto"), clusters("12")
    ('auto', 12)
    """
    if text == "auto":
        return "auto"
    try:
        return whole_number(1)(text)
    except argparse.ArgumentTypeError as error:
        if re.fullmatch(r"-?[0-9.]+", text):
            raise error
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or above, or auto, got {text!r}") from None


def whole_range(least: int) -> Callable[[str], tuple[int, int]]:
    """Return a converter to ranges of whole numbers from `least`; a single number is a range of one.

    >>> whole_range(1)("2-4"), whole_range(1)("32")
    ((2, 4), (32, 32))
    """

    def convert(text: str) -> tuple[int, int]:
        ends = re.fullmatch(r"([0-9]{1,9})(?:[-–]([0-9]{1,9}))?", text.strip())
        if not ends or not least <= int(ends[1]) <= int(ends[2] or ends[1]):
            raise argparse.ArgumentTypeError(f"must be a number or a range like 1-4, {least} or above, got {text!r}")
        return int(ends[1]), int(ends[2] or ends[1])

    return convert


def share(text: str) -> float:
    """Return a share 0..1.

    >>> share("0.05")
    0.05
    """
    if not 0 <= (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be a share between 0 and 1, got {text!r}")
    return value


def value_range(text: str) -> str:
    """Return a range of values as it was given, once it is known to be one.

    >>> value_range("12-bit")
    '12-bit'
    """
    from smidgen.data.values import as_value_range

    try:
        as_value_range(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("`value_range` ").rstrip(".")) from None
    return text


def seconds(text: str) -> float:
    """Return a time in seconds, above 0.

    >>> seconds("90")
    90.0
    """
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return value


def _number(text: str) -> float:
    """Return a number, NaN for a text that is none: it lies in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def text(given: str) -> str:
    """Return a text that is not empty: an empty path would be the current folder."""
    if not given:
        raise argparse.ArgumentTypeError("must be a name or a path, got ''")
    return given


def name_list(given: str) -> list[str]:
    """Return names that commas separate; one with a comma in it stands in double quotes.

    >>> name_list('cat,"dog, small"')
    ['cat', 'dog, small']
    """
    found = [name.strip() for name in next(csv.reader([given], skipinitialspace=True), [])]
    if not found or not all(found):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, got {given!r}")
    return found


def as_name_list(names: Iterable[str]) -> str:
    """Return names as `name_list` reads them.

    >>> as_name_list(["cat", "dog, small"])
    'cat,"dog, small"'
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def one_of(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return a converter that admits some names and suggests the nearest for any other."""
    names = list(known)

    def convert(given: str) -> str:
        if given not in names:
            raise argparse.ArgumentTypeError(str(unknown(kind, given, names)))
        return given

    return convert


def setting(given: str) -> tuple[str, str]:
    """Return name and value of `name=value`.

    >>> setting("steps=20")
    ('steps', '20')
    """
    name, sign, value = given.partition("=")
    if not (name and sign):
        raise argparse.ArgumentTypeError(f"must be name=value, got {given!r}")
    return name.strip(), value.strip()
