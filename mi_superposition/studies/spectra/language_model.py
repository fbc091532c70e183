"""A language model whose spectra are measured on text, without training here."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from mi_superposition.corpora import Corpus, TokenBatch, model_batches
from mi_superposition.models import hook_widths, layer_hooks, model_record, read_hooks, untrained_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.progress import Progress
from mi_superposition.room import check_memory
from mi_superposition.runs import Run
from mi_superposition.spectra import hooked_covariances, hooked_weight_matrices, matching
from mi_superposition.spectra.config import SpectraConfig
from mi_superposition.spectra.result import LayerSpectra, spectrum_of_activations, spectrum_of_weights
from mi_superposition.streaming import covariance_bytes
from mi_superposition.studies.spectra.network import State, stoppable
from mi_superposition.studies.spectra.pictures import Pictures, histogram, some_weights

# Sequences per forward pass.
_FORWARD_BATCH = 8


class MeasuredLanguageModel:
    """A language model and the text that it reads; without text only its weights are measured.

    Raises ``RequestError`` for layers that are not there.
    """

    # The number of batches is known after the last one.
    n_steps: int | None = None

    def __init__(self, config: SpectraConfig, model: HookedModel, corpus: Corpus | None):
        self.config, self.corpus = config, corpus
        self.models: dict[State, HookedModel] = {
            "trained": model,
            "untrained": untrained_copy(model, config.random.seed),
        }
        matrices = [layer for layer, _ in hooked_weight_matrices(model)]
        hooks = [] if corpus is None else layer_hooks(model)
        chosen = set(matching([*matrices, *hooks], config.layers, repr(config.model.name)))
        self.matrices = [layer for layer in matrices if layer in chosen]
        self.hooks = [hook for hook in hooks if hook in chosen]

    def inputs(self) -> dict[str, Any]:
        """The model and the text."""
        model = model_record(self.config.model.name, self.models["trained"])
        return {"model": model, **({} if self.corpus is None else {"corpus": self.corpus.identity()})}

    def check_room(self) -> None:
        """Raise ``RequestError`` where there is not enough for the covariances of one state."""
        widths = hook_widths(self.models["trained"], self.hooks).values() if self.hooks else ()
        check_memory(covariance_bytes(widths), f"the covariances of {len(self.hooks)} activations (layers)")

    def train(self, run: Run, progress: Progress) -> None:
        """Nothing: it is trained already."""

    def measure(self, state: State, progress: Progress) -> LayerSpectra:
        """Spectra of all chosen layers, over all tokens."""
        model = self.models[state]
        batches = stoppable(self._batches(), state, progress) if self.hooks else ()
        seen = hooked_covariances(model, batches, self.hooks)
        weights = {
            name: spectrum_of_weights(matrix) for name, matrix in hooked_weight_matrices(model) if name in self.matrices
        }
        return LayerSpectra(weights, {name: spectrum_of_activations(one) for name, one in seen.items()})

    def pictures(self, state: State) -> Pictures:
        """Of the first batch of text."""
        weights = some_weights(hooked_weight_matrices(self.models[state]), self.matrices)
        if not self.hooks:
            return Pictures(weights, {})
        batch = next(iter(self._batches()))
        activations = read_hooks(self.models[state], batch.tokens, self.hooks)
        return Pictures(
            weights,
            {name: histogram(activations[name][batch.mask.to(activations[name].device)]) for name in self.hooks},
        )

    def metrics(self) -> dict[str, float | int]:
        """What the corpus lost."""
        return {} if self.corpus is None else self.corpus.losses(self.config.text.documents)

    def _batches(self) -> Iterable[TokenBatch]:
        model = self.models["trained"]
        documents = itertools.islice(iter(self.corpus or ()), self.config.text.documents)
        return model_batches(model, documents, _FORWARD_BATCH)
