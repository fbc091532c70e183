"""Order neurons: greedy nearest neighbour, SciPy's hierarchical orders, ours; score over the bound, seconds, memory.

    python benchmarks/order.py                      # every size; about five minutes on two cores
    python benchmarks/order.py --sizes 4096
    python benchmarks/order.py --model stories      # the neurons of a model's last layer, by their output weights
    python benchmarks/order.py --apart 8192 14336   # ours alone: search and bound apart, at the widths of models of 7 to 8 billion parameters

Neurons are synthetic: n of them in n / 4 dimensions, a quarter around one of 120 hidden directions, each at its own distance.
Every method runs in a process of its own, so that memory is its own; it gets the same matrix of squared cosines and is timed
three times, the median counts. The lower bound is one pass over that matrix. Memory is what is added to the matrix at the
worst moment. The upper bound of the score is ours. The package fast-tsp is measured too where it is installed (it is no
dependency: its search cannot be seeded); what of its seconds is beyond the two it searches is the making of its distances.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform
from timing import Row, machine, parser, timed, write_rows

from mi_superposition import load_model
from mi_superposition.neurons import cosine_similarity, neuron_vectors, order_neurons
from mi_superposition.neurons import order as order_module
from mi_superposition.neurons.bound import path_bound
from mi_superposition.neurons.order import path_score
from mi_superposition.neurons.path import greedy_path

SIZES = [512, 2048, 4096, 8192]
# Optimal leaf ordering grows about twelvefold with each doubling.
OPTIMAL_LEAVES_UP_TO = 1024
REPEATS = 3
SECONDS = 2.0


def synthetic(n: int) -> torch.Tensor:
    """Cosines of n neurons, a quarter of them around one of 120 hidden directions, near it or far from it."""
    generator = torch.Generator().manual_seed(0)
    d, planted = n // 4, n // 4
    hidden = torch.randn(120, d, generator=generator)
    vectors = torch.randn(n, d, generator=generator)
    which = torch.randint(120, (planted,), generator=generator)
    distance = 2 * torch.rand(planted, 1, generator=generator)
    vectors[:planted] = hidden[which] + distance * torch.randn(planted, d, generator=generator)
    return cosine_similarity(vectors[torch.randperm(n, generator=generator)])


def last_layer(name: str) -> torch.Tensor:
    """Cosines of the output weights of the neurons of a model's last layer."""
    model = load_model(name, device="cpu")
    return neuron_vectors(model, layer=model.cfg.n_layers - 1, weights="out").similarity()


def _distances(weights: np.ndarray) -> np.ndarray:
    distances = 1 - weights
    np.fill_diagonal(distances, 0)
    return squareform(distances, checks=False)


def greedy(similarity: torch.Tensor) -> np.ndarray:
    """From each neuron to the most similar one that is left."""
    return greedy_path(similarity.square().fill_diagonal_(0).numpy(), 0)


def average_linkage(similarity: torch.Tensor) -> np.ndarray:
    """Leaves of SciPy's average linkage."""
    return leaves_list(linkage(_distances(similarity.square().numpy()), "average"))


def optimal_leaves(similarity: torch.Tensor) -> np.ndarray:
    """The same tree, its branches turned for the best order."""
    distances = _distances(similarity.square().numpy())
    return leaves_list(optimal_leaf_ordering(linkage(distances, "average"), distances))


def fast_tsp_path(similarity: torch.Tensor) -> np.ndarray:
    """The package fast-tsp, for as long; it takes whole numbers, and its answers differ from call to call."""
    import fast_tsp

    n = len(similarity)
    distances = np.full((n + 1, n + 1), 10_000, np.int32)
    distances[:n, :n] = np.rint(10_000 * (1 - similarity.square().numpy()))
    np.fill_diagonal(distances, 0)
    tour = fast_tsp.find_tour(distances, duration_seconds=SECONDS)
    cut = tour.index(n)
    return np.array(tour[cut + 1 :] + tour[:cut])


def local_search(similarity: torch.Tensor) -> np.ndarray:
    """The greedy path, then chains of exchanges until none gains: ours without its kicks."""
    return order_neurons(similarity, seconds=0, bound=False).order.numpy()


def ours(similarity: torch.Tensor) -> np.ndarray:
    """``order_neurons``, without its bound."""
    return order_neurons(similarity, seconds=SECONDS, bound=False).order.numpy()


def ours_and_bound(similarity: torch.Tensor) -> np.ndarray:
    """``order_neurons`` with its bound."""
    return order_neurons(similarity, seconds=SECONDS).order.numpy()


METHODS: dict[str, Callable[[torch.Tensor], np.ndarray]] = {
    "greedy nearest neighbour": greedy,
    "average linkage": average_linkage,
    "optimal leaf ordering": optimal_leaves,
    **({"fast-tsp": fast_tsp_path} if find_spec("fast_tsp") else {}),
    "greedy, then local search": local_search,
    "ours": ours,
    "ours with its bound": ours_and_bound,
}


def measure_one(method: str, matrix: Path, answer: Path) -> None:
    """In a process of its own: time a method on a saved matrix, save its order, print its numbers."""
    run = METHODS[method]
    run(synthetic(64))  # Compiles, allocates pools.
    similarity = torch.from_numpy(np.load(matrix))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        order = run(similarity)
        seconds.append(time.perf_counter() - began)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    np.save(answer, order)
    print(json.dumps({"seconds": median(seconds), "MiB": added / 1024}))


def measured(
    similarity: torch.Tensor, methods: Iterable[str]
) -> tuple[float, float, Iterator[tuple[str, float, dict[str, float]]]]:
    """Seconds of one pass over the matrix, the bound, and as they come each method's score with its seconds and memory."""
    one_pass = median(timed(lambda: similarity.amax(dim=1)) for _ in range(20))
    bound = order_neurons(similarity, seconds=SECONDS).upper_bound

    def each() -> Iterator[tuple[str, float, dict[str, float]]]:
        with tempfile.TemporaryDirectory() as folder:
            matrix, answer = Path(folder) / "matrix.npy", Path(folder) / "order.npy"
            np.save(matrix, similarity.numpy())
            for name in methods:
                command = [sys.executable, __file__, "--one", name, str(matrix), str(answer)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                score = path_score(similarity.square(), torch.from_numpy(np.load(answer)))
                yield name, score, json.loads(done.stdout.splitlines()[-1])

    return one_pass, bound, each()


def gaussian(n: int) -> torch.Tensor:
    """Cosines of n Gaussian neurons in 4,096 dimensions."""
    return cosine_similarity(torch.randn(n, 4096, generator=torch.Generator().manual_seed(0)))


# What ``--apart`` orders, and for how many nominal seconds.
MATRICES: dict[str, Callable[[int], torch.Tensor]] = {"synthetic": synthetic, "Gaussian": gaussian}
EFFORTS = (2.0, 10.0)


def search_and_bound(name: str, n: int) -> None:
    """In a process of its own: seconds of one thread for the search and for the bound, and the memory that both add to the matrix."""
    torch.set_num_threads(1)
    similarity = MATRICES[name](n)
    # Compiles, at the least size that is bounded as large ones are.
    order_neurons(synthetic(2100), seconds=0.01)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bounding = [0.0]

    def timed_bound(weights: np.ndarray, score: float, path: np.ndarray) -> float:
        began = time.process_time()
        value = path_bound(weights, score, path)
        bounding[0] = time.process_time() - began
        return value

    order_module.path_bound = timed_bound
    for effort in EFFORTS:
        began = time.process_time()
        found = order_neurons(similarity, seconds=effort)
        searching = time.process_time() - began - bounding[0]
        added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(
            f"{name:10} {n:6} {effort:7.0f} {found.score:9.2f} {100 * found.gap:6.2f} % {searching:8.1f} {bounding[0]:8.1f} "
            f"{added / 1024:7.0f} {4 * n * n / 2**20:7.0f}",
            flush=True,
        )


def rows(quick: bool) -> list[Row]:
    """For the common table: against SciPy's best order where it can be had, and its fast one where it cannot."""
    found = []
    for n, peer in (
        ((64, "optimal leaf ordering"),) if quick else ((512, "optimal leaf ordering"), (4096, "average linkage"))
    ):
        one_pass, bound, each = measured(synthetic(n), ["greedy nearest neighbour", peer, "ours with its bound"])
        (_, greedy_score, _), (_, peer_score, theirs), (_, score, our) = each
        remark = (
            f"score over greedy nearest neighbour's: {score / greedy_score:.4f} and {peer_score / greedy_score:.4f}; at most "
            f"{100 * (bound / score - 1):.2f} % left"
        )
        found.append(
            Row(
                f"order of {n:,} neurons, with its bound",
                our["seconds"],
                peer,
                theirs["seconds"],
                "one pass over the matrix",
                one_pass,
                remark,
            )
        )
    return found


def main() -> None:
    """Print the tables."""
    options_of = parser(__doc__)
    options_of.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    options_of.add_argument("--model", help="the neurons of this model's last layer, in place of synthetic ones")
    options_of.add_argument("--one", nargs=3, help="one method on a saved matrix; its order goes to the third")
    options_of.add_argument(
        "--apart", type=int, nargs="+", metavar="N", help="only ours, search and bound apart, of so many neurons"
    )
    options_of.add_argument("--one-apart", nargs=2, help=argparse.SUPPRESS)
    options = options_of.parse_args()
    if options.one_apart:
        search_and_bound(options.one_apart[0], int(options.one_apart[1]))
        return
    if options.apart:
        print(f"{machine()}\n")
        print(
            f"{'neurons':10} {'n':>6} {'nominal':>7} {'score':>9} {'gap':>8} {'search s':>8} {'bound s':>8} {'MiB':>7} {'matrix':>7}",
            flush=True,
        )
        for n in options.apart:
            for name in MATRICES:
                subprocess.run([sys.executable, __file__, "--one-apart", name, str(n)], check=True)
        return
    if options.one:
        measure_one(options.one[0], Path(options.one[1]), Path(options.one[2]))
        return
    if options.rows:
        write_rows(options.rows, rows(options.quick))
        return
    print(f"{machine()}; search of {SECONDS} nominal seconds\n")
    print(f"{'n':>5} {'method':26} {'score':>9} {'/ greedy':>8} {'/ bound':>8} {'seconds':>8} {'/ pass':>9} {'MiB':>6}")
    times: dict[str, list[tuple[int, float]]] = {}
    for similarity in [last_layer(options.model)] if options.model else map(synthetic, options.sizes):
        n = len(similarity)
        methods = [name for name in METHODS if name != "optimal leaf ordering" or n <= OPTIMAL_LEAVES_UP_TO]
        one_pass, bound, each = measured(similarity, methods)
        greedy_score = 0.0
        for name, score, numbers in each:
            greedy_score = greedy_score or score
            times.setdefault(name, []).append((n, numbers["seconds"]))
            print(
                f"{n:5} {name:26} {score:9.2f} {score / greedy_score:8.4f} {score / bound:8.4f} "
                f"{numbers['seconds']:8.3f} {numbers['seconds'] / one_pass:9.0f} {numbers['MiB']:6.0f}",
                flush=True,
            )
    if options.model or len(options.sizes) < 2:
        return
    print("\nseconds ~ n to the power of")
    for name, points in times.items():
        if len(points) > 1:
            slope = np.polyfit(np.log([n for n, _ in points]), np.log([s for _, s in points]), 1)[0]
            print(f"  {name:26} {slope:.2f}")


if __name__ == "__main__":
    main()
