"""What ordering alone produces: the same search on matrices without learned structure.

Any matrix shows similar neighbours after it is ordered. So a trained score is compared with the scores of random matrices that
were ordered by the same search with the same number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import t as student_t
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.neurons.config import OrderConfig
from mi_superposition.neurons.order import NeuronOrder, order_neurons, window_similarity
from mi_superposition.neurons.similarity import NeuronVectors
from mi_superposition.parts import ThreadsPart
from mi_superposition.results import Result
from mi_superposition.training import derived_seed

# What is compared with weights, and with activations.
WEIGHT_KINDS = ("gaussian", "spectrum", "shuffled", "untrained")
ACTIVATION_KINDS = ("shifted", "untrained")
KINDS: dict[str, str] = {
    "gaussian": "Gaussian of the same shape",
    "spectrum": "same row norms and spectrum",
    "shuffled": "entries shuffled within each row",
    "untrained": "untrained initialisation",
    "shifted": "activations shifted in position",
}
# The kinds that were published with seeds interleaved in this order. It stays as it is, so that their numbers do; any further
# kind is seeded by its name.
_INTERLEAVED = ("gaussian", "spectrum", "shuffled", "untrained", "shifted")
# Rounds of imposing the spectrum and the row norms in turn.
_ALTERNATIONS = 8


@dataclass(frozen=True, repr=False)
class Control(Result):
    """Ordered samples of one kind of control.

    For each sample: its score, the sorted magnitudes of its neighbours' similarities (``profiles``), and of the mean squared
    similarities of the windows of its order their mean, variance and maximum. ``example`` is the order of the first sample.
    ``bounds`` are proven: no order of a sample scores more (``None`` where they were not asked for, and in older files).
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.neuron_order:control_curve"

    kind: str
    scores: Float[Tensor, " sample"]
    profiles: Float[Tensor, "sample step"]
    window_mean: Float[Tensor, " sample"]
    window_variance: Float[Tensor, " sample"]
    window_max: Float[Tensor, " sample"]
    example: NeuronOrder
    bounds: Float[Tensor, " sample"] | None = None

    @property
    def highest(self) -> float:
        """The largest score that any order of any of the samples can have; infinite where it was not computed."""
        return math.inf if self.bounds is None else float(self.bounds.max())

    def gain(self, score: float) -> float:
        """By how much ``score`` exceeds the mean of the samples' scores, relative to it (0 for a mean of 0)."""
        mean = float(self.scores.mean())
        return score / mean - 1 if mean > 0 else 0.0

    @property
    def name(self) -> str:
        """What the kind is called."""
        return KINDS[self.kind]

    def summary(self) -> str:
        """The mean score and its standard deviation."""
        return f"{self.name}: score {float(self.scores.mean()):.2f} ± {float(self.scores.std()):.2f} ({len(self.scores)} samples, ordered)"

    def to_frame(self) -> pd.DataFrame:
        """One row per sample."""
        columns = {name: getattr(self, name).tolist() for name in ("window_mean", "window_variance", "window_max")}
        bounds = {} if self.bounds is None else {"upper_bound": self.bounds.tolist()}
        return pd.DataFrame({"score": self.scores.tolist(), **bounds, **columns}).rename_axis("sample")

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
    """A seed of its own for each sample of each kind, whatever other kinds there are."""
    if kind in _INTERLEAVED:
        return ((seed * 1_000_003 + sample) * len(_INTERLEAVED) + _INTERLEAVED.index(kind)) % 2**63
    return derived_seed(seed, f"control {kind}", sample) % 2**63


def measure_control(
    kind: str,
    similarities: Iterator[Float[Tensor, "neuron neuron"]],
    *,
    seed: int,
    seconds: float,
    window: int = OrderConfig.window,
    threads: int = ThreadsPart().number,
    bound: bool = True,
) -> Control:
    """Order every sample as the trained matrix was ordered, bound the score of any order of it unless told not to, and measure its windows of
    ``window`` neurons.

    ``threads`` samples are ordered at the same time while the next is drawn; no others are in memory. Raises
    ``RequestError`` when there are no samples.
    """

    def measure(similarity: Float[Tensor, "neuron neuron"]) -> tuple[NeuronOrder, Tensor]:
        order = order_neurons(similarity, seed=seed, seconds=seconds, bound=bound)
        return order, window_similarity(similarity, order.order, min(window, len(similarity)))

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
    orders = [order for order, _ in measured]
    windows = torch.stack([values for _, values in measured])
    return Control(
        kind,
        scores=torch.tensor([order.score for order in orders], dtype=torch.float64),
        profiles=torch.stack([order.neighbours.abs().sort(descending=True).values for order in orders]),
        window_mean=windows.mean(dim=1),
        window_variance=windows.var(dim=1, correction=0),
        window_max=windows.amax(dim=1),
        example=orders[0],
        bounds=torch.tensor([order.upper_bound for order in orders], dtype=torch.float64) if bound else None,
    )
