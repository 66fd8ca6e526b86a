"""`smidgen fit`: fit images; writes a run folder with clusters, confidences and a report."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.cli.console import print_stderr, printable, progress
from smidgen.cli.data import add_data, add_reading, require_data
from smidgen.cli.evidence import add_evidence, add_min_confidence, evidence_paths
from smidgen.cli.machine import add_machine
from smidgen.cli.parsing import clusters, one_of, seconds, setting, text, whole_number
from smidgen.errors import InputError
from smidgen.methods import NAMES
from smidgen.training.interrupts import Interrupted

if TYPE_CHECKING:
    from smidgen.config import Config

PRECISIONS = ("auto", "float32", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    what = parser.add_argument_group("clusters and method")
    what.add_argument(
        "--clusters",
        metavar="N",
        type=clusters,
        help="number of clusters, or auto for the one that suits the images best (default: as many as there are classes"
        " in a named dataset, in --classes, or in the evidence; otherwise auto)",
    )
    what.add_argument(
        "--method",
        metavar="NAME",
        default="fusion",
        type=one_of("method", NAMES),
        help=f"{', '.join(NAMES)} (default: fusion, which picks one of its two methods to suit the data)",
    )
    what.add_argument(
        "--encoder",
        metavar="NAME",
        type=text,
        help="the network that computes embeddings, see `smidgen list encoders`; a pretrained one is frozen"
        " (default: lite2 for photographs, conv for small grey images)",
    )
    what.add_argument(
        "--fine-tune",
        action="store_true",
        help="train the pretrained encoder too; with fusion the images are first clustered with the encoder frozen, and"
        " fine-tuning is undone if it does not help",
    )
    what.add_argument("--weights", metavar="FILE", type=text, help="a state dict for the network named by --encoder")
    what.add_argument("--steps", metavar="N", type=whole_number(1), help="short for --set steps=N")
    what.add_argument(
        "--max-seconds",
        metavar="N",
        type=seconds,
        help="time limit of training; a run that it ends is not bit-for-bit reproducible",
    )
    what.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="settings",
        action="append",
        default=[],
        type=setting,
        help="an option of the method, see `smidgen list methods NAME`; may be repeated; with --fine-tune, frozen.NAME"
        " is one of the fit on the frozen encoder",
    )
    what.add_argument("--seed", metavar="N", type=whole_number(0), default=0, help="default: 0")
    what.add_argument("--test", metavar="DATA", type=text, help="images for evaluation only, not for training")
    what.add_argument(
        "--init-from",
        metavar="RUN",
        type=text,
        help="initialise from another run: its network, and whatever else fits",
    )
    add_evidence(parser)
    add_min_confidence(parser)
    add_reading(parser.add_argument_group("how images are read"))  # type: ignore[arg-type]
    _add_where(parser)
    _add_machine(parser)


def _add_where(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("output")
    where.add_argument("--out", metavar="RUN", type=text, help="the run folder (default: runs/DATA-METHOD)")
    where.add_argument("--resume", action="store_true", help="continue an interrupted run; the result is the same")
    where.add_argument("--overwrite", action="store_true", help="replace an existing run")
    where.add_argument(
        "--dry-run", action="store_true", help="open the images and print what would run; nothing is trained or written"
    )
    where.add_argument(
        "--no-issues", action="store_true", help="do not look for copies, outliers and poor images at the end"
    )
    where.add_argument("--json", action="store_true", help="print only one JSON object on stdout")
    where.add_argument("--quiet", action="store_true", help="print only errors and the output of --json")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    machine = parser.add_argument_group("hardware")
    add_machine(machine)
    machine.add_argument(
        "--precision",
        metavar="NAME",
        default="auto",
        type=one_of("precision", PRECISIONS),
        help="auto, float32 or bfloat16 (default: auto)",
    )


def run(args: argparse.Namespace) -> int:
    """Fit, and print a summary."""
    from smidgen.run_folder import RunFolder

    out = Path(args.out) if args.out else default_out(args.data, args.method)
    options = _options(args)
    if not args.dry_run:
        RunFolder.check(out, resume=args.resume, overwrite=args.overwrite)
    require_data(args.data, args.test)
    evidence = evidence_paths(args)
    with progress(quiet=args.quiet) as console:
        from smidgen.cli.listener import ConsoleListener
        from smidgen.fitting import fit
        from smidgen.setup.options import read_early
        from smidgen.setup.plan import plan_summary

        config = read_early(_config(args, options, evidence))  # may refuse, before anything is said
        if not args.out:
            console.log(f"The run goes to {str(out)!r} (`--out` changes it).")

        listener = ConsoleListener(console)
        if args.dry_run:
            shown = plan_summary(config, listener=listener)
            console.close()
            print_plan(shown, out, args)
            return 0
        try:
            outcome = fit(config, out=out, resume=args.resume, overwrite=args.overwrite, listener=listener)
        except Interrupted as stop:
            console.close()
            print_stderr(f"Stopped. {_how_to_go_on(args, out)}")
            return 128 + stop.signal
    if args.json:
        about = {
            "run": str(out),
            "report": str(out / "report.html"),
            "value_range": outcome.model.preprocessing.value_range.as_table(),
        }
        print(json.dumps(about | outcome.metrics, indent=2))
    elif not args.quiet:
        print("\n".join(map(printable, _summary(out, outcome.metrics))))
    return 0


def default_out(data: str, method: str) -> Path:
    """Return where a run goes that is given no place: always the same, so that `--resume` finds it.

    >>> default_out("photos/birds.zip", "fusion").as_posix()
    'runs/birds-fusion'
    """
    path = Path(data).expanduser()
    if has_magic(data) and not path.exists():
        from smidgen.data.datasets import find_data

        path = find_data(data)
    name = path.resolve().name if path.is_dir() else path.stem
    return Path("runs") / f"{name or 'images'}-{method}"


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the method's options from `--set` and its shorthands, each given once."""
    given = [*args.settings, *((n, getattr(args, n)) for n in ("steps",) if getattr(args, n) is not None)]
    names = [name for name, _ in given] + (["encoder"] if args.encoder is not None else [])
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError(f"The option {repeated[0]!r} is set more than once: give it one value.")
    return dict(given)


def _config(args: argparse.Namespace, options: dict[str, Any], evidence: dict[str, str]) -> Config:
    from smidgen.config import Config

    return Config(
        data=args.data,
        method=args.method,
        n_clusters=args.clusters,
        test=args.test,
        size=args.size,
        resize=args.resize,
        value_range=args.value_range,
        encoder=args.encoder,
        weights=args.weights,
        fine_tune=args.fine_tune,
        seed=args.seed,
        device=args.device,
        threads=args.threads,
        precision=args.precision,
        init_from=args.init_from,
        allow_bad=args.allow_bad,
        exclude=tuple(args.exclude),
        classes=tuple(args.classes),
        max_seconds=args.max_seconds,
        min_confidence=args.min_confidence,
        keep_contradictory_pairs=args.keep_contradictory_pairs,
        issues=not args.no_issues,
        evidence=evidence,
        options=options,
    )


def _how_to_go_on(args: argparse.Namespace, out: Path) -> str:
    from smidgen.run_folder import FROZEN

    if not any((folder / "config.toml").exists() for folder in (out, out / FROZEN)):
        return "Nothing had been written yet."
    again = [word for word in args.argv if word not in ("--overwrite", "--resume")]
    again += [] if args.out else ["--out", str(out)]
    return f"To go on where it stopped: {shlex.join(['smidgen', *again, '--resume'])}"


# ------------------------------------------------------------------------------------------------------- the dry run


def print_plan(plan: dict[str, Any], out: Path, args: argparse.Namespace) -> None:
    """Print a plan, as JSON where `--json` asks for it."""
    if args.json:
        print(json.dumps({"run": str(out), "dry_run": True, **plan}, indent=2))
        return
    use = "" if "labels" in plan["evidence"] else ", used for scores only"
    before = plan.get("frozen")
    rows = {
        "images": f"{plan['train_images']:,} to train on, {plan['test_images']:,} to test on"
        + (f", {plan['skipped']:,} unreadable" if plan["skipped"] else ""),
        "size": _size(*plan["image_shape"]),
        "classes": f"{len(plan['classes'])}{use}" if plan["classes"] else "not known",
        "evidence": ", ".join(f"{n:,} {kind}" for kind, n in plan["evidence"].items()) or "none",
        "clusters": str(plan["n_clusters"]),
        **({} if before is None else {"first": f"{before['method']} on {before['encoder']}: {_stages(before)}"}),
        "method": f"{plan['method']}, {plan['parameters']:,} parameters",
        "options": ", ".join(f"{name}={value}" for name, value in plan["options"].items()),
        "stages": _stages(plan),
        "machine": f"{plan['device']}, {plan['threads']} threads, seed {plan['seed']}",
        "writes to": str(out),
    }
    print("\n".join(f"{name:<10} {printable(value)}" for name, value in rows.items()))
    print("This was a dry run: nothing was trained or written.", file=sys.stderr)


def _stages(plan: dict[str, Any]) -> str:
    stages = ", then ".join(f"{name} ({steps:,} steps)" for name, steps in plan["stages"].items())
    return stages or "none: all is done in one go"


def _size(features_or_channels: int, *sides: int) -> str:
    if not sides:
        return f"{features_or_channels:,} features"
    return f"{sides[1]} × {sides[0]}, {'grey' if features_or_channels == 1 else 'colour'}"


# ------------------------------------------------------------------------------------------------------- the summary


def _summary(out: Path, metrics: dict[str, Any]) -> list[str]:
    from smidgen.reports.tables import duration, interval, percent

    times = [
        f"{words} {duration(metrics[key])}"
        for key, words in (("seconds", "fitted in"), ("seconds_total", "with reading and the report"))
        if key in metrics
    ]
    if metrics.get("stopped_early"):
        times.append(f"time was up at step {metrics['steps']:,}")
    lines = [f"{metrics['n_images']:,} images {', '.join(times)}"]
    for split in ("test", "train"):
        if f"{split}_accuracy" in metrics:
            bounds = interval(metrics, f"{split}_accuracy")
            between = f" ({percent(bounds[0])[:-2]}–{percent(bounds[1])[:-2]})" if bounds else ""
            named = f"{split}_named_accuracy"
            mapped = f"{split}_mapped_accuracy"
            others = [f"by name {percent(metrics[named])}"] if named in metrics else []
            others += [f"by training images' classes {percent(metrics[mapped])}"] if mapped in metrics else []
            frozen = f"frozen_{split}_accuracy"
            others += [f"frozen {percent(metrics[frozen])}"] if frozen in metrics else []
            others += [f"{name.upper()} {metrics[f'{split}_{name}']:.3f}" for name in ("nmi", "ami", "ari")]
            lines.append(
                "   ".join((f"  {split:<5} accuracy  {percent(metrics[f'{split}_accuracy'])}{between}", *others))
            )
        if f"{split}_ucc_accuracy" in metrics:
            lines.append(
                f"  {split:<5} ucc       {percent(metrics[f'{split}_ucc_accuracy'])} of balanced bags are counted right"
            )
    lines.append(f"  clusters        {_sizes(out, metrics['n_clusters'])}")
    if "fine_tuning" in metrics:
        lines.append(f"  fine-tuning     {metrics['fine_tuning']}")
    lines += [f"  note            {alarm}" for alarm in metrics.get("alarms", ())]
    return [*lines, f"  report          {out / 'report.html'}"]


def _sizes(out: Path, n_clusters: int) -> str:
    """Return how large the clusters are, over the images trained on."""
    from smidgen.run_folder import RunFolder

    table = RunFolder(out).assignments
    sizes = Counter(c for c, split in zip(table["cluster"], table["split"], strict=True) if split != "test")
    empty = n_clusters - len(sizes)
    if len(sizes) <= 12:
        shown = ", ".join(f"{name}: {size:,}" for name, size in sizes.most_common())
    else:
        shown = f"{len(sizes)}, of {min(sizes.values()):,} to {max(sizes.values()):,} images"
    return f"{shown}{f' ({empty} empty)' if empty else ''}"
