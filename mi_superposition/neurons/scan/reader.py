"""Activations of units as a model reads tokens: neurons, or whatever is made of a hook's last axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.models import FEATURES, Encode, check_hooks, read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.scan.names import layer_of
from mi_superposition.parts import ForwardPart
from mi_superposition.training import seeded_generator

# Pieces of batches have different sizes, so their axes are not bound to one another.
Readings = dict[str, tuple[Float[Tensor, "_batch _pos _unit"], Float[Tensor, "_batch _pos _d"]]]

# Enough that cosines are kept to about a tenth (Johnson & Lindenstrauss 1984), few enough to keep one with each example.
_DIRECTIONS = 64


def mlp_hooks(model: HookedModel) -> list[str]:
    """The hooks of all MLP neurons' activations. Raises ``RequestError`` for a model without MLP."""
    if getattr(model.cfg, "attn_only", False):
        raise RequestError("the model has attention only, no MLP neurons: name the hooks to scan")
    return [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]


@dataclass(frozen=True)
class UnitReader:
    """Runs a model up to the last hook needed and gives what its units do.

    A hook's units are its last axis (several axes after ``batch pos`` are taken as one), or what ``encode`` makes of it,
    such as ``sae.encode``: these go by the name ``HOOK.features``. With each hook it reads the model's *representation* of every
    token: the residual stream before the MLP for neurons, the hooked activation itself for anything else, projected on 64
    random directions where it has more dimensions.
    """

    model: HookedModel
    hooks: Mapping[str, Encode | None]
    precision: str = ForwardPart.precision

    @classmethod
    def of(
        cls,
        model: HookedModel,
        hooks: str | Sequence[str] | Mapping[str, Encode | None] | None = None,
        precision: str = ForwardPart.precision,
    ) -> UnitReader:
        """A reader of named hooks, of all MLP neurons by default. Raises ``RequestError`` for a hook that is not there."""
        if hooks is None:
            hooks = mlp_hooks(model)
        if isinstance(hooks, str):
            hooks = [hooks]
        named: Mapping[str, Encode | None] = hooks if isinstance(hooks, Mapping) else dict.fromkeys(hooks)
        if not named:
            raise RequestError("hooks = []: name at least one")
        check_hooks(model, named)
        # Refuses a precision that there is none of.
        ForwardPart().replace(precision=precision)
        return cls(model, named, precision)

    @property
    def names(self) -> list[str]:
        """What the units of each hook go by."""
        return [hook if encode is None else hook + FEATURES for hook, encode in self.hooks.items()]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.W_E.device

    @torch.no_grad()
    def read(self, tokens: Int[Tensor, "batch pos"]) -> Readings:
        """Activations and representations at every token, float32, on the CPU."""
        wanted = {*self.hooks, *map(self.representation_of, self.hooks)}
        heard = read_hooks(self.model, tokens, wanted, precision=self.precision)
        readings = {}
        for name, (hook, encode) in zip(self.names, self.hooks.items(), strict=True):
            units = heard[hook] if encode is None else encode(heard[hook].float())
            if units.shape[:2] != tokens.shape or units.ndim != 3:
                raise RequestError(
                    f"what encode makes of {hook!r} has the shape {tuple(units.shape)}: give (batch, pos, unit)"
                )
            vectors = projected(heard[self.representation_of(hook)].float())
            readings[name] = (units.float().cpu(), vectors.cpu())
        return readings

    def widths(self) -> dict[str, int]:
        """How many units each hook has."""
        readings = self.read(torch.zeros(1, 2, dtype=torch.long))
        return {name: units.shape[2] for name, (units, _) in readings.items()}

    def representation_of(self, hook: str) -> str:
        """The hook whose activations represent a token on which units of ``hook`` act."""
        if not hook.endswith((".mlp.hook_post", ".mlp.hook_pre")):
            return hook
        # Where attention and MLP run in parallel, there is nothing between them.
        between, before = (f"blocks.{layer_of(hook)}.hook_resid_{where}" for where in ("mid", "pre"))
        return between if between in self.model.hook_dict else before


def projected(vectors: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos direction"]:
    """Vectors in 64 random directions, the same wherever they are read; those of fewer dimensions as they are."""
    d = vectors.shape[2]
    if d <= _DIRECTIONS:
        return vectors
    return vectors @ _directions(d).to(vectors.device)


@functools.cache
def _directions(d: int) -> Float[Tensor, "d direction"]:
    generator = seeded_generator(0, "representation", d)
    return torch.randn(d, _DIRECTIONS, generator=generator) / math.sqrt(_DIRECTIONS)
