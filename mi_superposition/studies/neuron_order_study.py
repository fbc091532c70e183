"""Measuring the order of neurons with everything it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.corpora import Corpus, model_batches
from mi_superposition.errors import RequestError
from mi_superposition.models import untrained_copy
from mi_superposition.neurons import (
    ClusterOrder,
    Control,
    NeuronOrder,
    NeuronVectors,
    Spot,
    cluster_neurons,
    control_vectors,
    find_spots,
    measure_control,
    neighbour_similarity,
    neuron_correlations,
    neuron_vectors,
    order_neurons,
)
from mi_superposition.neurons.control import ACTIVATION_KINDS, KINDS, WEIGHT_KINDS, hash_seed
from mi_superposition.neurons.order import path_score
from mi_superposition.neurons.similarity import Measure, check_layer

# Beyond so many neurons a sample takes seconds, so fewer are drawn; so too where each is a pass over a corpus.
MANY_NEURONS = 2048
_CONTROLS, FEW_CONTROLS = 20, 5
_ROWS_AT_ONCE = 32
# Below this probability, over all comparisons, a difference is not called chance.
_SURE = 0.01


@dataclass(frozen=True)
class NeuronOrderStudy:
    """An order of neurons with everything it is compared with.

    ``examples`` holds for each kind of control the similarity and the order of its first sample, ``clusters_by_chance``
    how many clusters the same clustering finds in it. ``spots`` are judged by ``spot_control``, the control with the
    tightest windows.
    """

    similarity: Float[Tensor, "neuron neuron"]
    found: NeuronOrder
    clusters: ClusterOrder
    controls: list[Control]
    examples: dict[str, tuple[Float[Tensor, "neuron neuron"], Int[Tensor, " neuron"]]]
    clusters_by_chance: dict[str, int]
    spots: list[Spot]
    spot_control: Control

    @property
    def unordered_score(self) -> float:
        """Score of the neurons as they stand in the model."""
        return path_score(self.similarity.square(), torch.arange(len(self.similarity)))


@dataclass(frozen=True)
class Source:
    """Where similarities come from: the trained one, and samples of each kind of control."""

    trained: Callable[[], Float[Tensor, "neuron neuron"]]
    samples: dict[str, Callable[[int], Iterator[Float[Tensor, "neuron neuron"]]]]
    few: bool


def weight_source(model: HookedTransformer, layer: int, weights: str, seed: int, measure: Measure = "cosine") -> Source:
    """How alike directions in the weights are."""
    vectors = neuron_vectors(model, layer, weights)

    def untrained(sample_seed: int) -> NeuronVectors:
        return neuron_vectors(untrained_copy(model, sample_seed), layer, weights)

    def sampler(kind: str) -> Callable[[int], Iterator[Tensor]]:
        return lambda n: (
            sample.similarity(measure) for sample in control_vectors(vectors, kind, n, seed=seed, untrained=untrained)
        )

    return Source(lambda: vectors.similarity(measure), {kind: sampler(kind) for kind in WEIGHT_KINDS}, few=False)


def activation_source(model: HookedTransformer, layer: int, corpus: Corpus, rows: int, seed: int) -> Source:
    """Correlation between activations over the first ``rows`` rows of a corpus."""
    check_layer(model, layer)
    batches = model_batches(model, corpus, _ROWS_AT_ONCE)

    held: list[tuple[Tensor, Tensor]] = []

    def read() -> list[tuple[Tensor, Tensor]]:
        """The rows, read once: every control passes over the same ones."""
        left = rows
        for batch in batches if not held else ():
            held.append((batch.tokens[:left], batch.mask[:left]))
            left -= len(batch.tokens)
            if left <= 0:
                break
        return held

    def shifted(n: int) -> Iterator[Tensor]:
        for sample in range(n):
            generator = torch.Generator().manual_seed(hash_seed(seed, "shifted", sample))
            yield neuron_correlations(model, read(), layer, shift=generator)

    def untrained(n: int) -> Iterator[Tensor]:
        for sample in range(n):
            yield neuron_correlations(untrained_copy(model, seed + sample), read(), layer)

    return Source(
        lambda: neuron_correlations(model, read(), layer),
        dict(zip(ACTIVATION_KINDS, (shifted, untrained), strict=True)),
        few=True,
    )


def neuron_order_study(
    source: Source,
    *,
    n_controls: int | None = None,
    window: int = 8,
    seed: int = 0,
    seconds: float = 0.5,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> NeuronOrderStudy:
    """Order, bound, cluster; do the same with every control; rank the spots. Trained and control orders are searched
    with the same effort, ``seconds``.
    """
    on_stage("trained order")
    similarity = source.trained()
    if not 2 <= window <= len(similarity):
        raise RequestError(f"window = {window}: must be 2 to the number of neurons, {len(similarity)}")
    found = order_neurons(similarity, seed=seed, seconds=seconds)
    clusters = cluster_neurons(similarity, seed=seed)
    if n_controls is None:
        n_controls = FEW_CONTROLS if source.few or len(similarity) > MANY_NEURONS else _CONTROLS
    controls, examples, by_chance = [], {}, {}
    for kind, samples in source.samples.items():
        on_stage(f"control: {KINDS[kind]}")
        control = measure_control(kind, samples(n_controls), seed=seed, seconds=seconds, window=window)
        controls.append(control)
        first = next(iter(samples(1)))
        examples[kind] = (first, order_neurons(first, seed=seed, seconds=seconds, bound=False).order)
        by_chance[kind] = cluster_neurons(first, seed=seed, seconds=0.0).n_clusters
    on_stage("spots")
    tightest = max(controls, key=lambda control: float(control.window_most.mean()))
    spots = find_spots(similarity, found.order, tightest, window=window)
    return NeuronOrderStudy(similarity, found, clusters, controls, examples, by_chance, spots, tightest)


def check_request(n_controls: int | None, window: int, seconds: float, rows: int) -> None:
    """Raise ``RequestError`` for numbers that no study can be made with."""
    if n_controls is not None and n_controls < 2:
        raise RequestError(f"controls = {n_controls}: a z-score needs at least 2")
    for name, value, least in (("window", window, 2), ("rows", rows, 1)):
        if value < least:
            raise RequestError(f"{name} = {value}: must be at least {least}")
    if seconds < 0:
        raise RequestError(f"seconds = {seconds}: must be at least 0")


def hardest(study: NeuronOrderStudy) -> Control:
    """The control that is hardest to beat: the one against which the trained score has the smallest z."""
    return min(study.controls, key=lambda control: control.z_score(study.found.score))


def least_p(study: NeuronOrderStudy) -> float:
    """The p of a spot that is tighter than every window of every sample."""
    return 1 / (1 + len(study.spot_control.window_most))


def verdict(study: NeuronOrderStudy) -> str:
    """What the comparison says, in one sentence."""
    control = hardest(study)
    name, score = KINDS[control.kind], study.found.score
    z, p = control.z_score(score), control.p_value(score)
    # As many comparisons as controls, so each must be surer by as much.
    if p * len(study.controls) > _SURE:
        return f"No more than chance: {z:+.1f} standard deviations from the hardest control ({name}), p = {p:.2g}."
    gain = 100 * (score / float(control.scores.mean()) - 1)
    sure = f"{abs(z):.1f} standard deviations {'above' if z > 0 else 'below'} the hardest control ({name}), {abs(gain):.0f} % of its score; p = {p:.1g} if scores are normal"
    if z > 0:
        n = sum(spot.p <= least_p(study) for spot in study.spots)
        clusters = f"{study.clusters.n_clusters} clusters, and {min(study.clusters_by_chance.values())} to {max(study.clusters_by_chance.values())} in the controls"
        return (
            f"Neighbours lie more nearly along one line than sorting alone makes them: {sure}. Groups are another matter: {n} stretches "
            f"are tighter than every stretch of the control, and a search for clusters finds {clusters}."
        )
    return (
        f"Neighbours lie less along one line than in an ordered random matrix: {sure}. The directions are spread more evenly than "
        "chance spreads them."
    )


def opposite_share(study: NeuronOrderStudy) -> float:
    """Share of neighbours on the path that point against each other: the score squares cosines, so these count as much."""
    return float((neighbour_similarity(study.similarity, study.found.order) < 0).float().mean())


def neuron_order_metrics(study: NeuronOrderStudy) -> dict[str, float | int]:
    """The study's numbers, flat. A z-score that is infinite (a control that never varies) is left out."""
    metrics: dict[str, float | int] = {
        "n_neurons": len(study.found.order),
        "score": study.found.score,
        "upper_bound": study.found.upper_bound,
        "gap": study.found.gap,
        "unordered_score": study.unordered_score,
        "opposite_neighbours": opposite_share(study),
        "clusters": study.clusters.n_clusters,
        "spots_above_control": sum(spot.p <= least_p(study) for spot in study.spots),
        "spots_above_control_p": least_p(study),
    }
    for control in study.controls:
        z = control.z_score(study.found.score)
        metrics |= {
            f"{control.kind}_samples": len(control.scores),
            f"{control.kind}_score_mean": float(control.scores.mean()),
            f"{control.kind}_score_sd": float(control.scores.std()),
            f"{control.kind}_p": control.p_value(study.found.score),
            f"{control.kind}_percentile": control.percentile(study.found.score),
            f"{control.kind}_clusters": study.clusters_by_chance[control.kind],
        }
        if abs(z) != float("inf"):
            metrics[f"{control.kind}_z"] = z
    return metrics
