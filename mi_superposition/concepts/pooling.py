"""One vector a text: the mean of what a layer makes of its tokens, padding and special tokens left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError
from mi_superposition.models import FEATURES, Encode, layer_hooks, read_hooks
from mi_superposition.models.encoders import Encoder

_BATCH = 64
# Where encoders of transformers keep the activations of their neurons: BERT and its kin, and DistilBERT.
_NEURONS = ("intermediate", "ffn.activation")


def masked_mean(values: Float[Tensor, "batch pos d"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch d"]:
    """The mean over the places where ``mask`` is true. Raises ``RequestError`` for a row that has none."""
    counts = mask.sum(dim=1, keepdim=True)
    if bool((counts == 0).any()):
        raise RequestError(f"text {int((counts == 0).nonzero()[0, 0])} of the batch has no tokens: leave it out")
    # Masked and not multiplied: what stands in the padding may be no number.
    return values.masked_fill(~mask[:, :, None], 0).sum(dim=1) / counts


@torch.no_grad()
def pool_texts(
    model: Any,
    texts: Sequence[str],
    *,
    tokenizer: Any = None,
    encode: Mapping[str, Encode] | None = None,
    on_texts: Callable[[int], None] = lambda n: None,
) -> dict[str, Float[Tensor, "text d"]]:
    """The mean activations of every text at every layer, by the layer's name, on the CPU.

    Of an ``Encoder`` the hidden states (``hidden_states.0`` are the embeddings) and, where it is a BERT or DistilBERT, the
    neurons of each layer; of a hooked model the residual stream and the neurons. Longer texts are cut at the model's context.
    ``tokenizer`` is for a hooked model that came without its own, such as an untrained copy. ``encode`` makes further units of
    its hooks, such as ``sae.encode``; these go by the name ``HOOK.features``.
    Raises ``RequestError`` for a text without tokens.
    """
    if not texts:
        raise RequestError("no texts: give at least one")
    parts = (
        _encoded(model, texts)
        if isinstance(model, Encoder)
        else _hooked(model, tokenizer or model.tokenizer, texts, encode or {})
    )
    pooled: dict[str, Tensor] = {}
    done = torch.zeros(len(texts), dtype=torch.bool)
    for places, means in parts:
        for name, values in means.items():
            if name not in pooled:
                pooled[name] = torch.zeros(len(texts), values.shape[1])
            pooled[name][places] = values.float().cpu()
        done[places] = True
        on_texts(len(places))
    if not bool(done.all()):
        missing = int((~done).nonzero()[0])
        raise RequestError(f"text {missing} ({texts[missing][:40]!r}) has no tokens: leave it out")
    return pooled


def _hooked(
    model: Any, tokenizer: Any, texts: Sequence[str], encode: Mapping[str, Encode]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    hooks = [hook for hook in layer_hooks(model) if not hook.endswith("hook_z")]
    hooks += [hook for hook in encode if hook not in hooks]
    batches = token_batches(texts, tokenizer, batch=_BATCH, context=model.cfg.n_ctx, long="truncate", by_length=True)
    for batch in batches:
        heard = read_hooks(model, batch.tokens, hooks)
        heard |= {f"{hook}{FEATURES}": encoder(heard[hook].float()) for hook, encoder in encode.items()}
        mask = batch.mask.to(model.W_E.device)
        # Every row holds one text.
        yield batch.document.amax(dim=1), {name: masked_mean(values, mask) for name, values in heard.items()}


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    device = next(encoder.network.parameters()).device
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
    heard: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda layer, inputs, output, name=name: heard.__setitem__(name, output))
        for name, module in encoder.network.named_modules()
        if name.endswith(_NEURONS)
    ]
    try:
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            tokens = encoder.tokenizer(
                [texts[place] for place in places], padding=True, truncation=True, max_length=encoder.context,
                return_special_tokens_mask=True, return_tensors="pt",
            )  # fmt: skip
            special = tokens.pop("special_tokens_mask").bool()
            tokens = {name: values.to(device) for name, values in tokens.items()}
            mask = (tokens["attention_mask"].bool() & ~special.to(device)).to(device)
            states = encoder.network(**tokens, output_hidden_states=True).hidden_states
            layers = {f"hidden_states.{number}": state for number, state in enumerate(states)} | heard
            _check_tokens(mask, places, texts)
            yield torch.tensor(places), {name: masked_mean(values, mask) for name, values in layers.items()}
    finally:
        for hook in hooks:
            hook.remove()


def _check_tokens(mask: Bool[Tensor, "batch pos"], places: Sequence[int], texts: Sequence[str]) -> None:
    for row, place in enumerate(places):
        if not bool(mask[row].any()):
            raise RequestError(f"text {place} ({texts[place][:40]!r}) has no tokens: leave it out")
