"""How many of the wrong labels and pairs a run shows first: of n that are wrong, the share among the first n.

    python benchmarks/wrong_evidence.py --data mnist --labels 10 100 --pairs 2000 [--images 20000] [--seeds 1]
    python benchmarks/wrong_evidence.py --data cifar10-jpeg.tar --images 10000 --labels 10 100 --pairs 2000

Evidence with 5 % of wrong statements is simulated from the known classes, a model is fitted with it, and the tables
`evidence_labels.csv` and `evidence_pairs.csv` of its run folder are read. For comparison the same by the model's own
assignments, which have learned the wrong statements too. Prints a row for each fit and the means.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from smidgen.config import Config
from smidgen.csv_tables import read_csv
from smidgen.data.datasets import Dataset, open_dataset
from smidgen.data.subsets import choose_images
from smidgen.evaluation.explained import Table, explain
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.simulation import Simulation, simulate
from smidgen.fitting import fit

SIZE = 28  # pixels of the images that only their classes are wanted of; MNIST's own


def at_n(kind: str, table: Table, known: Dataset) -> tuple[float, int]:
    """Return the share of the wrong pieces among as many first ones of a table, and how many are wrong."""
    assert known.classes is not None
    of = dict(zip(known.ids, known.classes.tolist(), strict=True))
    if kind == "labels":
        pieces = zip(table["image"], table["label"], strict=True)
        wrong = [known.class_names[of[image]] != label for image, label in pieces]
    else:
        pairs = zip(table["image_a"], table["image_b"], table["same"], strict=True)
        wrong = [(of[a] == of[b]) != bool(int(same)) for a, b, same in pairs]
    n = sum(wrong)
    return sum(wrong[:n]) / max(n, 1), n


def measure(kind: str, settings: Simulation, args: argparse.Namespace, seed: int, out: Path) -> float:
    """Fit with simulated evidence, print what was found of its wrong pieces, and return the share."""
    known = choose_images(open_dataset(args.data, size=SIZE), images=args.images, imbalance=None, seed=seed)
    assert known.classes is not None
    generator = np.random.default_rng(seed)
    evidence: Evidence
    evidence, _ = simulate(settings, known.classes, ids=known.ids, class_names=known.class_names, generator=generator)
    options = dict(part.split("=") for part in args.set)
    config = Config(args.data, images=args.images, seed=seed, options={k: int(v) for k, v in options.items()},
                    keep_contradictory_pairs=True)  # fmt: skip
    began = time.monotonic()
    outcome = fit(config, evidence=evidence, out=out, overwrite=True)
    assert outcome.assignments is not None
    found, n = at_n(kind, read_csv(out / "tables" / f"evidence_{kind}.csv"), known)
    names = outcome.model.cluster_names
    resolved = evidence.resolve(known.ids, names, len(names), keep_contradictory_pairs=True)
    by_model = explain(outcome.assignments, resolved, image_ids=known.ids, cluster_names=names, kinds=[kind]).tables
    accuracy = clustering_accuracy(known.classes, outcome.assignments.argmax(1))
    itself = at_n(kind, by_model[kind], known)[0]
    number, seconds = settings.labels_per_class or settings.pairs, time.monotonic() - began
    print(f"{kind} {number:,}, seed {seed}: accuracy {accuracy:.4f}, {n} wrong, {found:.3f} of them first", end="")
    print(f" (by the model itself {itself:.3f}), {seconds:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--images", type=int, help="a random part of the training images")
    parser.add_argument("--labels", type=int, nargs="*", default=[], help="labels per class")
    parser.add_argument("--pairs", type=int, nargs="*", default=[])
    parser.add_argument("--wrong", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="options of the method, as steps=300")
    args = parser.parse_args()
    jobs = [("labels", Simulation(labels_per_class=n, wrong=args.wrong)) for n in args.labels]
    jobs += [("pairs", Simulation(pairs=n, wrong=args.wrong)) for n in args.pairs]
    with tempfile.TemporaryDirectory() as folder:
        for kind, settings in jobs:
            shares = [measure(kind, settings, args, s, Path(folder) / "run") for s in range(args.seeds)]
            print(f"{kind}: mean {np.mean(shares):.3f}")


if __name__ == "__main__":
    main()
