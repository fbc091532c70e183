"""Settings as version 0.1 recorded them, a list, as the grid that they were made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from mi_superposition.errors import RequestError, WorkError

_Values = float | Sequence[float]
_AXES = ("probability", "importance", "dropout", "l1")


def grid_axes(settings: Any) -> dict[str, Any]:
    """The options of ``ToyConfig`` that make these settings; each has the fields of ``ToySetting``, lists for tuples.

    Raises ``RequestError`` for settings that are no grid, or whose features differ otherwise than by a ratio, and ``WorkError``
    for what are no settings.
    """
    try:
        combinations = [tuple(setting[name] for name in _AXES) for setting in settings or ()]
    except (KeyError, TypeError) as error:
        raise WorkError(f"the settings of this run are damaged: {settings!r} ({error})") from error
    if not combinations:
        raise WorkError("the configuration of this run is damaged: it has no settings")
    axes = {name: _different(values) for name, values in zip(_AXES, zip(*combinations, strict=True), strict=True)}
    if combinations != list(itertools.product(*axes.values())):
        raise _refused("are no grid")
    probabilities = [_first_and_ratio(values) for values in axes["probability"]]
    importances = [_first_and_ratio(values) for values in axes["importance"]]
    if None in probabilities:
        raise _refused("have probabilities that differ otherwise than by a ratio")
    ratios = [ratio for _, ratio in filter(None, probabilities)]
    options: dict[str, Any] = {
        "probability": [first for first, _ in filter(None, probabilities)],
        "probability_ratio": [1.0] if set(ratios) == {1.0} else ratios,
        "dropout": axes["dropout"],
        "l1": axes["l1"],
    }
    falling = [ratio for first, ratio in filter(None, importances) if first == 1]
    if len(falling) == len(importances):
        return {**options, "importance_ratio": falling}
    if len(importances) > 1 or not isinstance(axes["importance"][0], Sequence):
        raise _refused("have importances that differ otherwise than by a ratio")
    return {**options, "importance": axes["importance"][0]}


def _different(values: Sequence[_Values]) -> list[_Values]:
    """Each value once, in the order of their first occurrence."""
    found: list[_Values] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _first_and_ratio(values: _Values) -> tuple[float, float] | None:
    """What ``first * ratio**i`` gives the values; ``None`` where nothing does."""
    if not isinstance(values, Sequence):
        return values, 1.0
    first = values[0]
    ratio = values[1] / first if len(values) > 1 and first else 1.0
    # The quotient may be a last bit away from the ratio that was asked for.
    for candidate in (ratio, float(f"{ratio:.12g}")):
        if list(values) == [first * candidate**i for i in range(len(values))]:
            return first, candidate
    return None


def _refused(why: str) -> RequestError:
    return RequestError(f"the settings of this run of version 0.1 {why}: this version has no options for them")
