"""What weights say of a unit, as lists on its page: tokens that it promotes or that drive it, and units near it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.models import FEATURES
from mi_superposition.neurons import neuron_vectors
from mi_superposition.neurons.effects import TokenEffects, input_effects
from mi_superposition.neurons.scan import layer_of
from mi_superposition.neurons.scan.names import has_mlp_neurons
from mi_superposition.pages.neurons.scanned import TOKENS_SHOWN, ScannedUnits
from mi_superposition.sae.features import written_before
from mi_superposition.site.unit_records import TokenValue, UnitValue

_UNITS_SHOWN = 8
_UNITS_AT_ONCE = 1024


@dataclass(frozen=True)
class _Neighbours:
    """For each unit the most similar and the most opposite ones, with their cosines."""

    most: tuple[NDArray[np.int64], NDArray[np.float32]]
    least: tuple[NDArray[np.int64], NDArray[np.float32]]


class WeightLists:
    """The lists of one hook's units. They are left out where they would mislead: see ``ScannedUnits``."""

    def __init__(self, scanned: ScannedUnits, hook: str):
        self._vocabulary = scanned.vocabulary
        self._effects = _effects(scanned, hook)
        self._neighbours = _all_neighbours(scanned, hook)
        self._others = _other_units(scanned, hook)

    def tokens(self, unit: int) -> dict[str, list[TokenValue]]:
        """Tokens by the sentence that says what they are."""
        lists = {}
        for (most, least), effect in self._effects.items():
            lists[most] = self._token_values(effect.top[unit], effect.top_effect[unit])
            lists[least] = self._token_values(effect.bottom[unit], effect.bottom_effect[unit])
        return lists

    def units(self, unit: int) -> dict[str, list[UnitValue]]:
        """Other units by the sentence that says what they are."""
        lists = {}
        for what, near in self._neighbours.items():
            lists[f"Most similar by {what}"] = unit_values(*near.most, unit)
            lists[f"Most opposite by {what}"] = unit_values(*near.least, unit)
        return lists | {what: by_unit[unit] for what, by_unit in self._others.items()}

    def _token_values(self, tokens: Tensor, effects: Tensor) -> list[TokenValue]:
        return [
            TokenValue(self._vocabulary[token], value)
            for token, value in zip(tokens.tolist(), effects.tolist(), strict=True)
        ]


def unit_values(units: NDArray[np.int64], values: NDArray[np.float32], unit: int) -> list[UnitValue]:
    """The row of a unit, of other units of the same hook and their numbers."""
    return [UnitValue(other, value) for other, value in zip(units[unit].tolist(), values[unit].tolist(), strict=True)]


def _effects(scanned: ScannedUnits, hook: str) -> dict[tuple[str, str], TokenEffects]:
    effects = {}
    written = scanned.effects[hook]
    if written is not None:
        effects[("Raises the logits of", "Lowers the logits of")] = written
    if scanned.reads_plainly(hook):
        effects[("Driven most by", "Driven least by")] = input_effects(scanned.model, layer_of(hook), TOKENS_SHOWN)
    return effects


def _all_neighbours(scanned: ScannedUnits, hook: str) -> dict[str, _Neighbours]:
    if hook in scanned.saes:
        sae = scanned.saes[hook]
        return {
            "decoder (cosine)": _neighbours(sae.W_dec.detach()),
            "encoder (cosine)": _neighbours(sae.W_enc.detach().T),
        }
    names = {}
    if has_mlp_neurons(hook):
        names["out"] = "output (cosine)"
    if scanned.reads_plainly(hook):
        names["in"] = "input (cosine)"
    return {
        name: _neighbours(neuron_vectors(scanned.model, layer_of(hook), weights).parts[0])
        for weights, name in names.items()
    }


def _other_units(scanned: ScannedUnits, hook: str) -> dict[str, list[list[UnitValue]]]:
    """For features the neurons they read from, for neurons the features that read from them, by the magnitude of the cosine
    between what the one writes and the other reads.
    """
    if hook in scanned.saes:
        written = written_before(scanned.model, hook.removesuffix(FEATURES))
        sources = [
            (f"blocks.{layer}.mlp.hook_post", neuron) for layer in written for neuron in range(len(written[layer]))
        ]
        if not sources:
            return {}
        read = scanned.saes[hook].W_enc.detach().T
        return {"Reads from (cosine)": _strongest(read, torch.cat(list(written.values())), sources)}
    lists = {}
    for features, sae in scanned.saes.items():
        written = written_before(scanned.model, features.removesuffix(FEATURES))
        if has_mlp_neurons(hook) and layer_of(hook) in written:
            read = sae.W_enc.detach().T
            sources = [(features, feature) for feature in range(len(read))]
            lists["Read by (cosine)"] = _strongest(written[layer_of(hook)], read, sources)
    return lists


def _strongest(
    rows: Float[Tensor, "unit d"], others: Float[Tensor, "other d"], names: Sequence[tuple[str, int]]
) -> list[list[UnitValue]]:
    unit, other = unit_rows(rows.cpu()), unit_rows(others.cpu())
    lists = []
    for some in unit.split(_UNITS_AT_ONCE):
        cosines = some @ other.T
        chosen = cosines.abs().topk(min(_UNITS_SHOWN, len(other))).indices
        for indices, values in zip(chosen.tolist(), cosines.gather(1, chosen).tolist(), strict=True):
            pairs = zip((names[index] for index in indices), values, strict=True)
            lists.append([UnitValue(number, value, hook) for (hook, number), value in pairs])
    return lists


def _neighbours(vectors: Float[Tensor, "unit d"]) -> _Neighbours:
    k = min(_UNITS_SHOWN, len(vectors) - 1)
    unit = unit_rows(vectors.cpu())
    parts: list[list[Tensor]] = [[], [], [], []]
    for start in range(0, len(unit), _UNITS_AT_ONCE):
        cosines = (unit[start : start + _UNITS_AT_ONCE] @ unit.T).clamp_(-1, 1)
        itself = torch.arange(len(cosines))
        # Itself is neither the most similar nor the most opposite one.
        cosines[itself, itself + start] = -2
        most = cosines.topk(k)
        cosines[itself, itself + start] = 2
        least = cosines.topk(k, largest=False)
        for part, values in zip(parts, (most.indices, most.values, least.indices, least.values), strict=True):
            part.append(values)
    together = [torch.cat(part).numpy() for part in parts]
    return _Neighbours((together[0], together[1]), (together[2], together[3]))
