"""`smidgen export`: the clusters of a run as files for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.console import printable, progress
from smidgen.cli.data import SPLITS
from smidgen.cli.files import require_new_file, require_new_folder
from smidgen.cli.listener import ConsoleListener
from smidgen.cli.parsing import one_of, text

if TYPE_CHECKING:
    from smidgen.run_folder import RunFolder

FORMATS = {
    "csv": "a table with a row for each image",
    "parquet": "one table with embeddings and a 2-D map, for FiftyOne and the like",
    "onnx": "the trained model for other runtimes; needs `pip install 'smidgen[onnx]'`",
    "folders": "a folder for each cluster with its images in it",
}
COLUMNS = "image,split,cluster,confidence"
LAYOUTS = ("auto", "tsne", "umap", "pca")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    formats = "; ".join(f"{name}: {line}" for name, line in FORMATS.items())
    parser.add_argument("run", metavar="RUN", type=text, help="the run folder")
    parser.add_argument("--to", metavar="FORMAT", required=True, type=one_of("format", FORMATS), help=formats)
    parser.add_argument(
        "--out", metavar="PATH", required=True, type=text, help="the file to write, or a folder that is empty or new"
    )
    parser.add_argument(
        "--split", metavar="NAME", default="all", type=one_of("split", SPLITS), help="train, test or all (default: all)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.add_argument("--data", metavar="DATA", type=text, help="current location of the images, if they have moved")
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
        help="method for x and y: tsne, umap (needs `pip install 'smidgen[map]'`) or pca (default: tsne up to 2,000"
        " images, beyond that umap if it is installed, else pca)",
    )
    folders = parser.add_argument_group("folders")
    how = folders.add_mutually_exclusive_group()
    how.add_argument("--copy", action="store_true", help="copy the original files (the default)")
    how.add_argument("--link", action="store_true", help="make symbolic links to the original files")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Export, and print where."""
    from smidgen.files import lies_inside
    from smidgen.run_folder import RunFolder

    folder, out = RunFolder.open(args.run), Path(args.out)
    with progress(quiet=args.quiet) as console:
        for data in (args.data or folder.place_of("data"), folder.place_of("test")):
            if lies_inside(out, data):
                console.log(f"{args.out!r} lies inside the images' folder {data!r}, whose images it may be taken for.")
        if args.to == "folders":
            require_new_folder(out)
        else:
            require_new_file(out, overwrite=args.overwrite)
        done = _export(folder, out, args, ConsoleListener(console))
    if not args.quiet:
        print(printable(f"{done}: {out}"))
    return 0


def _export(run: RunFolder, out: Path, args: argparse.Namespace, listener: ConsoleListener) -> str:
    """Write what `--to` names, and return what it is in words."""
    if args.to == "csv":
        from smidgen.exports.csv_file import export_csv

        wanted = [name.strip() for name in args.columns.split(",") if name.strip()]
        return export_csv(run, out, columns=wanted, split=args.split)
    if args.to == "onnx":
        from smidgen.exports.onnx_file import export_onnx

        return export_onnx(run, out, listener=listener)
    if args.to == "folders":
        from smidgen.exports.folders import export_folders

        return export_folders(run, out, split=args.split, data=args.data, link=args.link, listener=listener)
    from smidgen.exports.parquet_file import export_parquet

    return export_parquet(run, out, split=args.split, data=args.data, layout=args.layout, listener=listener)
