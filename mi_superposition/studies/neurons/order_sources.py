"""Where the similarities of neurons come from, trained and random: the weights of a model, or its activations on a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.corpora import Content, model_batches
from mi_superposition.models import untrained_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import NeuronVectors, control_vectors, neuron_correlations, neuron_vectors
from mi_superposition.neurons.config import Measure
from mi_superposition.neurons.control import ACTIVATION_KINDS, WEIGHT_KINDS, hash_seed
from mi_superposition.neurons.similarity import check_layer

# The control that shifts activations does so within a batch, so its numbers depend on this one.
_SEQUENCES_AT_ONCE = 32

Samples = Callable[[int], Iterator[Float[Tensor, "neuron neuron"]]]


@dataclass(frozen=True)
class Source:
    """The trained similarity, and as many samples as are asked for of each kind of control.

    ``costly``: each sample is a pass over a corpus. ``part`` gives the same of some of the neurons, with controls that are drawn from these
    alone; ``None`` where that cannot be done.
    """

    n_neurons: int
    trained: Callable[[], Float[Tensor, "neuron neuron"]]
    samples: dict[str, Samples]
    costly: bool = False
    part: Callable[[Int[Tensor, " some"]], Source] | None = None


def weight_source(model: HookedModel, layer: int, weights: str, measure: Measure, seed: int) -> Source:
    """Similarity of directions in the weights. Raises as ``neuron_vectors`` does."""
    vectors = neuron_vectors(model, layer, weights)

    def source_of(some: Int[Tensor, " some"]) -> Source:
        chosen = _rows(vectors, some)

        def untrained(sample_seed: int) -> NeuronVectors:
            return _rows(neuron_vectors(untrained_copy(model, sample_seed), layer, weights), some)

        def samples_of(kind: str) -> Samples:
            return lambda n: (
                sample.similarity(measure)
                for sample in control_vectors(chosen, kind, n, seed=seed, untrained=untrained)
            )

        return Source(
            n_neurons=len(some),
            trained=lambda: chosen.similarity(measure),
            samples={kind: samples_of(kind) for kind in WEIGHT_KINDS},
            part=lambda fewer: source_of(some[fewer]),
        )

    return source_of(torch.arange(len(vectors.parts[0])))


def _rows(vectors: NeuronVectors, some: Int[Tensor, " some"]) -> NeuronVectors:
    return NeuronVectors(tuple(part[some.to(part.device)] for part in vectors.parts))


def activation_source(
    model: HookedModel, layer: int, documents: Iterable[Content], n_documents: int | None, seed: int
) -> Source:
    """Correlation between activations over the first ``n_documents`` documents (``None``: all).

    Raises ``RequestError`` for a layer that is not there.
    """
    check_layer(model, layer)
    batches = model_batches(model, islice(documents, n_documents), _SEQUENCES_AT_ONCE)

    @cache
    def sequences() -> list[tuple[Tensor, Tensor]]:
        """Read once: every control passes over the same ones."""
        return [(batch.tokens, batch.mask) for batch in batches]

    def shifted(n: int) -> Iterator[Tensor]:
        for sample in range(n):
            generator = torch.Generator().manual_seed(hash_seed(seed, "shifted", sample))
            yield neuron_correlations(model, sequences(), layer, shift=generator)

    def untrained(n: int) -> Iterator[Tensor]:
        for sample in range(n):
            yield neuron_correlations(untrained_copy(model, seed + sample), sequences(), layer)

    return Source(
        n_neurons=model.blocks[layer].mlp.W_out.shape[0],
        trained=lambda: neuron_correlations(model, sequences(), layer),
        samples=dict(zip(ACTIVATION_KINDS, (shifted, untrained), strict=True)),
        costly=True,
    )
