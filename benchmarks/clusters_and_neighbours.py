"""k-means and nearest neighbours beside scikit-learn's and faiss's (pip install faiss-cpu), in one run.

    python benchmarks/clusters_and_neighbours.py [--threads 1] [--rows 60000] [--clusters 1000] [--only faiss]

k-means: 60,000 × 256, 1,000 clusters, 20 iterations and then labels, one start each: faiss from random rows, the others
by k-means++. Neighbours: 10 of each of 60,000 × 50. Two kinds of data: drawn around 2,000 centres of unequal size,
and normal, without structure. Each library computes in a process of its own; seconds of the clock and of the processor,
which other work on the machine changes less, and the peak of memory beyond the data. Inertia is measured the same way
for all, by plain differences in float64.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

LIBRARIES = ("smidgen", "faiss", "scikit-learn")
ITERATIONS, NEIGHBOURS = 20, 10


def draw(kind, rows, features):
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, features), dtype=np.float32)
    if kind == "centres":
        centres = rng.standard_normal((2000, features), dtype=np.float32)
        x = 0.7 * x + centres[rng.choice(2000, rows, p=rng.dirichlet(np.ones(2000)))]
    return x


def centroids_of(library, x, clusters, threads):
    """Return the centroids and the seconds that they and the labels took, on the clock and of the processor."""
    if library == "smidgen":
        import torch

        from smidgen.maths.kmeans import kmeans

        data, generator = torch.from_numpy(x), torch.Generator().manual_seed(1)
        return timed(
            lambda: kmeans(
                data, clusters, generator=generator, n_init=1, max_iterations=ITERATIONS, tolerance=0
            ).centroids.numpy()
        )
    if library == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        found = faiss.Kmeans(x.shape[1], clusters, niter=ITERATIONS, seed=1, max_points_per_centroid=len(x))
        return timed(lambda: (found.train(x), found.index.search(x, 1), found.centroids)[2])
    from sklearn.cluster import KMeans

    found = KMeans(clusters, n_init=1, max_iter=ITERATIONS, tol=0, random_state=1)
    return timed(lambda: found.fit(x).cluster_centers_)


def neighbours_of(library, x, threads):
    if library == "smidgen":
        import torch

        from smidgen.maths.neighbours import nearest_neighbours

        data = torch.from_numpy(x)
        return timed(lambda: nearest_neighbours(data, NEIGHBOURS)[0].numpy())
    if library == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)

        def search():
            index = faiss.IndexFlatL2(x.shape[1])
            index.add(x)
            return index.search(x, NEIGHBOURS + 1)[1]  # the first is the row itself

        return timed(search)
    from sklearn.neighbors import NearestNeighbors

    return timed(lambda: NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(x).kneighbors()[1])


def timed(function):
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - clock, time.process_time() - processor


def inertia(x, centroids):
    """Return the sum of squared distances to the nearest centroid."""
    import numpy as np

    total, squares = 0.0, (centroids.astype(np.float64) ** 2).sum(1)
    for block in np.array_split(x.astype(np.float64), max(1, len(x) // 4096)):
        total += float(((block**2).sum(1) + (squares - 2 * block @ centroids.T.astype(np.float64)).min(1)).sum())
    return total


def measure(task, library, kind, arguments):
    """Print one line of JSON."""
    if library == "smidgen":
        import torch

        torch.set_num_threads(arguments.threads)
    x = draw(kind, arguments.rows, 256 if task == "k-means" else 50)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if task == "k-means":
        result, seconds, processor = centroids_of(library, x, arguments.clusters, arguments.threads)
    else:
        result, seconds, processor = neighbours_of(library, x, arguments.threads)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    line = {"seconds": seconds, "processor": processor, "memory_mb": memory}
    print(json.dumps(line | ({"inertia": inertia(x, result)} if task == "k-means" else {})))


def main():
    """Measure every library on every task, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--tasks", nargs="+", default=["k-means", "neighbours"])
    parser.add_argument("--only", nargs="+", default=LIBRARIES, help="libraries")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(*arguments.one, arguments)
        return
    threads = {f"{name}_NUM_THREADS": str(arguments.threads) for name in ("OMP", "OPENBLAS", "MKL")}
    print(f"{'task':11} {'data':8} {'library':13} {'seconds':>8} {'processor':>10} {'memory':>8}  inertia")
    for task in arguments.tasks:
        for kind in ("centres", "normal"):
            for library in arguments.only:
                command = [sys.executable, "-W", "ignore", *sys.argv, "--one", task, library, kind]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | threads)
                line = json.loads(done.stdout.splitlines()[-1])
                score = f"{line['inertia']:.6g}" if "inertia" in line else ""
                print(
                    f"{task:11} {kind:8} {library:13} {line['seconds']:8.2f} {line['processor']:10.2f}"
                    f" {line['memory_mb']:5.0f} MB  {score}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
