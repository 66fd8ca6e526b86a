"""`smidgen report`: write a run's report again, or a page that compares several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from smidgen.cli.console import printable, progress
from smidgen.cli.files import require_new_file
from smidgen.cli.parsing import text
from smidgen.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", metavar="RUN", nargs="+", type=text, help="run folders")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=text,
        help="the page that compares several runs (default: comparison.html beside the first run)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the comparison if it exists")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Write the pages and print their paths."""
    from smidgen.run_folder import RunFolder

    out = Path(args.out) if args.out else Path(args.runs[0]).parent / "comparison.html"
    if len(args.runs) == 1 and args.out:
        raise InputError("`--out` is for the comparison of several runs; the page of one is report.html in its folder.")
    if len(args.runs) > 1:
        require_new_file(out, overwrite=args.overwrite)
    for folder in args.runs:
        RunFolder.open(folder)
    from smidgen.reports.page import compare_page, write_page

    pages = []
    with progress(quiet=args.quiet) as console:
        for done, folder in enumerate(args.runs, start=1):
            console.update("report", done - 1, len(args.runs))
            pages.append(write_page(folder))
        if len(args.runs) > 1:
            pages.append(compare_page(args.runs, out))
    if not args.quiet:
        print("\n".join(printable(str(page)) for page in pages))
    return 0
