"""From a scan and its model to the records of every unit's page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mi_superposition.corpora.tokens import running_text
from mi_superposition.neurons.config import N_INTERVALS
from mi_superposition.neurons.scan import Examples, Excerpt, UnitScan
from mi_superposition.neurons.scan.examples import AROUND_TOP, excerpts
from mi_superposition.pages.neurons.scanned import TOKENS_SHOWN, ScannedUnits
from mi_superposition.pages.neurons.weights import WeightLists, unit_values
from mi_superposition.site.records import Link
from mi_superposition.site.unit_records import DocumentRecord, LayerRecord, TokenValue, UnitRecord
from mi_superposition.site.unit_words import shown_number

# Tokens shown before and after the smallest and the drawn examples; how many of the smallest are shown.
_AROUND_OTHERS = (10, 5)
_SMALLEST_SHOWN = 10
# Of each unit where else the site shows it, by why; and that of every hook.
RelatedUnits = Mapping[int, Mapping[str, Sequence[Link]]]
Related = Mapping[str, RelatedUnits]


def unit_records(
    scanned: ScannedUnits,
    *,
    units: Mapping[str, Sequence[int]] | None = None,
    related: Related | None = None,
) -> Iterator[UnitRecord]:
    """The records of all units, or of the ``units`` named by hook, one after the other.

    For MLP neurons with direct effects and similar neurons; for features with the same of their decoder, and the neurons they read
    from; for other units with what the scan knows. ``related``: by hook and unit, where else the site shows it.
    """
    texts = {record.number: record.tokens for record in document_records(scanned)}
    for hook in scanned.scan.hooks if units is None else units:
        some = None if units is None else units[hook]
        yield from _hook_records(scanned, hook, texts, some, (related or {}).get(hook, {}))


def layer_records(scanned: ScannedUnits) -> list[LayerRecord]:
    """The tables of all hooks."""
    records = []
    for hook, unit_scan in scanned.scan.hooks.items():
        columns = {
            "max": unit_scan.maximum,
            "active %": 100 * unit_scan.fraction_active,
            "mean": unit_scan.mean,
            "skewness": unit_scan.skewness,
            "contexts": unit_scan.contexts,
        }
        fires = _as_words(scanned, unit_scan.top_tokens[:, :TOKENS_SHOWN].tolist())
        effects = scanned.effects[hook]
        raises: list[list[str]] = [[] for _ in fires] if effects is None else _as_words(scanned, effects.top.tolist())
        records.append(LayerRecord(hook, {name: values.tolist() for name, values in columns.items()}, fires, raises))
    return records


def document_records(scanned: ScannedUnits) -> Iterator[DocumentRecord]:
    """The documents that any page shows, by number."""
    for number, tokens in scanned.scan.documents.items():
        yield DocumentRecord(number, running_text([scanned.vocabulary[token] for token in tokens]))


def _as_words(scanned: ScannedUnits, tokens: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[scanned.vocabulary[token] for token in row] for row in tokens]


def _hook_records(
    scanned: ScannedUnits,
    hook: str,
    texts: Mapping[int, Sequence[str]],
    units: Sequence[int] | None,
    related: RelatedUnits,
) -> Iterator[UnitRecord]:
    unit_scan, settings = scanned.scan.hooks[hook], scanned.scan.settings
    weights = WeightLists(scanned, hook)
    permuted = float(unit_scan.contexts_shuffled.median())
    names = interval_names(unit_scan)
    for unit in range(unit_scan.n_units) if units is None else units:
        unit_lists = weights.units(unit)
        if unit_scan.partners.shape[1]:
            partners = unit_scan.partners.numpy(), unit_scan.partner_correlation.numpy()
            unit_lists["Fires with (correlation)"] = unit_values(*partners, unit)
        yield UnitRecord(
            hook=hook,
            unit=unit,
            top=excerpts(unit_scan.top, unit, texts, around=AROUND_TOP, kept=settings.reach),
            bottom=_others(unit_scan.bottom, unit, texts, slice(_SMALLEST_SHOWN)),
            tenths=_intervals(unit_scan, unit, texts, settings.per_tenth, names[unit]),
            histogram=unit_scan.histogram[unit].numpy(),
            edges=(float(unit_scan.edges[unit, 0]), float(unit_scan.edges[unit, -1])),
            maximum=float(unit_scan.maximum[unit]),
            minimum=float(unit_scan.minimum[unit]),
            mean=float(unit_scan.mean[unit]),
            deviation=float(unit_scan.variance[unit].sqrt()),
            skewness=float(unit_scan.skewness[unit]),
            fraction_active=float(unit_scan.fraction_active[unit]),
            contexts=float(unit_scan.contexts[unit]),
            contexts_shuffled=permuted,
            token_lists={"Fires on": _fires_on(scanned, unit_scan, unit), **weights.tokens(unit)},
            unit_lists=unit_lists,
            related=related.get(unit, {}),
        )


def _others(examples: Examples, unit: int, texts: Mapping[int, Sequence[str]], which: slice) -> list[Excerpt]:
    return excerpts(examples, unit, texts, around=_AROUND_OTHERS, which=which)


def _fires_on(scanned: ScannedUnits, unit_scan: UnitScan, unit: int) -> list[TokenValue]:
    return [
        TokenValue(scanned.vocabulary[token], value, count)
        for token, value, count in zip(
            unit_scan.top_tokens[unit, :TOKENS_SHOWN].tolist(),
            unit_scan.top_token_mean[unit, :TOKENS_SHOWN].tolist(),
            unit_scan.top_token_count[unit, :TOKENS_SHOWN].tolist(),
            strict=True,
        )
    ]


def _interval_counts(unit_scan: UnitScan) -> NDArray[np.int64]:
    """How many tokens each interval of each unit's range holds, what lies outside in the outermost."""
    inner = unit_scan.histogram[:, 1:-1].unflatten(1, (N_INTERVALS, -1)).sum(dim=2)
    inner[:, 0] += unit_scan.histogram[:, 0]
    inner[:, -1] += unit_scan.histogram[:, -1]
    return inner.numpy()


def interval_names(unit_scan: UnitScan) -> list[list[str]]:
    """What each interval of each unit's range is, and how many tokens it holds, the highest first."""
    counts = _interval_counts(unit_scan)
    names = []
    for unit, (low, high) in enumerate(unit_scan.edges[:, [0, -1]].tolist()):
        scale = max(abs(low), abs(high))
        spans = []
        for interval in reversed(range(N_INTERVALS)):
            start, end = (
                shown_number(low + (high - low) * edge / N_INTERVALS, scale) for edge in (interval, interval + 1)
            )
            span = (
                f"{start} and above"
                if interval == N_INTERVALS - 1
                else f"up to {end}"
                if interval == 0
                else f"{start} to {end}"
            )
            n = int(counts[unit, interval])
            spans.append(f"{span}: {n:,} token{'s' if n != 1 else ''}")
        names.append(spans)
    return names


def _intervals(
    unit_scan: UnitScan, unit: int, texts: Mapping[int, Sequence[str]], per_interval: int, names: Sequence[str]
) -> list[tuple[str, list[Excerpt]]]:
    """Examples of each interval of a unit's range, the highest first, by what the interval is."""
    some = _others(unit_scan.tenths, unit, texts, slice(None))
    there = unit_scan.tenths.document.numpy()[unit].reshape(N_INTERVALS, per_interval) >= 0
    ends = there.sum(axis=1).cumsum().tolist()
    starts = [0, *ends[:-1]]
    return [
        (name, some[starts[interval] : ends[interval]])
        for interval, name in zip(reversed(range(N_INTERVALS)), names, strict=True)
    ]
