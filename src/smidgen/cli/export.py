"""`smidgen export`: the clusters of a run as files for other programs."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from smidgen.cli.console import printable, progress
from smidgen.cli.data import SPLITS
from smidgen.cli.parsing import one_of, text

FORMATS: dict[str, tuple[str, str]] = {
    "csv": ("smidgen.cli.export_csv", "a table with a row for each image"),
    "parquet": ("smidgen.cli.export_parquet", "one table with embeddings and a 2-D map, for FiftyOne and the like"),
    "onnx": ("smidgen.cli.export_onnx", "the trained model for other runtimes; needs `pip install 'smidgen[onnx]'`"),
    "folders": ("smidgen.cli.export_folders", "a folder for each cluster with its images in it"),
}
"""Name → (module with `export(run, args, console) -> str`, one line)."""


COLUMNS = "image,split,cluster,confidence"
LAYOUTS = ("auto", "tsne", "umap", "pca")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    formats = "; ".join(f"{name}: {line}" for name, (_, line) in FORMATS.items())
    parser.add_argument("run", metavar="RUN", type=text, help="the run folder")
    parser.add_argument("--to", metavar="FORMAT", required=True, type=one_of("format", FORMATS), help=formats)
    parser.add_argument(
        "--out", metavar="PATH", required=True, type=text, help="the file to write, or a folder that is empty or new"
    )
    parser.add_argument(
        "--split", metavar="NAME", default="all", type=one_of("split", SPLITS), help="train, test or all (default: all)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--data", metavar="DATA", type=text, help="where the images are now, if they have moved")
    table = parser.add_argument_group("csv")
    table.add_argument(
        "--columns", metavar="A,B", default=COLUMNS, type=text, help=f"which columns (default: {COLUMNS})"
    )
    parquet = parser.add_argument_group("parquet")
    parquet.add_argument(
        "--layout",
        metavar="NAME",
        default="auto",
        type=one_of("layout", LAYOUTS),
        help="how x and y are drawn: tsne, umap (needs `pip install 'smidgen[map]'`) or pca (default: tsne up to 2,000"
        " images, beyond that umap if it is installed, else pca)",
    )
    folders = parser.add_argument_group("folders")
    how = folders.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the original files (the default)")
    how.add_argument("--link", action="store_true", help="make symbolic links to the original files")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Export, and say where it is."""
    from smidgen.files import lies_inside
    from smidgen.run_folder import RunFolder

    folder = RunFolder.open(args.run)
    module = importlib.import_module(FORMATS[args.to][0])
    with progress(quiet=args.quiet) as console:
        for data in (args.data or folder.place_of("data"), folder.place_of("test")):
            if lies_inside(args.out, data):
                console.say(f"{args.out!r} lies inside the images' folder {data!r}, whose images it may be taken for.")
        done = module.export(folder, args, console)
    if not args.quiet:
        print(printable(f"{done}: {Path(args.out)}"))
    return 0
