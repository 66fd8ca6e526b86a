"""Kill training runs with SIGKILL at random instants, resume each until it is done, and compare it bit for bit.

    python benchmarks/kill_resume.py [--instants 20] [--data digits] [--method fusion] [--out kill_resume.json]

An uninterrupted run is made first. Each trial starts the same run in a process of its own, kills it at an instant drawn
uniformly from the uninterrupted run's time, starts it again with `resume`, kills that once more with probability 1/2,
and lets the last one finish. Final weights, assignments, embeddings, scores and the log (without its seconds) must then
be those of the uninterrupted run. The page of the report is left out, so that more instants hit the training. Prints a
table and writes JSON; the exit code is 1 if any trial differs.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from smidgen.run_folder import RunFolder

OPTIONS = {
    "fusion": {"steps": 240, "refine_steps": 160, "batch_size": 64, "heads": 2},
    "supervised": {"steps": 400, "batch_size": 64},
    "kmeans": {},
}
FILES = ("model/weights.safetensors", "model/model.json", "assignments.csv", "embeddings.npy")

RUN = """
import json, sys
from smidgen import fitting
from smidgen.listener import Listener
from smidgen.config import Config

class Aloud(Listener):
    def progress(self, what, done, total, note=""):
        print(what, done, flush=True)

data, method, options, out, resume = sys.argv[1:]
config = Config(data, method=method, options=json.loads(options), threads=1, checkpoint_every=20)
fitting.write_page = lambda path: None
fitting.fit(config, out=out, resume=resume == "resume", listener=Aloud())
"""


def start(arguments, out):
    """Start the run, or go on with it if its folder is there; its output is where it is."""
    mode = "resume" if out.exists() else "new"
    options = json.dumps(OPTIONS.get(arguments.method, {}))
    return subprocess.Popen(
        [sys.executable, "-c", RUN, arguments.data, arguments.method, options, str(out), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Wait for a run that nobody kills, and pass its error on."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"A run that was not killed failed:\n{errors}")


def kill(process, out, *, after):
    """Kill a run some seconds after it said its first word; return the last one, None if it had finished by then."""
    first = process.stdout.readline().strip()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    if (out / "config.toml").exists() and RunFolder.open(out).finished:  # perhaps it died while Python was leaving
        return None
    return [first, *rest.strip().splitlines()][-1] or "start"


def results(out):
    """Return all that must be the same."""
    run = RunFolder.open(out)
    scores = {k: v for k, v in run.metrics.items() if not k.startswith(("seconds", "peak"))}
    log = [{k: v for k, v in line.items() if k != "seconds"} for line in run.history()]
    return {"scores": scores, "log": log} | {name: (out / name).read_bytes() for name in FILES}


def trial(arguments, out, *, seconds, chance):
    """Kill a run once or twice before it has finished, let it finish, and return where it was killed."""
    while (place := kill(start(arguments, out), out, after=chance.uniform(0, seconds))) is None:
        shutil.rmtree(out)  # too late to be an interruption: another instant
    places = [place]
    if chance.random() < 0.5:
        places.append(kill(start(arguments, out), out, after=chance.uniform(0, seconds)) or "(too late)")
    finish(start(arguments, out))
    return places


def main():
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instants", type=int, default=20)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--method", default="fusion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    chance, rows = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as folder:
        whole = start(arguments, Path(folder, "whole"))
        whole.stdout.readline()
        began = time.monotonic()
        finish(whole)
        seconds = time.monotonic() - began
        expected = results(Path(folder, "whole"))
        print(f"uninterrupted: {seconds:.1f} s after its first word\n")
        print(f"trial  {'killed at':38}  differs")
        for number in range(arguments.instants):
            out = Path(folder, f"trial{number}")
            places = trial(arguments, out, seconds=seconds, chance=chance)
            found = results(out)
            differs = [name for name in expected if found[name] != expected[name]]
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
