"""Many units in a file, for sites of tens of thousands: what ``assets/units.js`` makes a unit's page of.

A file names every token once, examples are numbers of tokens, and the whole is deflated. Activations are kept in 256 steps of the
unit's range, where a page of its own has 4,094.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mi_superposition.neurons.scan import Excerpt
from mi_superposition.site.packing import packed_numbers, packed_script, packed_values
from mi_superposition.site.unit_records import TokenValue, UnitRecord, UnitValue, unit_names, units_slug
from mi_superposition.site.unit_words import outline, scale_of, shown_number, unit_facts

# Units in a file: who opens one loads about 300 kB, and SmolLM2's 46,080 neurons are 720 files.
TOGETHER = 64
_COARSER = 16


def unit_chunks(units: Iterable[UnitRecord]) -> Iterator[tuple[str, str]]:
    """Address, in the folder of units, and content of each file; units come hook by hook and in their order."""
    for (hook, number), some in itertools.groupby(units, key=lambda unit: (unit.hook, unit.unit // TOGETHER)):
        yield f"{units_slug(hook)}/{number}.js", packed_script("neuronUnits", _Chunk(list(some)).content())


class _Numbers(dict[str, int]):
    """What was seen, by the order in which it was first seen; looked up at the speed of a dictionary."""

    def __missing__(self, key: str) -> int:
        self[key] = number = len(self)
        return number

    def of(self, seen: Iterable[str]) -> list[int]:
        """The number of each."""
        return list(map(self.__getitem__, seen))


class _Chunk:
    """The units of a file. Tokens, titles and other hooks are named once and are numbers after that."""

    def __init__(self, units: Sequence[UnitRecord]):
        self._units = units
        self._tokens, self._titles, self._hooks = _Numbers(), _Numbers(), _Numbers()

    def content(self) -> dict[str, Any]:
        """What the file says."""
        examples = [
            [*unit.top, *unit.bottom, *(one for _, some in unit.tenths for one in some)] for unit in self._units
        ]
        # First, so that these have the smallest numbers; tokens of lists are no letters.
        texts = [self._tokens.of(itertools.chain.from_iterable(one.tokens for one in some)) for some in examples]
        letters = 2 if len(self._tokens) <= 64**2 else 3
        units = [
            self._unit(unit, some) | {"text": packed_numbers(np.array(text, np.int64), letters)}
            for unit, some, text in zip(self._units, examples, texts, strict=True)
        ]
        # Column by column: what is alike stands together, and deflates to a sixth less.
        columns = {name: [unit[name] for unit in units] for name in units[0]}
        return {
            "letters": letters,
            "units": columns,
            "tokens": list(self._tokens),
            "titles": list(self._titles),
            "hooks": [[hook, unit_names(hook)] for hook in self._hooks],
        }

    def _unit(self, unit: UnitRecord, examples: Sequence[Excerpt]) -> dict[str, Any]:
        scale = scale_of(unit)
        activations = np.concatenate([np.zeros(0), *(example.activations for example in examples)])
        packed = packed_values(activations, unit.minimum, unit.maximum, coarser=_COARSER)
        return {
            "facts": unit_facts(unit),
            # As a page of its own has them.
            "range": [f"{unit.minimum:.6g}", f"{unit.maximum:.6g}"],
            "edges": [shown_number(edge, scale) for edge in unit.edges],
            "bins": len(unit.histogram),
            "outline": outline(unit.histogram),
            "tokenLists": [self._token_list(*one) for one in unit.token_lists.items()],
            "unitLists": [self._unit_list(unit.hook, *one) for one in unit.unit_lists.items()],
            "related": [[why, [[link.text, link.address] for link in some]] for why, some in unit.related.items()],
            "tenths": [title for title, _ in unit.tenths],
            "counts": [len(some) for some in (unit.top, unit.bottom, *(some for _, some in unit.tenths))],
            "examples": [
                [one.document, one.position, one.first, one.activations_first, len(one.tokens), len(one.activations)]
                for one in examples
            ],
            "shown": [shown_number(example.activation, scale) for example in examples],
            # First and second letters apart, which deflates better.
            "activations": [packed[::2], packed[1::2]],
        }

    def _token_list(self, title: str, values: Sequence[TokenValue]) -> list[Any]:
        counts = [value.count for value in values]
        return [
            self._titles[title],
            self._tokens.of(value.token for value in values),
            [shown_number(value.value, abs(value.value)) for value in values],
            [] if None in counts else counts,
        ]

    def _unit_list(self, hook: str, title: str, others: Sequence[UnitValue]) -> list[Any]:
        hooks = [other.hook or hook for other in others]
        return [
            self._titles[title],
            [other.unit for other in others],
            [f"{other.value:+.2f}" for other in others],
            [] if set(hooks) <= {hook} else self._hooks.of(hooks),
        ]
