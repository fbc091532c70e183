"""What the pages of neurons (or other units, such as features) show: plain data, no models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup, escape
from numpy.typing import NDArray

from mi_superposition.site.records import UNITS, Link


@dataclass(frozen=True)
class ExampleRecord:
    """A token with its surroundings. ``tokens`` are shown from token ``first`` of the document on; the ``activations``
    begin at token ``activations_first`` and are NaN where the model did not see token and example together.
    """

    document: int
    place: int
    activation: float
    first: int
    tokens: Sequence[str]
    activations_first: int
    activations: Float[NDArray[np.float32], " token"]


@dataclass(frozen=True)
class TokenValue:
    """A token with a number, and how often it was seen where that matters."""

    token: str
    value: float
    count: int | None = None


@dataclass(frozen=True)
class UnitValue:
    """Another unit with a number; ``hook`` where it is not of the same layer."""

    unit: int
    value: float
    hook: str | None = None


@dataclass(frozen=True)
class NeuronRecord:
    """One unit's page. Activations are in the unit's own units, effects in logits per unit of activation.

    ``tenths`` holds examples of each tenth of its range, the highest first. ``token_lists`` and ``unit_lists`` come with
    the sentence that says what they are. ``contexts`` is the effective number of contexts of its top examples, beside what
    it is when examples are dealt at random. ``related`` leads to other pages of the site, by the sentence that says why.
    """

    hook: str
    unit: int
    top: Sequence[ExampleRecord]
    bottom: Sequence[ExampleRecord]
    tenths: Sequence[tuple[str, Sequence[ExampleRecord]]]
    histogram: Int[NDArray[np.int64], " bin"]
    edges: tuple[float, float]
    maximum: float
    minimum: float
    mean: float
    deviation: float
    skewness: float
    fraction_active: float
    contexts: float
    contexts_shuffled: float
    token_lists: Mapping[str, Sequence[TokenValue]]
    unit_lists: Mapping[str, Sequence[UnitValue]]
    related: Mapping[str, Sequence[Link]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As a heading has it."""
        return f"{layer_name(self.hook)}, {unit_word(self.hook)} {self.unit}"

    def samples(self) -> list[tuple[list[str], list[float]]]:
        """Tokens and activations of the largest examples, for circuitsvis; 0 where none was kept."""
        return [(list(example.tokens), np.nan_to_num(_shown(example)).tolist()) for example in self.top]

    def _repr_html_(self) -> str:
        """The ten best examples, shaded, and the first lists, for a notebook."""
        rows = [
            f"<li><b>{example.activation:.2f}</b> <span style='white-space: pre-wrap'>{_shaded(example, self.maximum)}</span></li>"
            for example in self.top[:10]
        ]
        lists = [
            f"<p>{escape(title)}: {escape(', '.join(f'{value.token!r} {value.value:.2f}' for value in values[:8]))}</p>"
            for title, values in self.token_lists.items()
        ]
        numbers = (
            f"max {self.maximum:.2f}, mean {self.mean:.3f}, active on {100 * self.fraction_active:.1f} % of tokens, "
            f"{self.contexts:.1f} contexts ({self.contexts_shuffled:.1f} when dealt at random)"
        )
        return f"<h3>{escape(self.name)}</h3><p>{numbers}</p><ol>{''.join(rows)}</ol>{''.join(lists)}"


@dataclass(frozen=True)
class LayerRecord:
    """The table of a hook's units: columns of numbers by their heading, the tokens each unit fires on, strongest first,
    and those whose logits it raises (no entries where it writes to none).
    """

    hook: str
    columns: Mapping[str, Sequence[float]]
    tokens: Sequence[Sequence[str]]
    raises: Sequence[Sequence[str]]

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return len(self.tokens)


@dataclass(frozen=True)
class ScanRecord:
    """What was scanned, for the index: facts as (name, value), and what a reader must know."""

    title: str
    facts: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    layers: Sequence[LayerRecord]


@dataclass(frozen=True)
class DocumentRecord:
    """A whole document, token by token."""

    number: int
    tokens: Sequence[str]


def _mlp_layer(hook: str) -> str | None:
    words = hook.split(".")
    return words[1] if words[:1] == ["blocks"] and words[2:] == ["mlp", "hook_post"] else None


def layer_name(hook: str) -> str:
    """How a hook is called in headings: "Layer 1", or its own name where its units are no MLP neurons."""
    layer = _mlp_layer(hook)
    return hook if layer is None else f"Layer {layer}"


def unit_word(hook: str) -> str:
    """What its units are called."""
    if hook.endswith(".features"):
        return "feature"
    return "unit" if _mlp_layer(hook) is None else "neuron"


def layer_slug(hook: str) -> str:
    """File name of a hook's table, without its ending."""
    layer = _mlp_layer(hook)
    return hook if layer is None else f"L{layer}"


def unit_slug(hook: str, unit: int) -> str:
    """File name of a unit's page, without its ending."""
    return f"{layer_slug(hook)}{'N' if _mlp_layer(hook) is not None else '.'}{unit}"


def neuron_address(layer: int, neuron: int) -> str:
    """Where a site keeps the page of an MLP neuron, relative to its folder."""
    return f"{UNITS}/{unit_slug(f'blocks.{layer}.mlp.hook_post', neuron)}.html"


def _shown(example: ExampleRecord) -> NDArray[np.float64]:
    """The activation of each token shown; NaN where none was kept."""
    places = np.arange(len(example.tokens)) + example.first - example.activations_first
    kept = (places >= 0) & (places < len(example.activations))
    values = np.full(len(places), np.nan)
    values[kept] = example.activations[places[kept]]
    return values


def _shaded(example: ExampleRecord, maximum: float) -> Markup:
    """The tokens of an example, each on a ground as deep as its activation."""
    shaded = []
    for token, value in zip(example.tokens, _shown(example).tolist(), strict=True):
        known = value == value
        depth = min(max(value / maximum, 0.0), 1.0) if known and maximum > 0 else 0.0
        shaded.append(
            Markup("<span title='{}' style='background: rgba(226, 110, 20, {})'>{}</span>").format(
                f"{value:.3f}" if known else "none kept", f"{0.62 * depth:.2f}", token
            )
        )
    return Markup("").join(shaded)
