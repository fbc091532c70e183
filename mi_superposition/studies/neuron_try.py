"""What one neuron makes of a text one types."""

from __future__ import annotations

import re

from mi_superposition.corpora import model_batches
from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.models import load_model
from mi_superposition.neurons.scan import UnitReader
from mi_superposition.neurons.similarity import check_layer

# Of the terminal's 256 colours: grounds from pale to deep orange for activations above zero, blue for those below.
_ORANGE, _BLUE = (230, 223, 216, 215, 208, 202), (195, 159, 117, 75, 33, 27)
_STRONGEST = 5


def neuron_try(text: str, neuron: str, model_name: str = "stories", *, coloured: bool = True) -> str:
    """The text with a ground behind each token as deep as the neuron's activation, and its strongest tokens below.

    ``neuron`` is ``LAYER.NUMBER``. Shades are relative to the largest size in the text. Without colours every token is
    followed by its activation. Raises ``RequestError`` for a neuron that is not there, or an empty or too long text.
    """
    match = re.fullmatch(r"(\d+)\.(\d+)", neuron)
    if not match:
        raise RequestError(f"neuron = {neuron!r}: give LAYER.NUMBER, such as 1.5")
    layer, number = int(match[1]), int(match[2])
    model = load_model(model_name)
    check_layer(model, layer)
    d_mlp = model.blocks[layer].mlp.W_out.shape[0]
    if number >= d_mlp:
        raise RequestError(f"neuron = {neuron!r}: layer {layer} has neurons 0 to {d_mlp - 1}")
    read = model_batches(model, [text], 2)
    batches = list(read)
    if not text.strip() or not batches:
        raise RequestError(f"text = {text!r}: give something to read")
    batch = batches[0]
    if len(batch.tokens) > 1 or len(batches) > 1:
        raise RequestError(
            f"the text has more tokens than the model's context of {model.cfg.n_ctx}: give a shorter one"
        )
    hook = f"blocks.{layer}.mlp.hook_post"
    activations = UnitReader.of(model, [hook]).read(batch.tokens)[hook][0][batch.mask][:, number].tolist()
    strings = visible_tokens(read.tokenizer, model.cfg.d_vocab)
    tokens = [strings[token] for token in batch.tokens[batch.mask].tolist()]
    reach = max(map(abs, activations)) or 1.0
    if coloured:
        shown = "".join(_coloured(token, value / reach) for token, value in zip(tokens, activations, strict=True))
    else:
        shown = "".join(f"{token}[{value:.2f}]" for token, value in zip(tokens, activations, strict=True))
    strongest = sorted(zip(activations, tokens, strict=True), key=lambda pair: -pair[0])[:_STRONGEST]
    return f"{shown}\n" + "   ".join(f"{token.strip() or repr(token)} {value:.2f}" for value, token in strongest)


def _coloured(token: str, share: float) -> str:
    """The token on its ground; below a twentieth of the largest none."""
    shades = _ORANGE if share > 0 else _BLUE
    if abs(share) < 0.05:
        return token
    return f"\x1b[48;5;{shades[min(int(abs(share) * len(shades)), len(shades) - 1)]};30m{token}\x1b[0m"
