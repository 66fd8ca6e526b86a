"""The command `smidgen`: dispatches to a subcommand and turns errors into one sentence and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence

from smidgen import __version__
from smidgen.cli.console import report_error
from smidgen.cli.parsing import Parser
from smidgen.errors import SmidgenError, unknown
from smidgen.training.interrupts import Interrupted

VERBS: dict[str, tuple[str, str]] = {
    "fit": ("smidgen.cli.fit", "cluster a collection of images and write a run folder with its report"),
    "run": ("smidgen.cli.run", "run a recipe: the same fit with several seeds, and their mean and spread"),
    "sweep": ("smidgen.cli.sweep", "compare methods over amounts of labels: one table, one plot"),
    "ladder": ("smidgen.cli.ladder", "show what each kind of evidence is worth: counts, proportions, labels"),
    "predict": ("smidgen.cli.predict", "assign new images to the clusters of a run"),
    "eval": ("smidgen.cli.eval", "score a run against known classes, its own images or new ones"),
    "report": ("smidgen.cli.report", "rebuild a run's report, and compare several runs"),
    "simulate": ("smidgen.cli.simulate", "make evidence files from images of known classes, to try methods with"),
    "list": ("smidgen.cli.list", "list the methods and their options, the datasets, the encoders"),
    "clusters": ("smidgen.cli.clusters", "find how many clusters a collection has, as a scored curve"),
    "check": ("smidgen.cli.check", "inspect a collection of images before fitting"),
    "export": ("smidgen.cli.export", "export a run as a table, as folders of images, or its model as ONNX"),
}
"""Name → (module, one line). A module has `add_arguments(parser)` and `run(args)`; only the verb's own is imported."""

USAGE_ERROR = 2
_BROKEN_PIPE = 128 + signal.SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `argv` without the program's name, by default the process's own.

    0: done. 2: something was refused, in one sentence on stderr. 130, 143: stopped by Ctrl-C, SIGTERM. Errors that
    nobody expected keep their traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(argv)
        sys.stdout.flush()  # here, where a full disk or a closed pipe still becomes a sentence
        return code
    except Interrupted as stop:
        report_error("Interrupted.")
        return 128 + stop.signal
    except KeyboardInterrupt:
        report_error("Interrupted.")
        return 128 + signal.SIGINT
    except SmidgenError as error:
        report_error(str(error))
    except BrokenPipeError:
        return _BROKEN_PIPE
    except OSError as error:
        report_error(_about(error))
    except MemoryError as error:
        report_error(f"Memory ran out ({error or 'no more to be had'}): try a smaller `--size` or fewer images.")
    return USAGE_ERROR


def _about(error: OSError) -> str:
    if error.strerror is None:  # numpy's: "115008 requested and 5088 written"
        return f"Writing failed ({error}): is the disk full?"
    where = repr(error.filename) if error.filename is not None else "standard output"  # files of ours are named
    return f"{error.strerror}: {where}."


def _dispatch(argv: list[str]) -> int:
    try:
        return _run_verb(argv)
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)


def _run_verb(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        top = _top_parser()
        top.parse(argv)
        top.print_help()
        return 0 if not argv else USAGE_ERROR
    if argv[0] not in VERBS:
        raise unknown("verb", argv[0], VERBS)
    module_name, line = VERBS[argv[0]]
    verb = importlib.import_module(module_name)
    parser = Parser(prog=f"smidgen {argv[0]}", description=f"{line[0].upper()}{line[1:]}.")
    verb.add_arguments(parser)
    args = parser.parse(argv[1:])
    args.argv = argv
    return int(verb.run(args))


def _top_parser() -> Parser:
    verbs = "\n".join(f"  {name:<9}{line}" for name, (_, line) in VERBS.items())
    parser = Parser(
        prog="smidgen",
        usage="smidgen VERB …",
        description="smidgen labels image collections from a smidgen of supervision.",
        epilog=f"verbs:\n{verbs}\n\n`smidgen VERB --help` explains one; `smidgen fit digits` is a first try that"
        " needs nothing.",
    )
    parser.add_argument("--version", action="version", version=f"smidgen {__version__}")
    return parser


def run() -> None:
    """Run the process's own command and exit: the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end a run
    code = main()
    try:
        sys.stdout.flush()
    except OSError:  # said already: what is left goes nowhere, so that Python's own flush at exit does not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
