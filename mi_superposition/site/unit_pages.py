"""Records of units to static pages: an index, one table per layer, one page per unit, and the documents they show.

A page holds only its own examples, packed; the script that unpacks them is shared. Documents stand in files of their
own, loaded when a reader asks for a whole one. Where a site would have tens of thousands of pages, a layer has one, which shows
the unit that its address names from files of many units (``unit_chunks.py``).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from mi_superposition.neurons.scan.names import layer_name, unit_word
from mi_superposition.site.folder import SiteFolder
from mi_superposition.site.packing import packed_length, packed_script, packed_values
from mi_superposition.site.records import UNITS
from mi_superposition.site.unit_chunks import TOGETHER, unit_chunks
from mi_superposition.site.unit_records import (
    DocumentRecord,
    LayerRecord,
    ScanRecord,
    UnitRecord,
    layer_slug,
    unit_names,
    unit_slug,
    units_slug,
)
from mi_superposition.site.unit_words import FACTS, outline, scale_of, shown_number, unit_facts
from mi_superposition.site.write import environment, script_json, write_assets

# Documents in a file: as they are, and packed.
DOCUMENTS_TOGETHER, DOCUMENTS_PACKED_TOGETHER = 64, 256
# The page with the table of all layers' units.
_ALL = "all"


def write_unit_pages(
    scan: ScanRecord,
    units: Iterable[UnitRecord],
    documents: Iterable[DocumentRecord],
    site: SiteFolder,
    *,
    site_title: str,
    index: str = f"{UNITS}/index.html",
    together: bool = False,
) -> None:
    """Write ``neurons/`` into a site and, last, the index at ``index``; the same records give the same bytes.

    Units are taken one at a time (``together``: a file's at a time), so they need not fit into memory. What an earlier export left in
    ``neurons/`` and this one does not write is removed. Raises ``RequestError`` where other things stand in the way, ``WorkError`` when
    the disk refuses.
    """
    write_assets(site, figures=False)
    written = {index}
    pages = _Pages(scan, site_title=site_title, index=index, together=together)

    def encoded() -> Iterator[tuple[str, bytes]]:
        for name, text in pages.files(units, documents):
            written.add(f"{UNITS}/{name}")
            yield f"{UNITS}/{name}", text.encode("utf-8", "backslashreplace")

    site.write_all(encoded())
    site.write(index, pages.index().encode("utf-8", "backslashreplace"))
    site.remove([address for address in site.listed() if address.startswith(f"{UNITS}/") and address not in written])


class _Pages:
    """The files of a site in the folder of units, by their names there, and its index."""

    def __init__(self, scan: ScanRecord, *, site_title: str, index: str, together: bool):
        self._scan, self._index, self._together = scan, index, together
        self._layers = {layer.hook: layer for layer in scan.layers}
        self._templates = _environment()
        # The way from a page in the folder to the index, and from the index to the folder.
        self._inside = index.startswith(f"{UNITS}/")
        self._common: dict[str, Any] = {
            "site_title": site_title,
            "layers": list(self._layers),
            "together": TOGETHER if together else 0,
            "documents_together": DOCUMENTS_PACKED_TOGETHER if together else DOCUMENTS_TOGETHER,
            "facts": FACTS,
        }
        to_index = index.removeprefix(f"{UNITS}/") if self._inside else f"../{index}"
        self._within = self._common | {"root": "../", "folder": "", "index": to_index}

    def files(self, units: Iterable[UnitRecord], documents: Iterable[DocumentRecord]) -> Iterator[tuple[str, str]]:
        """Everything but the index."""
        yield from self._documents(documents)
        yield from unit_chunks(units) if self._together else self._pages_of(units)
        if self._together:
            yield from self._pages_of_hooks()
        for hook, layer in self._layers.items():
            data = script_json(_table([layer], together=self._together, word=unit_word(hook)))
            yield (
                f"{layer_slug(hook)}.html",
                self._table_page(hook, layer_name(hook), layer.n_units, unit_word(hook), data),
            )
        yield "search.js", f"neuronSearch({script_json(_search_index(self._scan.layers, together=self._together))});\n"

    def index(self) -> str:
        """The page that leads to all."""
        outside = self._common | {"root": "", "folder": f"{UNITS}/", "index": self._index}
        template = self._templates.get_template("neurons.html")
        return template.render(self._within if self._inside else outside, hook=None, scan=self._scan)

    def _documents(self, documents: Iterable[DocumentRecord]) -> Iterator[tuple[str, str]]:
        in_file = self._common["documents_together"]
        for number, group in itertools.groupby(documents, key=lambda document: document.number // in_file):
            content = {str(document.number): list(document.tokens) for document in group}
            function = "neuronDocuments"
            plain = f"{function}({script_json(content)});\n"
            yield f"documents/{number}.js", packed_script(function, content) if self._together else plain

    def _pages_of(self, units: Iterable[UnitRecord]) -> Iterator[tuple[str, str]]:
        """A page a unit."""
        page = self._templates.get_template("neuron.html")
        for neuron in units:
            top, bottom, *tenths = _packed(neuron)
            html = page.render(
                self._within,
                hook=neuron.hook,
                neuron=neuron,
                top=top,
                bottom=bottom,
                tenths=zip((title for title, _ in neuron.tenths), tenths, strict=True),
                n_units=self._layers[neuron.hook].n_units,
                scale=scale_of(neuron),
                word=unit_word(neuron.hook),
            )
            yield f"{unit_slug(neuron.hook, neuron.unit)}.html", html

    def _pages_of_hooks(self) -> Iterator[tuple[str, str]]:
        """A page a hook, whose script shows each of its units; and the table of all hooks' units."""
        page = self._templates.get_template("units.html")
        hooks = {hook: f"{units_slug(hook)}.html#" for hook in self._layers}
        for hook, layer in self._layers.items():
            html = page.render(
                self._within, hook=hook, layer=layer, word=unit_word(hook), hooks_json=script_json(hooks)
            )
            yield f"{units_slug(hook)}.html", html
        words = {unit_word(hook) for hook in self._layers}
        word = words.pop() if len(words) == 1 else "unit"
        data = script_json(_table(self._scan.layers, together=True, word=word))
        n_units = sum(layer.n_units for layer in self._layers.values())
        yield f"{_ALL}.html", self._table_page(_ALL, f"All {word}s", n_units, word, data)

    def _table_page(self, hook: str, title: str, n_units: int, word: str, data: Markup) -> str:
        page = self._templates.get_template("layer.html")
        return str(page.render(self._within, hook=hook, title=title, n_units=n_units, word=word, data=data))


@functools.cache
def _environment() -> Any:
    templates = environment().overlay()
    templates.filters = templates.filters | {
        "layer_name": layer_name,
        "layer_slug": layer_slug,
        "facts_of": unit_facts,
        "number": shown_number,
        "outline": outline,
        "spaced": lambda token: token.replace(" ", "\u00b7"),
        "unit_slug": unit_slug,
        "unit_word": unit_word,
        "units_slug": units_slug,
    }
    return templates


@dataclass(frozen=True)
class _Packed:
    """An example as its page carries it. ``at``: document, and the positions of the example, of the first token shown and of the
    first activation kept.
    """

    activation: float
    at: str
    lengths: str
    codes: str
    text: str


def _packed(neuron: UnitRecord) -> list[list[_Packed]]:
    """All lists of examples of a neuron, packed at once: the largest, the smallest, and those of each interval."""
    lists = [neuron.top, neuron.bottom, *(some for _, some in neuron.tenths)]
    examples = [example for some in lists for example in some]
    if not examples:
        return [[] for _ in lists]
    values = np.concatenate([example.activations for example in examples]).astype(np.float64)
    codes = packed_values(values, neuron.minimum, neuron.maximum)
    packed, start = [], 0
    for example in examples:
        end = start + 2 * len(example.activations)
        packed.append(
            _Packed(
                example.activation,
                f"{example.document} {example.position} {example.first} {example.activations_first}",
                "".join(map(packed_length, example.tokens)),
                codes[start:end],
                "".join(example.tokens),
            )
        )
        start = end
    remaining = iter(packed)
    return [list(itertools.islice(remaining, len(some))) for some in lists]


def _address(hook: str, *, together: bool) -> tuple[str, str]:
    """What stands before and after a unit's number in the address of its page."""
    return (f"{units_slug(hook)}.html#", "") if together else (unit_names(hook), ".html")


def _table(layers: Sequence[LayerRecord], *, together: bool, word: str) -> dict[str, Any]:
    """What ``layer.js`` reads: columns of numbers to four significant digits, and the tokens; all of one layer, or of several."""
    number: dict[str, int] = {}
    return {
        "word": word,
        "layers": [
            [unit_names(layer.hook), *_address(layer.hook, together=together), layer.n_units] for layer in layers
        ],
        "columns": {
            name: [_short(value) for layer in layers for value in layer.columns[name]] for name in layers[0].columns
        },
        "tokens": [
            [number.setdefault(token, len(number)) for token in row] for layer in layers for row in layer.tokens
        ],
        "words": list(number),
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _search_index(layers: Sequence[LayerRecord], *, together: bool) -> dict[str, Any]:
    """Every token once, and for each unit the numbers of the tokens it fires on and those it raises."""
    number: dict[str, int] = {}

    def numbered(lists: Sequence[Sequence[str]]) -> list[list[int]]:
        return [[number.setdefault(token, len(number)) for token in tokens] for tokens in lists]

    found = [
        {
            "name": layer_name(layer.hook),
            "slug": unit_names(layer.hook),
            "address": _address(layer.hook, together=together),
            "fires": numbered(layer.tokens),
            "raises": numbered(layer.raises),
        }
        for layer in layers
    ]
    return {"tokens": list(number), "layers": found}
