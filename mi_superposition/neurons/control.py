"""What ordering gives anyway: the same pipeline on matrices without learned structure.

Any matrix, sorted, shows bright neighbours. So a trained score is compared with the scores of random matrices that
were ordered in the same way, with the same effort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from scipy.stats import t as student_t
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.neurons.order import neighbour_similarity, order_neurons
from mi_superposition.neurons.similarity import NeuronVectors

Kind = Literal["gaussian", "spectrum", "shuffled", "untrained"]
KINDS: dict[str, str] = {
    "gaussian": "Gaussian of the same shape",
    "spectrum": "same row norms and spectrum",
    "shuffled": "rows shuffled elementwise",
    "untrained": "untrained initialisation",
}
# Rounds of imposing the spectrum and the row norms in turn.
_ALTERNATIONS = 8


@dataclass(frozen=True)
class Control:
    """Scores of one kind of control, and for each the sorted neighbour similarities along its path."""

    kind: str
    scores: Float[Tensor, " sample"]
    profiles: Float[Tensor, "sample step"]

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
        raise RequestError(f"control = {kind!r}: give {' or '.join(repr(kind) for kind in KINDS)}")
    norms = vectors.double().norm(dim=1)
    spectrum = torch.linalg.eigvalsh(vectors.T.double() @ vectors.double()).clamp_min(0).sqrt()
    random = torch.randn(shape, generator=generator, dtype=torch.float64)
    for _ in range(_ALTERNATIONS):
        squares, basis = torch.linalg.eigh(random.T @ random)
        # In the basis of its own singular vectors: a rotation, which no cosine sees.
        random = random @ basis * (spectrum / squares.clamp_min(1e-30).sqrt())
        random *= (norms / random.norm(dim=1).clamp_min(1e-30))[:, None]
    return random.float()


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
    threads: int = 2,
    on_sample: Callable[[], None] = lambda: None,
) -> Control:
    """Order every sample as the trained matrix was ordered. Samples are ordered side by side in ``threads`` threads,
    and no more of them are in memory at a time.
    """

    def measure(similarity: Float[Tensor, "neuron neuron"]) -> tuple[float, Float[Tensor, " step"]]:
        found = order_neurons(similarity, seed=seed, seconds=seconds, bound=False)
        profile = neighbour_similarity(similarity, found.order).abs().sort(descending=True).values
        on_sample()
        return found.score, profile

    measured = []
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for similarity in similarities:
            waiting.append(pool.submit(measure, similarity))
            if len(waiting) == threads:
                measured.append(waiting.pop(0).result())
        measured += [future.result() for future in waiting]
    scores, profiles = zip(*measured, strict=True)
    return Control(kind, torch.tensor(scores, dtype=torch.float64), torch.stack(list(profiles)))
