"""What ordering gives anyway: the same pipeline on matrices without learned structure.

Any matrix, sorted, shows bright neighbours. So a trained score is compared with the scores of random matrices that
were ordered in the same way, with the same effort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.stats import t as student_t
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.neurons.order import neighbour_similarity, order_neurons, window_similarity
from mi_superposition.neurons.similarity import NeuronVectors

# What is compared with weights, and with activations.
WEIGHT_KINDS = ("gaussian", "spectrum", "shuffled", "untrained")
ACTIVATION_KINDS = ("shifted", "untrained")
KINDS: dict[str, str] = {
    "gaussian": "Gaussian of the same shape",
    "spectrum": "same row norms and spectrum",
    "shuffled": "rows shuffled elementwise",
    "untrained": "untrained initialisation",
    "shifted": "activations shifted in time",
}
# Rounds of imposing the spectrum and the row norms in turn.
_ALTERNATIONS = 8


@dataclass(frozen=True)
class Control:
    """What one kind of control gave: for each sample its score, the sorted neighbour similarities along its path, and of
    the windows of its order the mean, the variance and the largest of their similarities.
    """

    kind: str
    scores: Float[Tensor, " sample"]
    profiles: Float[Tensor, "sample step"]
    window_mean: Float[Tensor, " sample"]
    window_variance: Float[Tensor, " sample"]
    window_most: Float[Tensor, " sample"]

    def z_score(self, score: float) -> float:
        """Standard deviations by which ``score`` exceeds the mean of the control; infinite where that never varies."""
        mean, deviation = float(self.scores.mean()), float(self.scores.std(correction=1))
        if len(self.scores) < 2 or deviation == 0:
            return math.copysign(math.inf, score - mean) if score != mean else 0.0
        return (score - mean) / deviation

    def p_value(self, score: float) -> float:
        """Two-sided probability that one more sample of the control lies as far from the others' mean as ``score``.

        By Student's t with as many samples as there are; 1 with fewer than two, which say nothing.
        """
        n = len(self.scores)
        if n < 2:
            return 1.0
        return float(2 * student_t.sf(abs(self.z_score(score)) / math.sqrt(1 + 1 / n), n - 1))

    def percentile(self, score: float) -> float:
        """Percentage of the control's scores that are below ``score``."""
        return 100 * float((self.scores < score).double().mean())


def randomised(vectors: Float[Tensor, "neuron d"], kind: str, generator: torch.Generator) -> Float[Tensor, "neuron d"]:
    """A matrix without the structure of ``vectors``.

    ``"gaussian"``: independent normal entries, same shape. ``"spectrum"``: a random matrix with the same row norms
    (exactly) and nearly the same singular values. ``"shuffled"``: every row's own entries in a random order. Raises
    ``RequestError`` for another kind.
    """
    shape = vectors.shape
    if kind == "gaussian":
        return torch.randn(shape, generator=generator)
    if kind == "shuffled":
        return vectors.float().gather(1, torch.rand(shape, generator=generator).argsort(dim=1))
    if kind != "spectrum":
        raise RequestError(f"control = {kind!r}: give {' or '.join(map(repr, WEIGHT_KINDS))}")
    norms = vectors.double().norm(dim=1)
    tall = shape[0] >= shape[1]
    spectrum = _eigenvalues(vectors.double(), tall)[0].sqrt()
    random = torch.randn(shape, generator=generator, dtype=torch.float64)
    for _ in range(_ALTERNATIONS):
        squares, basis = _eigenvalues(random, tall)
        stretch = spectrum / squares.clamp_min(1e-30).sqrt()
        # Tall: in the basis of its own right singular vectors, a rotation which no cosine sees.
        random = random @ basis * stretch if tall else basis @ (stretch[:, None] * (basis.T @ random))
        random *= (norms / random.norm(dim=1).clamp_min(1e-30))[:, None]
    return random.float()


def _eigenvalues(matrix: Float[Tensor, "neuron d"], tall: bool) -> tuple[Tensor, Tensor]:
    """Squares of the singular values and the singular vectors of the shorter side, from the smaller Gram matrix."""
    values, basis = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
    return values.clamp_min(0), basis


def control_vectors(
    vectors: NeuronVectors, kind: str, n: int, *, seed: int, untrained: Callable[[int], NeuronVectors] | None = None
) -> Iterator[NeuronVectors]:
    """``n`` samples of one kind. ``untrained(seed)`` gives the vectors of a freshly initialised model."""
    for sample in range(n):
        if kind == "untrained":
            if untrained is None:
                raise RequestError("control = 'untrained' needs a model that can be initialised afresh")
            yield untrained(seed + sample)
        else:
            generator = torch.Generator().manual_seed(hash_seed(seed, kind, sample))
            yield NeuronVectors(tuple(randomised(part.cpu(), kind, generator) for part in vectors.parts))


def hash_seed(seed: int, kind: str, sample: int) -> int:
    """A seed of its own for each control sample."""
    return (seed * 1_000_003 + sample) * len(KINDS) + list(KINDS).index(kind)


def measure_control(
    kind: str,
    similarities: Iterator[Float[Tensor, "neuron neuron"]],
    *,
    seed: int,
    seconds: float,
    window: int = 8,
    threads: int = 2,
) -> Control:
    """Order every sample as the trained matrix was ordered, and measure its windows of ``window`` neurons.

    ``threads`` samples are ordered side by side while the next is drawn; no others are in memory. Raises
    ``RequestError`` when there are no samples.
    """

    def measure(similarity: Float[Tensor, "neuron neuron"]) -> tuple[float, Tensor, Tensor]:
        found = order_neurons(similarity, seed=seed, seconds=seconds, bound=False)
        profile = neighbour_similarity(similarity, found.order).abs().sort(descending=True).values
        return found.score, profile, window_similarity(similarity, found.order, min(window, len(similarity)))

    measured = []
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for similarity in similarities:
            waiting.append(pool.submit(measure, similarity))
            if len(waiting) == threads:
                measured.append(waiting.pop(0).result())
        measured += [future.result() for future in waiting]
    if not measured:
        raise RequestError(f"no samples of the control {kind!r}: give at least one")
    scores, profiles, windows = zip(*measured, strict=True)
    stretches = torch.stack(list(windows))
    return Control(
        kind,
        torch.tensor(scores, dtype=torch.float64),
        torch.stack(list(profiles)),
        window_mean=stretches.mean(dim=1),
        window_variance=stretches.var(dim=1, correction=0),
        window_most=stretches.amax(dim=1),
    )
