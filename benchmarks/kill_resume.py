"""Kill training runs with SIGKILL at random instants, resume each until it is done, and compare it bit for bit.

    python benchmarks/kill_resume.py [--instants 20] [--data digits] [--method fusion] [--images 400]
        [--encoder lite0 [--fine-tune] [--size 48]] [--out kill_resume.json]

An uninterrupted run is made first. Each trial starts the same run in a process of its own, kills it at an instant drawn
uniformly from the uninterrupted run's time after its first word, starts it again with `resume`, kills that once more
with probability 1/2, and lets the last one finish. Final weights, assignments, embeddings, scores and the log (without
its seconds) must then be those of the uninterrupted run. The page of the report is left out, so that more instants hit
the training. Prints a table and writes JSON; the exit code is 1 if any trial differs.

Processes are forked after the imports, which would take longer than the runs. Runs are short: a few dozen steps with a
checkpoint every 7, which is no divisor of what else happens at intervals. Embeddings by a frozen encoder are made anew
in each trial, so that some instants hit them.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from smidgen import fitting
from smidgen.config import Config
from smidgen.listener import Listener
from smidgen.run_folder import RunFolder

OPTIONS = {
    "fusion": {"steps": 120, "refine_steps": 80, "batch_size": 64, "heads": 2},
    "fusion on embeddings": {"steps": 60, "batch_size": 64, "heads": 4, "kept": 2, "votes": 1},
    "fusion fine-tuned": {"steps": 8, "refine_steps": 6, "batch_size": 8, "heads": 2},
    "ucc": {"preset": "fast", "steps": 30, "bags": 6, "bag_size": "6"},
    "ucc on embeddings": {"steps": 40, "bags": 6, "bag_size": "6", "alpha": 1.0},
    "ucc fine-tuned": {"steps": 12, "bags": 1, "bag_size": "4", "features": 4, "alpha": 1.0},
    "supervised": {"steps": 200, "batch_size": 64},
}
FORKED = multiprocessing.get_context("fork")
FILES = ("model/weights.safetensors", "model/model.json", "assignments.csv", "embeddings.npy")


class Aloud(Listener):
    """Sends what progresses to the other end of a pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def progress(self, what, done, total, note=""):
        self.pipe.send(f"{what} {done}")


def configuration(arguments):
    """Return what all runs of this call fit."""
    form = " fine-tuned" if arguments.fine_tune else " on embeddings" if arguments.encoder else ""
    return Config(
        arguments.data,
        method=arguments.method,
        images=arguments.images,
        size=arguments.size,
        encoder=arguments.encoder,
        fine_tune=arguments.fine_tune,
        options=OPTIONS.get(arguments.method + form, {}),
        threads=1,
        checkpoint_every=7,
        issues=False,
    )


def run(config, out, resume, pipe):
    """Fit in this process, a fork, with a cache of embeddings of the run's own."""
    os.environ["SMIDGEN_CACHE"] = f"{out}-cache"
    fitting.write_page = lambda path: None
    fitting.fit(config, out=out, resume=resume, listener=Aloud(pipe))


def start(config, out):
    """Start the run, or go on with it if its folder is there; return its process and the pipe that it speaks into."""
    reading, writing = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=run, args=(config, out, out.exists(), writing))
    process.start()
    writing.close()
    return process, reading


def words(pipe, *, seconds=None):
    """Return what a run says until it ends, or within some seconds from its next word on."""
    said = []
    try:
        said.append(pipe.recv())
        end = time.monotonic() + (seconds or 0)
        while seconds is None or pipe.poll(max(0, end - time.monotonic())):
            said.append(pipe.recv())
    except (EOFError, OSError):
        pass
    return said


def finish(process, pipe):
    """Wait for a run that nobody kills; return its seconds after its first word."""
    words(pipe, seconds=0)
    began = time.monotonic()
    words(pipe)
    process.join()
    if process.exitcode:
        raise SystemExit("A run that was not killed failed.")
    return time.monotonic() - began


def kill(process, pipe, out, *, after):
    """Kill a run some seconds after its first word; return the last one, None if it had finished by then."""
    said = words(pipe, seconds=after)
    process.kill()
    said += words(pipe)
    process.join()
    if (out / "config.toml").exists() and RunFolder.open(out).finished:  # perhaps it died while Python was leaving
        return None
    return said[-1]


def results(out):
    """Return all that must be the same."""
    run = RunFolder.open(out)
    scores = {k: v for k, v in run.metrics.items() if not k.startswith(("seconds", "peak"))}
    log = [{k: v for k, v in line.items() if k != "seconds"} for line in run.history()]
    return {"scores": scores, "log": log} | {name: (out / name).read_bytes() for name in FILES}


def trial(config, out, *, seconds, chance):
    """Kill a run once or twice before it has finished, let it finish, and return where it was killed."""
    while (place := kill(*start(config, out), out, after=chance.uniform(0, seconds))) is None:
        shutil.rmtree(out)  # too late to be an interruption: another instant
    places = [place]
    if chance.random() < 0.5:
        places.append(kill(*start(config, out), out, after=chance.uniform(0, seconds)) or "too late")
    finish(*start(config, out))
    return places


def main():
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instants", type=int, default=20)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--method", default="fusion")
    parser.add_argument("--images", type=int, default=None)
    parser.add_argument("--size", type=int, default=None, help="side of the square that images are resized to")
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--fine-tune", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    chance, rows, config = random.Random(arguments.seed), [], configuration(arguments)
    with tempfile.TemporaryDirectory() as folder:
        seconds = finish(*start(config, Path(folder, "whole")))
        expected = results(Path(folder, "whole"))
        form = f"{config.method}, encoder {config.encoder}, fine-tuned {config.fine_tune}"
        print(f"{form}: {seconds:.1f} s after its first word\n")
        print(f"trial  {'killed at':38}  differs")
        for number in range(arguments.instants):
            out = Path(folder, f"trial{number}")
            places = trial(config, out, seconds=seconds, chance=chance)
            found = results(out)
            differs = [name for name in expected if found[name] != expected[name]]
            shutil.rmtree(out)
            rows.append({"trial": number, "killed_at": places, "differs": differs})
            print(f"{number:5}  {', '.join(places):38}  {', '.join(differs) or 'nothing'}", flush=True)
    broken = sum(bool(row["differs"]) for row in rows)
    print(f"\n{len(rows) - broken} of {len(rows)} killed and resumed runs are the uninterrupted one, bit for bit.")
    if arguments.out:
        arguments.out.write_text(
            json.dumps(vars(arguments) | {"seconds": seconds, "trials": rows}, default=str, indent=2)
        )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
