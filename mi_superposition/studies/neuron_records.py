"""From a scan and its model to the records of every neuron's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.linalg import unit_rows
from mi_superposition.models import FEATURES
from mi_superposition.neurons import neuron_vectors
from mi_superposition.neurons.effects import TokenEffects, direction_effects, input_effects
from mi_superposition.neurons.scan import Examples, NeuronScan, UnitScan, layer_of
from mi_superposition.neurons.scan.kernel import N_TENTHS
from mi_superposition.sae.features import written_before
from mi_superposition.site.neuron_pages import shown_number
from mi_superposition.site.neuron_records import (
    DocumentRecord,
    ExampleRecord,
    LayerRecord,
    NeuronRecord,
    TokenValue,
    UnitValue,
)
from mi_superposition.site.records import Link

# Tokens shown before and after the largest, the least, and the drawn examples; how many of the least are shown.
_AROUND_TOP, _AROUND_OTHERS = (20, 10), (10, 5)
_LEAST_SHOWN = 10
_TOKENS_SHOWN, _UNITS_SHOWN = 10, 8
_SEARCHED = 10
_UNITS_AT_ONCE = 1024
# Autoencoders by the name a scan has for their features.
Saes = Mapping[str, Any]
# Of each unit where else the site tells of it, by why; and that of every hook.
RelatedUnits = Mapping[int, Mapping[str, Sequence[Link]]]
Related = Mapping[str, RelatedUnits]


@dataclass(frozen=True)
class _Neighbours:
    """For each neuron the most and the least similar ones."""

    most: tuple[NDArray[np.int64], NDArray[np.float32]]
    least: tuple[NDArray[np.int64], NDArray[np.float32]]


def neuron_records(
    scan: NeuronScan,
    model: Any,
    *,
    hooks: Sequence[str] | None = None,
    units: Mapping[str, Sequence[int]] | None = None,
    saes: Saes | None = None,
    related: Related | None = None,
) -> Iterator[NeuronRecord]:
    """The records of all units of some hooks (default: all), or of the ``units`` named, one after the other.

    For MLP neurons with direct effects and similar neurons; for features of ``saes`` with the same of their decoder, and the
    neurons they read from; for other units with what the scan knows. ``related``: by hook and unit, where else the site tells of it.
    """
    strings = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    for hook in hooks or scan.hooks:
        if hook not in scan.hooks:
            raise RequestError(f"hook {hook!r} was not scanned: the scan has {', '.join(map(repr, scan.hooks))}")
        some = None if units is None else units.get(hook, ())
        yield from _hook_records(scan, model, hook, strings, some, saes or {}, (related or {}).get(hook, {}))


def neuron_record(scan: NeuronScan, model: Any, layer: int, neuron: int) -> NeuronRecord:
    """The record of one MLP neuron. Raises ``RequestError`` for one that was not scanned."""
    hook = f"blocks.{layer}.mlp.hook_post"
    if hook in scan.hooks and not 0 <= neuron < scan.hooks[hook].n_units:
        raise RequestError(f"neuron = {neuron}: layer {layer} has 0 to {scan.hooks[hook].n_units - 1}")
    return next(neuron_records(scan, model, hooks=[hook], units={hook: [neuron]}))


def layer_records(scan: NeuronScan, model: Any, saes: Saes | None = None) -> list[LayerRecord]:
    """The tables of all hooks."""
    strings = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    records = []
    for hook, found in scan.hooks.items():
        columns = {
            "max": found.maximum,
            "active %": 100 * found.fraction_active,
            "mean": found.mean,
            "skew": found.skewness,
            "contexts": found.contexts,
        }
        fires = [[strings[token] for token in row] for row in found.top_tokens[:, :_SEARCHED].tolist()]
        raises: list[list[str]] = [[] for _ in fires]
        effects = unit_effects(model, hook, saes or {}, _SEARCHED)
        if effects is not None:
            raises = [[strings[token] for token in row] for row in effects.top.tolist()]
        records.append(LayerRecord(hook, {name: values.tolist() for name, values in columns.items()}, fires, raises))
    return records


def document_records(scan: NeuronScan, model: Any) -> Iterator[DocumentRecord]:
    """The documents that any page shows, by number."""
    strings = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    for number, tokens in scan.documents.items():
        yield DocumentRecord(number, [strings[token] for token in tokens])


def _hook_records(
    scan: NeuronScan,
    model: Any,
    hook: str,
    strings: Sequence[str],
    units: Sequence[int] | None,
    saes: Saes,
    related: RelatedUnits,
) -> Iterator[NeuronRecord]:
    found = scan.hooks[hook]
    window_of = _Windows(scan, strings)
    effects = _effects(model, hook, saes)
    neighbours = _all_neighbours(model, hook, saes)
    others = _other_units(model, hook, saes)
    shuffled = float(found.contexts_shuffled.median())
    counts = _tenth_counts(found)
    for unit in range(found.n_units) if units is None else units:
        token_lists = {
            "Fires on": [
                TokenValue(strings[token], value, count)
                for token, value, count in zip(
                    found.top_tokens[unit, :_TOKENS_SHOWN].tolist(),
                    found.top_token_mean[unit, :_TOKENS_SHOWN].tolist(),
                    found.top_token_count[unit, :_TOKENS_SHOWN].tolist(),
                    strict=True,
                )
            ]
        }
        for (most, least), effect in effects.items():
            token_lists[most] = _token_values(effect.top, effect.top_effect, unit, strings)
            token_lists[least] = _token_values(effect.bottom, effect.bottom_effect, unit, strings)
        unit_lists = {}
        for what, near in neighbours.items():
            unit_lists[f"Most alike by {what}"] = _unit_values(*near.most, unit)
            unit_lists[f"Least alike by {what}"] = _unit_values(*near.least, unit)
        for what, by_unit in others.items():
            unit_lists[what] = by_unit[unit]
        if found.partners.shape[1]:
            unit_lists["Fires with (correlation)"] = _unit_values(
                found.partners.numpy(), found.partner_correlation.numpy(), unit
            )
        yield NeuronRecord(
            hook=hook,
            unit=unit,
            top=window_of(found.top, unit, slice(None), _AROUND_TOP, scan.settings.reach),
            bottom=window_of(found.bottom, unit, slice(_LEAST_SHOWN), _AROUND_OTHERS, 0),
            tenths=_tenths(found, unit, window_of, scan.settings.per_tenth, counts),
            histogram=found.histogram[unit].numpy(),
            edges=(float(found.edges[unit, 0]), float(found.edges[unit, -1])),
            maximum=float(found.maximum[unit]),
            minimum=float(found.minimum[unit]),
            mean=float(found.mean[unit]),
            deviation=float(found.variance[unit].sqrt()),
            skewness=float(found.skewness[unit]),
            fraction_active=float(found.fraction_active[unit]),
            contexts=float(found.contexts[unit]),
            contexts_shuffled=shuffled,
            token_lists=token_lists,
            unit_lists=unit_lists,
            related=related.get(unit, {}),
        )


class _Windows:
    """Makes example records: the tokens around an example and the activations that were kept."""

    def __init__(self, scan: NeuronScan, strings: Sequence[str]):
        self.reach = scan.settings.reach
        self.documents = {number: [strings[token] for token in tokens] for number, tokens in scan.documents.items()}

    def __call__(
        self, examples: Examples, unit: int, which: slice, around: tuple[int, int], kept: int
    ) -> list[ExampleRecord]:
        """``around``: tokens shown before and after; activations go with them and ``kept`` tokens to either side."""
        records = []
        for document, place, activation, window in zip(
            examples.document[unit, which].tolist(),
            examples.place[unit, which].tolist(),
            examples.activation[unit, which].tolist(),
            examples.window[unit, which].float().numpy(),
            strict=True,
        ):
            if document < 0:
                continue
            tokens = self.documents[document]
            first, last = max(0, place - around[0]), min(len(tokens), place + around[1] + 1)
            from_place = max(0, place - max(around[0], kept), place - self.reach)
            to_place = min(len(tokens), place + max(around[1], kept) + 1, place + self.reach + 1)
            start = self.reach - place
            records.append(
                ExampleRecord(
                    document=document,
                    place=place,
                    activation=activation,
                    first=first,
                    tokens=tokens[first:last],
                    activations_first=from_place,
                    activations=window[start + from_place : start + to_place],
                )
            )
        return records


def _tenth_counts(found: UnitScan) -> NDArray[np.int64]:
    """How many tokens each tenth of each unit's range holds, what lies beyond it in the outermost."""
    inner = found.histogram[:, 1:-1].unflatten(1, (N_TENTHS, -1)).sum(dim=2)
    inner[:, 0] += found.histogram[:, 0]
    inner[:, -1] += found.histogram[:, -1]
    return inner.numpy()


def _tenths(
    found: UnitScan, unit: int, window_of: _Windows, per_tenth: int, counts: NDArray[np.int64]
) -> list[tuple[str, list[ExampleRecord]]]:
    low, high = float(found.edges[unit, 0]), float(found.edges[unit, -1])
    groups = []
    scale = max(abs(low), abs(high))
    for tenth in reversed(range(N_TENTHS)):
        some = window_of(found.tenths, unit, slice(tenth * per_tenth, (tenth + 1) * per_tenth), _AROUND_OTHERS, 0)
        start, end = (shown_number(low + (high - low) * edge / N_TENTHS, scale) for edge in (tenth, tenth + 1))
        span = f"{start} and more" if tenth == N_TENTHS - 1 else f"up to {end}" if tenth == 0 else f"{start} to {end}"
        n = int(counts[unit, tenth])
        groups.append((f"{span}: {n:,} token{'s' if n != 1 else ''}", some))
    return groups


def _has_weights(hook: str) -> bool:
    return layer_of(hook) >= 0 and hook.endswith(".mlp.hook_post")


def _reads_plainly(model: Any, hook: str) -> bool:
    """Whether a neuron's input is one direction: in a gated MLP it is two, multiplied."""
    return _has_weights(hook) and not getattr(model.cfg, "gated_mlp", False)


def _writes_plainly(model: Any, hook: str) -> bool:
    """Whether what a neuron writes reaches the residual stream as it is, without a normalisation on the way."""
    return _has_weights(hook) and not getattr(model.cfg, "use_normalization_before_and_after", False)


def _written(model: Any, hook: str, saes: Saes) -> Float[Tensor, "unit d_model"] | None:
    """What each unit writes into the residual stream, where it does so plainly."""
    if hook not in saes:
        return model.blocks[layer_of(hook)].mlp.W_out.detach() if _writes_plainly(model, hook) else None
    read, decoder = hook.removesuffix(FEATURES), saes[hook].W_dec.detach()
    if _writes_plainly(model, read):
        return decoder @ model.blocks[layer_of(read)].mlp.W_out.detach().float()
    return decoder if ".hook_resid_" in read else None


def unit_effects(model: Any, hook: str, saes: Saes, k: int) -> TokenEffects | None:
    """What a hook's units, neurons or features, add to the logits directly; ``None`` where they do not write plainly."""
    written = _written(model, hook, saes)
    return None if written is None else direction_effects(model, written, k)


def _effects(model: Any, hook: str, saes: Saes) -> dict[tuple[str, str], TokenEffects]:
    effects = {}
    written = unit_effects(model, hook, saes, _TOKENS_SHOWN)
    if written is not None:
        effects[("Raises the logits of", "Lowers the logits of")] = written
    if _reads_plainly(model, hook):
        effects[("Driven most by", "Driven least by")] = input_effects(model, layer_of(hook), _TOKENS_SHOWN)
    return effects


def _all_neighbours(model: Any, hook: str, saes: Saes) -> dict[str, _Neighbours]:
    if hook in saes:
        sae = saes[hook]
        return {
            "decoder (cosine)": _neighbours(sae.W_dec.detach()),
            "encoder (cosine)": _neighbours(sae.W_enc.detach().T),
        }
    names = {}
    if _has_weights(hook):
        names["out"] = "output (cosine)"
    if _reads_plainly(model, hook):
        names["in"] = "input (cosine)"
    return {
        name: _neighbours(neuron_vectors(model, layer_of(hook), weights).parts[0]) for weights, name in names.items()
    }


def _other_units(model: Any, hook: str, saes: Saes) -> dict[str, list[list[UnitValue]]]:
    """For features the neurons they read from, for neurons the features that read from them, by the magnitude of the cosine
    of what the one writes and the other reads.
    """
    if hook in saes:
        written = written_before(model, hook.removesuffix(FEATURES))
        sources = [
            (f"blocks.{layer}.mlp.hook_post", neuron) for layer in written for neuron in range(len(written[layer]))
        ]
        if not sources:
            return {}
        return {
            "Reads from (cosine)": _strongest(saes[hook].W_enc.detach().T, torch.cat(list(written.values())), sources)
        }
    lists = {}
    for features, sae in saes.items():
        written = written_before(model, features.removesuffix(FEATURES))
        if _has_weights(hook) and layer_of(hook) in written:
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
        for places, values in zip(chosen.tolist(), cosines.gather(1, chosen).tolist(), strict=True):
            found = zip((names[place] for place in places), values, strict=True)
            lists.append([UnitValue(number, value, hook) for (hook, number), value in found])
    return lists


def _neighbours(vectors: Float[Tensor, "unit d"]) -> _Neighbours:
    k = min(_UNITS_SHOWN, len(vectors) - 1)
    unit = unit_rows(vectors.cpu())
    parts: list[list[Tensor]] = [[], [], [], []]
    for start in range(0, len(unit), _UNITS_AT_ONCE):
        cosines = (unit[start : start + _UNITS_AT_ONCE] @ unit.T).clamp_(-1, 1)
        itself = torch.arange(len(cosines))
        # Itself is no neighbour, neither the most nor the least alike.
        cosines[itself, itself + start] = -2
        most = cosines.topk(k)
        cosines[itself, itself + start] = 2
        least = cosines.topk(k, largest=False)
        for part, values in zip(parts, (most.indices, most.values, least.indices, least.values), strict=True):
            part.append(values)
    together = [torch.cat(part).numpy() for part in parts]
    return _Neighbours((together[0], together[1]), (together[2], together[3]))


def _token_values(tokens: Tensor, effects: Tensor, unit: int, strings: Sequence[str]) -> list[TokenValue]:
    return [
        TokenValue(strings[token], value)
        for token, value in zip(tokens[unit].tolist(), effects[unit].tolist(), strict=True)
    ]


def _unit_values(units: NDArray[np.int64], values: NDArray[np.float32], unit: int) -> list[UnitValue]:
    return [UnitValue(other, value) for other, value in zip(units[unit].tolist(), values[unit].tolist(), strict=True)]
