"""Hardware options, shared by all commands that run a network."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from smidgen.cli.parsing import text, whole_number


def add_machine(parser: argparse._ActionsContainer) -> None:
    """Add `--device` and `--threads`."""
    parser.add_argument(
        "--device", metavar="NAME", type=text, default="auto", help="auto, cpu, cuda, … (default: auto)"
    )
    parser.add_argument("--threads", metavar="N", type=whole_number(1, 4096), help="CPU threads (default: all cores)")


@contextmanager
def machine(args: argparse.Namespace) -> Iterator[str]:
    """Yield the device that `--device` names, with as many threads as asked for; raises InputError if it is not there.

    Also where no net is going to run: an option that means nothing is refused, not passed over.
    """
    from smidgen.hardware import choose_device, torch_threads

    with torch_threads(args.threads):
        yield choose_device(args.device)
