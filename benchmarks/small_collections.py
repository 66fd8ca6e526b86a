"""How `fusion` compares with simple methods on small collections of photographs, on the same frozen embeddings.

    python benchmarks/small_collections.py --out small.csv
    python benchmarks/small_collections.py --collections rooms weather rooms/10 --evidence none labels-5 --draws 3

One process and one thread: collections × evidence × draws, with `fusion-embeddings` at its defaults beside k-means, a
Gaussian mixture, logistic regression and label spreading from scikit-learn, and one table at the end. A collection is
a .tar with train/ and test/ in `$SMIDGEN_DATA/collections`, or a .npz with x, y, xt and yt in `--arrays`; `rooms/10` is
rooms with classes made smaller in geometric steps, the last a tenth of the first (`rooms/-10`: the first the smallest).

Scores: without labels the test accuracy by the best match of clusters and classes; with labels the accuracy by name on
the training images without a label ("unlabelled"), and on the test images; "per class" is the mean of the classes' own
accuracies on the test images; "calibration error" is the expected one (15 bins), of the untempered assignments
and at the model's temperature. Draws and seeds are 0, 1, … `--set prior=uniform` gives `fusion-embeddings` an option.
The last column of the table is the worst of `fusion` less the better of the peers on the same draws, of all
collections. With `--out` values are added to a .csv as they come, and what it holds is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.semi_supervised import LabelSpreading

from smidgen.data.datasets import open_splits
from smidgen.embedding.run import embed_images
from smidgen.evaluation.calibration import reliability
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evaluation.temperature import temperature_of
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.simulation import Simulation, simulate
from smidgen.maths.matching import match_clusters, match_counts
from smidgen.maths.temperature import tempered
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.nets.pretrained import encoder_size, pretrained_encoder
from smidgen.training.embed import map_images
from smidgen.training.loop import Settings, Trainer

COLLECTIONS = ("rooms", "weather", "litter", "flowers", "letters", "rooms/10", "weather/10")
EVIDENCE = ("none", "labels-1", "labels-5", "labels-20", "counts", "proportions")
BAGS = {"n_bags": 400, "bag_size": 12, "ucc": (1, 3)}


@dataclass(frozen=True)
class Collection:
    """Embeddings (n, features) and classes of the training and test images."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return int(self.y.max()) + 1


def load(name: str, arrays: Path | None, encoder: str) -> Collection:
    """Return a collection by its name, embedded, and made unbalanced if the name says so."""
    base, _, ratio = name.partition("/")
    if arrays is not None:
        stored = np.load(arrays / f"{base}.npz")
        found = Collection(*(stored[key] for key in ("x", "y", "xt", "yt")))
    else:
        found = _embedded(Path(os.environ.get("SMIDGEN_DATA", ".")) / "collections" / f"{base}.tar", encoder)
    if not ratio:
        return found
    train, test = (_unbalanced(y, float(ratio), seed) for seed, y in enumerate((found.y, found.test_y)))
    return Collection(found.x[train], found.y[train], found.test_x[test], found.test_y[test])


def _embedded(path: Path, encoder: str) -> Collection:
    splits = open_splits(path, channels=3, other_size=encoder_size(encoder))
    net = pretrained_encoder(encoder, flip=True)
    parts = []
    for split in splits:
        assert split is not None
        assert split.classes is not None
        parts += [embed_images(split.images, net), np.asarray(split.classes, dtype=np.int64)]
    return Collection(*parts)


def _unbalanced(y: np.ndarray, ratio: float, seed: int) -> np.ndarray:
    """Return rows that keep |ratio|^(-k / (K - 1)) of the images of class k; in the other order if it is below 0."""
    rng, last, kept = np.random.default_rng(seed), y.max(), []
    for k in range(last + 1):
        rows = rng.permutation(np.flatnonzero(y == k))
        place = (k if ratio > 0 else last - k) / last
        kept.append(rows[: max(2, round(len(rows) * abs(ratio) ** -place))])
    return np.sort(np.concatenate(kept))


def fusion(
    data: Collection, evidence: Resolved, seed: int, options: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return assignments of training and test images by `fusion-embeddings`, and the temperature of its model."""
    n, features = data.x.shape
    problem = Problem(n, (features,), data.n_classes, (0.0,) * features, (1.0,) * features, evidence)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = make_method("fusion-embeddings", make_config("fusion-embeddings", options), problem)
    Trainer(method, data.x, Settings(seed=seed), callbacks=[]).train()
    method.eval()

    def all_of(function: Callable[[torch.Tensor], torch.Tensor], x: np.ndarray) -> np.ndarray:
        return map_images(function, x, method=method, device=torch.device("cpu")).numpy()

    train, test = all_of(method.assign, data.x), all_of(method.assign, data.test_x)
    kinds = evidence.sizes().keys()
    return train, test, temperature_of(method, data.x, train, all_of(method.encode, data.x), kinds=kinds, seed=seed)


def peers_alone(data: Collection, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the test images' clusters of each method that knows nothing."""
    scale = StandardScaler().fit(data.x)
    standardised, test = scale.transform(data.x), scale.transform(data.test_x)
    pca = PCA(min(256, len(data.x) - 1), random_state=seed).fit(standardised)
    x, test_x = pca.transform(standardised), pca.transform(test)
    kmeans = KMeans(data.n_classes, n_init=10, random_state=seed).fit(normalize(x))
    yield "k-means", kmeans.predict(normalize(test_x).astype(np.float32))
    few, few_test = x[:, :32].astype(np.float64), test_x[:, :32].astype(np.float64)  # or a covariance is singular
    mixture = GaussianMixture(data.n_classes, n_init=3, random_state=seed).fit(few)
    yield "mixture", mixture.predict(few_test)


def peers_with_labels(data: Collection, labels: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, training and test predictions of each method that learns from labels (-1 unknown)."""
    scale = StandardScaler().fit(data.x)
    x, test_x = scale.transform(data.x), scale.transform(data.test_x)
    known = labels >= 0
    regression = LogisticRegression(max_iter=1000).fit(x[known], labels[known])
    yield "regression", regression.predict(x), regression.predict(test_x)
    pca = PCA(min(256, len(x) - 1), random_state=0).fit(x)
    unit = normalize(pca.transform(x))
    spreading = LabelSpreading(kernel="knn", n_neighbors=10).fit(unit, labels)
    yield "spreading", spreading.transduction_, spreading.predict(normalize(pca.transform(test_x)))


def evidence_of(kind: str, data: Collection, draw: int) -> Resolved:
    """Return simulated evidence of one kind about the training images."""
    return evidence_in(kind, data.y, draw)


def evidence_in(kind: str, y: np.ndarray, draw: int) -> Resolved:
    """Return simulated evidence of one kind about images of these classes (n,)."""
    if kind == "none":
        return Resolved.nothing(len(y))
    n_classes = int(y.max()) + 1
    what = {"labels_per_class": int(kind.removeprefix("labels-"))} if kind.startswith("labels") else dict(BAGS)
    if not kind.startswith("labels"):
        what["ucc"] = (1, min(3, n_classes))
    if kind == "proportions":
        what |= {"proportions": True, "counts": False}
    ids = [f"{row:06d}" for row in range(len(y))]
    names = tuple(f"class {k}" for k in range(n_classes))
    rng = np.random.default_rng(draw)
    evidence, _ = simulate(Simulation(**what), y, ids=ids, class_names=names, generator=rng)
    return evidence.resolve(np.array(ids, dtype=object), n_clusters=n_classes)


def per_class(y: np.ndarray, found: np.ndarray, *, matched: bool) -> float:
    """Return the mean over classes of the share of their images that is right, after the best match or by name."""
    counts = np.zeros((y.max() + 1, max(y.max(), found.max()) + 1), dtype=np.int64)
    np.add.at(counts, (y, found), 1)
    columns = match_counts(counts) if matched else np.arange(len(counts))
    right = counts[np.arange(len(counts)), columns]
    return float((right / counts.sum(1).clip(1)).mean())


def scores(kind: str, data: Collection, draw: int, options: Mapping[str, str]) -> Iterator[tuple[str, str, float]]:
    """Yield (method, what is scored, accuracy), and the seconds of the fit as a score."""
    evidence, begun = evidence_of(kind, data, draw), time.process_time()
    train_p, test_p, temperature = fusion(data, evidence, draw, options)
    yield "fusion", "seconds", time.process_time() - begun
    train, test = train_p.argmax(1), test_p.argmax(1)
    right = test == data.test_y
    if not kind.startswith("labels"):
        right = match_clusters(train, data.y, data.n_classes, data.n_classes)[test] == data.test_y
    for what, t in (("calibration error untempered", 1.0), ("calibration error", temperature)):
        confidence = tempered(torch.from_numpy(test_p), t).amax(1).numpy()
        yield "fusion", what, reliability(confidence, right).error
    if not kind.startswith("labels"):
        for name, found in [("fusion", test), *(peers_alone(data, draw) if kind == "none" else ())]:
            yield name, "test", clustering_accuracy(data.test_y, found)
            yield name, "per class", per_class(data.test_y, found, matched=True)
        return
    labels = evidence.labels.numpy()
    rest = labels < 0
    for name, found, new in [("fusion", train, test), *peers_with_labels(data, labels)]:
        yield name, "unlabelled", float((found == data.y)[rest].mean())
        yield name, "test", float((new == data.test_y).mean())
        yield name, "per class", per_class(data.test_y, new, matched=False)


Row = tuple[str, str, str, str, str, float]
"""Collection, evidence, draw, method, score and value."""


def stored(path: Path | None) -> list[Row]:
    """Return the rows of a file, none where there is no file."""
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return [(*row[:5], float(row[5])) for row in csv.reader(file)]  # type: ignore[misc]


def add(path: Path | None, rows: list[Row]) -> list[Row]:
    """Append rows to a file, if there is to be one, and return them."""
    if path is not None:
        with path.open("a", newline="") as file:
            csv.writer(file).writerows([*row[:5], f"{row[5]:.6f}"] for row in rows)
    return rows


def lines_of(rows: list[Row], collections: list[str]) -> Iterator[str]:
    """Yield the table: means over draws, of all collections, and the worst difference from the better peer."""
    draws: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for collection, kind, _, method, what, value in rows:
        draws.setdefault((kind, method, what), {}).setdefault(collection, []).append(value)
    means = {key: {name: float(np.mean(values)) for name, values in found.items()} for key, found in draws.items()}
    yield "evidence | method | score | " + " | ".join(collections) + " | mean | worst"
    for (kind, method, what), mean in means.items():
        peers = [other for key, other in means.items() if (key[0], key[2]) == (kind, what) and key[1] != "fusion"]
        there, compared = [name for name in collections if name in mean], method == "fusion" and peers
        less = [mean[name] - max(peer.get(name, -np.inf) for peer in peers) for name in there] if compared else []
        cells = [f"{mean[name]:.3f}" if name in mean else "" for name in collections]
        summary = [f"{np.mean([mean[name] for name in there]):.3f}", f"{min(less):+.3f}" if less else ""]
        yield " | ".join([kind, method, what, *cells, *summary])


def main(print_line: Callable[[str], None] = print) -> None:
    """Run what the arguments ask for and print a row for each method and score, a column for each collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", nargs="+", default=COLLECTIONS)
    parser.add_argument("--evidence", nargs="+", default=EVIDENCE)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--encoder", default="lite2")
    parser.add_argument("--arrays", type=Path, help="folder of .npz files, instead of collections to embed")
    parser.add_argument("--out", type=Path, help=".csv that values are added to, and taken from")
    parser.add_argument("--set", nargs="*", default=(), metavar="NAME=VALUE", help="options of fusion-embeddings")
    options = parser.parse_args()
    given = dict(each.split("=", 1) for each in options.set)
    torch.set_num_threads(1)
    rows = stored(options.out)
    done = {row[:3] for row in rows}
    for kind in options.evidence:
        for collection in options.collections:
            wanted = [draw for draw in range(options.draws) if (collection, kind, str(draw)) not in done]
            if not wanted:
                continue
            data = load(collection, options.arrays, options.encoder)
            for draw in wanted:
                found = scores(kind, data, draw, given)
                rows += add(options.out, [(collection, kind, str(draw), *each) for each in found])
            print_line(f"{kind}, {collection}: done")
    for line in lines_of(rows, options.collections):
        print_line(line)


if __name__ == "__main__":
    main()
