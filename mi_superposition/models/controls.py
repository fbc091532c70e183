"""Models that know nothing, of a trained one's architecture: what an effect in the trained one is measured against."""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mi_superposition.models.attention_only import without_deprecations
from mi_superposition.models.bridge import untrained_bridge
from mi_superposition.models.protocol import NO_BEGINNING, HookedModel
from mi_superposition.training import seeded_generator

# The copy is of the kind of the original.
_Model = TypeVar("_Model", bound=HookedModel)


def untrained_copy(model: _Model, seed: int) -> _Model:
    """The control: the same architecture, freshly initialised from ``seed``, on its device.

    A ``HookedTransformer`` is initialised as TransformerLens does, a ``TransformerBridge`` as transformers does.
    """
    if isinstance(model, TransformerBridge):
        return _like(model, untrained_bridge(model, seed).to(model.W_E.device, print_details=False))
    config = copy.deepcopy(model.cfg)
    config.init_weights, config.tokenizer_name, config.seed = True, None, None
    config.device, device = "cpu", model.W_E.device
    with torch.random.fork_rng(devices=[]), without_deprecations():
        torch.manual_seed(seed)
        untrained = HookedTransformer(config, move_to_device=False).to(device, print_details=False).eval()
    return _like(model, untrained)


def _like(model: _Model, copied: Any) -> _Model:
    setattr(copied, NO_BEGINNING, getattr(model, NO_BEGINNING, False))
    return cast(_Model, copied)


@torch.no_grad()
def shuffled_copy(model: _Model, seed: int) -> _Model:
    """The control that keeps the sizes of the weights: the entries of every parameter in a random order."""
    shuffled = untrained_copy(model, seed)
    trained = dict(model.named_parameters())
    for name, parameter in shuffled.named_parameters():
        entries = trained[name].detach().flatten()
        order = torch.randperm(len(entries), generator=seeded_generator(seed, f"shuffled {name}"))
        parameter.copy_(entries[order.to(entries.device)].view_as(parameter))
    return shuffled
