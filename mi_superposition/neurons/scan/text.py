"""One neuron on a text of one's own."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from mi_superposition.corpora import as_batches, model_batches
from mi_superposition.corpora.tokens import running_text, visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.scan.names import unit_name
from mi_superposition.neurons.scan.reader import UnitReader
from mi_superposition.neurons.scan.shading import shaded_html
from mi_superposition.neurons.similarity import check_layer
from mi_superposition.results import Result

_STRONGEST = 5


@dataclass(frozen=True, repr=False)
class TextActivations(Result):
    """A neuron's activation on every token of a text."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.neurons.text:figure"

    name: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    def text(self) -> list[str]:
        """The tokens as they read one after the other: see ``running_text``."""
        return running_text(self.tokens)

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(map(abs, self.activations))

    def strongest(self) -> list[tuple[str, float]]:
        """The tokens with the largest activations, the largest first."""
        pairs = zip(self.tokens, self.activations, strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])[:_STRONGEST]

    def summary(self) -> str:
        """The strongest tokens."""
        shown = ", ".join(f"{token.strip() or repr(token)} {value:.2f}" for token, value in self.strongest())
        return f"{self.name} on {len(self.tokens)} tokens: {shown}"

    def to_frame(self) -> pd.DataFrame:
        """One row per token."""
        return pd.DataFrame({"token": self.tokens, "activation": self.activations}).rename_axis("position")

    def _repr_html_(self) -> str:
        """The text, shaded by activation."""
        text = shaded_html(self.text(), self.activations, self.largest)
        return f"<p>{html.escape(self.summary())}</p><p style='white-space: pre-wrap'>{text}</p>"


def neuron_on_text(
    model: HookedModel, text: str | Int[Tensor, "*batch pos"], layer: int, neuron: int
) -> TextActivations:
    """A neuron's activations (after the activation function) on a text, or the tokens of one, that fits into the model's context.

    Raises ``RequestError`` for a neuron that is not there, or an empty or too long text.
    """
    check_layer(model, layer)
    d_mlp = model.blocks[layer].mlp.W_out.shape[0]
    if not 0 <= neuron < d_mlp:
        raise RequestError(f"neuron = {neuron}: layer {layer} has neurons 0 to {d_mlp - 1}")
    if isinstance(text, str):
        batches = list(model_batches(model, [text] if text.strip() else [], 2))
    else:
        batches = list(as_batches(model, text))
        if len(batches[0].tokens) > 1:
            raise RequestError(f"tokens of shape {tuple(text.shape)}: give those of one text")
    if not batches or not bool(batches[0].mask.any()):
        raise RequestError(f"text = {text!r}: give something to read")
    batch = batches[0]
    if len(batch.tokens) > 1 or len(batches) > 1:
        raise RequestError(
            f"the text has more tokens than the model's context of {model.cfg.n_ctx}: give a shorter one"
        )
    hook = f"blocks.{layer}.mlp.hook_post"
    activations = UnitReader.of(model, [hook]).read(batch.tokens)[hook][0][batch.mask][:, neuron]
    strings = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    return TextActivations(
        name=unit_name(hook, neuron),
        tokens=tuple(strings[token] for token in batch.tokens[batch.mask].tolist()),
        activations=tuple(activations.tolist()),
    )
