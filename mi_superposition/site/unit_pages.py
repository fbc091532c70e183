"""Records of units to static pages: an index, one table per layer, one page per unit, and the documents they show.

A page holds only its own examples, packed; the script that unpacks them is shared. Documents stand in files of their
own, loaded when a reader asks for a whole one.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from markupsafe import Markup
from numpy.typing import NDArray

from mi_superposition.neurons.scan.names import layer_name, unit_word
from mi_superposition.site.folder import SiteFolder
from mi_superposition.site.packing import packed_length, packed_values
from mi_superposition.site.records import UNITS
from mi_superposition.site.unit_records import (
    DocumentRecord,
    LayerRecord,
    ScanRecord,
    UnitRecord,
    layer_slug,
    unit_slug,
)
from mi_superposition.site.write import environment, script_json, write_assets

# Documents in a file.
DOCUMENTS_TOGETHER = 64


def write_unit_pages(
    scan: ScanRecord,
    units: Iterable[UnitRecord],
    documents: Iterable[DocumentRecord],
    site: SiteFolder,
    *,
    site_title: str,
    index: str = f"{UNITS}/index.html",
) -> None:
    """Write ``neurons/`` into a site and, last, the index at ``index``; the same records give the same bytes.

    Units are taken one at a time, so they need not fit into memory. What an earlier export left in ``neurons/`` and
    this one does not write is removed. Raises ``RequestError`` where other things stand in the way, ``WorkError`` when the disk
    refuses.
    """
    write_assets(site, figures=False)
    templates = _environment()
    layers = {layer.hook: layer for layer in scan.layers}
    # The way from a page in the folder to the index, and from the index to the folder.
    inside = index.startswith(f"{UNITS}/")
    common = {"site_title": site_title, "layers": list(layers)}
    to_index = index.removeprefix(f"{UNITS}/") if inside else f"../{index}"
    within = common | {"root": "../", "folder": "", "index": to_index}
    page = templates.get_template("neuron.html")

    def files() -> Iterator[tuple[str, str]]:
        for number, group in itertools.groupby(documents, key=lambda document: document.number // DOCUMENTS_TOGETHER):
            content = {str(document.number): list(document.tokens) for document in group}
            yield f"documents/{number}.js", f"neuronDocuments({script_json(content)});\n"
        for neuron in units:
            top, bottom, *tenths = _packed(neuron)
            html = page.render(
                within,
                hook=neuron.hook,
                neuron=neuron,
                top=top,
                bottom=bottom,
                tenths=zip((title for title, _ in neuron.tenths), tenths, strict=True),
                n_units=layers[neuron.hook].n_units,
                scale=max(abs(neuron.maximum), abs(neuron.minimum)),
                word=unit_word(neuron.hook),
            )
            yield f"{unit_slug(neuron.hook, neuron.unit)}.html", html
        for hook, layer in layers.items():
            html = templates.get_template("layer.html").render(within, hook=hook, layer=layer, word=unit_word(hook))
            yield f"{layer_slug(hook)}.html", html
        yield "search.js", f"neuronSearch({script_json(_search_index(scan.layers))});\n"

    written = {index}

    def encoded() -> Iterator[tuple[str, bytes]]:
        for name, text in files():
            written.add(f"{UNITS}/{name}")
            yield f"{UNITS}/{name}", text.encode("utf-8", "backslashreplace")

    site.write_all(encoded())
    outside = common | {"root": "", "folder": f"{UNITS}/", "index": index}
    html = templates.get_template("neurons.html").render(within if inside else outside, hook=None, scan=scan)
    site.write(index, html.encode("utf-8", "backslashreplace"))
    site.remove([address for address in site.listed() if address.startswith(f"{UNITS}/") and address not in written])


@functools.cache
def _environment() -> Any:
    templates = environment().overlay()
    templates.filters = templates.filters | {
        "bars": _bars,
        "layer_json": _layer_json,
        "layer_name": layer_name,
        "layer_slug": layer_slug,
        "number": shown_number,
        "spaced": lambda token: token.replace(" ", "\u00b7"),
        "unit_slug": unit_slug,
        "unit_word": unit_word,
    }
    return templates


def shown_number(value: float, scale: float = 1.0) -> str:
    """To two decimals, or as many as distinguish numbers of the size of ``scale``."""
    decimals = 2 if scale >= 0.1 or scale <= 0 else 2 - math.floor(math.log10(scale))
    return f"{value:.{decimals}f}"


def _bars(counts: Int[NDArray[np.int64], " bin"]) -> str:
    """The outline of a histogram in logarithms, each bin one unit wide, 40 high."""
    heights = np.log10(1 + counts)
    top = float(heights.max()) or 1.0
    steps = "".join(f"V{40 - 40 * height / top:.1f}H{bin + 1}" for bin, height in enumerate(heights))
    return f"M0 40{steps}V40Z"


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


def _layer_json(layer: LayerRecord, word: str) -> Markup:
    """Columns of numbers to four significant digits, and the tokens."""
    return script_json(
        {
            "word": word,
            "slug": unit_slug(layer.hook, 0).removesuffix("0"),
            "columns": {name: [_short(value) for value in values] for name, values in layer.columns.items()},
            "tokens": [list(tokens) for tokens in layer.tokens],
        }
    )


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _search_index(layers: Sequence[LayerRecord]) -> dict[str, Any]:
    """Every token once, and for each unit the numbers of the tokens it fires on and those it raises."""
    number: dict[str, int] = {}

    def numbered(lists: Sequence[Sequence[str]]) -> list[list[int]]:
        return [[number.setdefault(token, len(number)) for token in tokens] for tokens in lists]

    found = [
        {
            "name": layer_name(layer.hook),
            "slug": unit_slug(layer.hook, 0).removesuffix("0"),
            "fires": numbered(layer.tokens),
            "raises": numbered(layer.raises),
        }
        for layer in layers
    ]
    return {"tokens": list(number), "layers": found}
