"""One vector per text: the mean of a layer's activations over its tokens, without padding and special tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_superposition.corpora import Given, TokenBatch, TokenBatches, as_batches, begins_with_token, token_batches
from mi_superposition.corpora.batches import NO_TOKEN
from mi_superposition.errors import RequestError
from mi_superposition.models import FEATURES, Encode, layer_hooks, read_hooks
from mi_superposition.models.encoders import Encoder
from mi_superposition.models.protocol import HookedModel

_BATCH = 64
# Where encoders of transformers keep the activations of their neurons: BERT and its kin, and DistilBERT.
_NEURONS = ("intermediate", "ffn.activation")


def masked_mean(values: Float[Tensor, "batch pos d"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch d"]:
    """The mean over the positions where ``mask`` is true. Raises ``RequestError`` for a sequence that has none."""
    counts = mask.sum(dim=1, keepdim=True)
    if bool((counts == 0).any()):
        raise RequestError(f"text {int((counts == 0).nonzero()[0, 0])} of the batch has no tokens: leave it out")
    # Masked and not multiplied: activations of the padding may be NaN.
    return values.masked_fill(~mask[:, :, None], 0).sum(dim=1) / counts


@torch.no_grad()
def pool_texts(
    model: HookedModel | Encoder,
    texts: Given,
    *,
    tokenizer: Any = None,
    encode: Mapping[str, Encode] | None = None,
    on_texts: Callable[[int], None] = lambda n: None,
) -> dict[str, Float[Tensor, "text d"]]:
    """The mean activations of every text at every layer, by the layer's name, on the CPU.

    Of an ``Encoder`` the hidden states (``hidden_states.0`` are the embeddings) and, if it is a BERT or DistilBERT, the
    neurons of each layer; of a hooked model the residual stream and the neurons. Longer texts are truncated to the model's
    context. ``tokenizer`` is for a hooked model that came without its own, such as an untrained copy. ``encode`` makes further
    units of the activations at its hooks, such as ``sae.encode``; their name is ``HOOK.features``. ``on_texts`` is told of the
    number of texts read since it was last called.

    A hooked model also takes tokens ``[text, pos]`` (``model.to_tokens(texts)``), a list of them or token batches, as ``scan_neurons``
    does; each row is a text.
    Raises ``RequestError`` for a text without tokens.
    """
    if isinstance(texts, str):
        raise RequestError(f"texts = {texts[:40]!r}: give a list of texts")
    if isinstance(texts, Sequence) and not texts:
        raise RequestError("no texts: give at least one")
    some: list[Any] = list(texts) if isinstance(texts, Sequence) else []
    if some and isinstance(some[0], str):
        n_texts = len(some)
        name_of = {number: f" ({text[:40]!r})" for number, text in enumerate(some)}
        parts = (
            _encoded(model, some)
            if isinstance(model, Encoder)
            else _hooked(model, _batches(model, tokenizer or model.tokenizer, some), encode or {})
        )
    elif isinstance(model, Encoder):
        raise RequestError("an encoder reads texts: give a list of them")
    else:
        batches = _numbered(list(as_batches(model, texts)))
        n_texts, name_of = 1 + max(int(batch.document.max()) for batch in batches), {}
        parts = _hooked(model, batches, encode or {})
    pooled: dict[str, Tensor] = {}
    done = torch.zeros(n_texts, dtype=torch.bool)
    for index, means in parts:
        for name, values in means.items():
            if name not in pooled:
                pooled[name] = torch.zeros(n_texts, values.shape[1])
            pooled[name][index] = values.float().cpu()
        if bool(done[index].any()) or len(index.unique()) < len(index):
            raise RequestError("a text takes several rows: give texts, or one row of tokens for each")
        done[index] = True
        on_texts(len(index))
    if not bool(done.all()):
        missing = int((~done).nonzero()[0])
        raise RequestError(f"text {missing}{name_of.get(missing, '')} has no tokens: leave it out")
    return pooled


def layer_order(model: HookedModel | Encoder, names: Collection[str]) -> list[str]:
    """Layers of ``pool_texts`` in the order in which the model runs them; without further units."""
    if not isinstance(model, Encoder):
        return [name for name in layer_hooks(model) if name in names]
    neurons = [name for name, _ in model.network.named_modules() if name in names]
    states = sorted((name for name in names if name not in neurons), key=lambda name: int(name.split(".")[-1]))
    # The neurons of a layer come before the state it gives.
    ordered = states[:1]
    for number, state in enumerate(states[1:]):
        ordered += [*neurons[number : number + 1], state]
    return ordered


def _numbered(batches: Sequence[TokenBatch]) -> list[TokenBatch]:
    """The same with documents numbered from 0, in their order: they may be some of a corpus. Raises ``RequestError`` for none."""
    if not batches:
        raise RequestError("no texts: give at least one")
    numbers = torch.cat([batch.document[batch.document >= 0] for batch in batches]).unique()
    return [
        replace(batch, document=torch.searchsorted(numbers, batch.document).where(batch.document >= 0, NO_TOKEN))
        for batch in batches
    ]


def _batches(model: HookedModel, tokenizer: Any, texts: Sequence[str]) -> TokenBatches:
    begins = begins_with_token(model, tokenizer)
    return token_batches(
        texts, tokenizer, _BATCH, model.cfg.n_ctx, prepend_bos=begins, long="truncate", by_length=True,
        d_vocab=model.cfg.d_vocab,
    )  # fmt: skip


def _hooked(
    model: HookedModel, batches: Iterable[TokenBatch], encode: Mapping[str, Encode]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    hooks = [hook for hook in layer_hooks(model) if not hook.endswith("hook_z")]
    hooks += [hook for hook in encode if hook not in hooks]
    for batch in batches:
        layers = read_hooks(model, batch.tokens, hooks)
        layers |= {f"{hook}{FEATURES}": encoder(layers[hook].float()) for hook, encoder in encode.items()}
        mask = batch.mask.to(model.W_E.device)
        # Every sequence is one text.
        yield batch.document.amax(dim=1), {name: masked_mean(values, mask) for name, values in layers.items()}


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    device = next(encoder.network.parameters()).device
    order = sorted(range(len(texts)), key=lambda text: -len(texts[text]))
    neurons: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda layer, inputs, output, name=name: neurons.__setitem__(name, output))
        for name, module in encoder.network.named_modules()
        if name.endswith(_NEURONS)
    ]
    try:
        for start in range(0, len(order), _BATCH):
            index = order[start : start + _BATCH]
            tokens = encoder.tokenizer(
                [texts[text] for text in index], padding=True, truncation=True, max_length=encoder.context,
                return_special_tokens_mask=True, return_tensors="pt",
            )  # fmt: skip
            special = tokens.pop("special_tokens_mask").bool()
            tokens = {name: values.to(device) for name, values in tokens.items()}
            mask = (tokens["attention_mask"].bool() & ~special.to(device)).to(device)
            states = encoder.network(**tokens, output_hidden_states=True).hidden_states
            layers = {f"hidden_states.{number}": state for number, state in enumerate(states)} | neurons
            _check_tokens(mask, index, texts)
            yield torch.tensor(index), {name: masked_mean(values, mask) for name, values in layers.items()}
    finally:
        for hook in hooks:
            hook.remove()


def _check_tokens(mask: Bool[Tensor, "batch pos"], index: Sequence[int], texts: Sequence[str]) -> None:
    for row, text in enumerate(index):
        if not bool(mask[row].any()):
            raise RequestError(f"text {text} ({texts[text][:40]!r}) has no tokens: leave it out")
