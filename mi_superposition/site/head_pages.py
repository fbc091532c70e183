"""Records of attention heads to static pages: an overview in which every head is a point, and one page per head."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from mi_superposition.site.folder import SiteFolder
from mi_superposition.site.head_records import HeadExample, HeadRecord, HeadsRecord, head_address
from mi_superposition.site.packing import packed_length, packed_values
from mi_superposition.site.unit_words import shown_number
from mi_superposition.site.write import environment, script_json, write_assets


def write_head_pages(record: HeadsRecord, heads: Iterable[HeadRecord], site: SiteFolder, *, site_title: str) -> None:
    """Write ``heads/`` into a site and, last, the overview ``index.html``; the same records give the same bytes.

    What an earlier export left in ``heads/`` and this one does not write is removed. Raises ``RequestError`` where other things stand
    in the way, ``WorkError`` when the disk refuses.
    """
    write_assets(site, figures=False)
    templates = _environment()
    common = {"site_title": site_title, "layers": sorted(set(record.layers))}
    page = templates.get_template("head.html")
    names = list(record.names)
    written = {"index.html"}

    def files() -> Iterator[tuple[str, bytes]]:
        for place, head in enumerate(heads):
            address = head_address(head.name)
            written.add(address)
            html = page.render(
                common,
                root="../",
                head=head,
                names=names,
                previous=names[place - 1],
                following=names[(place + 1) % len(names)],
                another=names[(place * 7919 + 104729) % len(names)],
                largest=max((example.strength for example in head.top), default=1.0),
            )
            yield address, html.encode("utf-8", "backslashreplace")

    site.write_all(files())
    html = templates.get_template("heads.html").render(common, root="", record=record, head=None)
    site.write("index.html", html.encode("utf-8", "backslashreplace"))
    site.remove([address for address in site.listed() if address.startswith("heads/") and address not in written])


@functools.cache
def _environment() -> Any:
    templates = environment().overlay()
    templates.filters = templates.filters | {
        "packed": _packed,
        "number": shown_number,
        "points_json": _points_json,
        "table_json": _table_json,
        "spaced": lambda token: token.replace(" ", "\u00b7"),
    }
    return templates


@dataclass(frozen=True)
class _Packed:
    """An example as its page carries it. ``attention``: the rows of the lower triangle, one after the other, between 0 and 1; ``norms``:
    between 0 and ``longest``.
    """

    text: str
    lengths: str
    places: str
    attention: str
    norms: str
    longest: str


def _packed(example: HeadExample) -> _Packed:
    n = len(example.tokens)
    longest = float(example.length.max()) if n else 1.0
    # As many digits as are read back exactly enough.
    longest = float(f"{longest:.4g}")
    return _Packed(
        text="".join(example.tokens),
        lengths="".join(map(packed_length, example.tokens)),
        places=" ".join(map(str, example.place)),
        attention=packed_values(example.attention[np.tril_indices(n)].astype(np.float64), 0.0, 1.0),
        norms=packed_values(example.length.astype(np.float64), 0.0, longest),
        longest=f"{longest:.4g}",
    )


def _points_json(record: HeadsRecord) -> Markup:
    """The points of the overview: names, layers and measures, to four significant digits."""
    return script_json(
        {
            "names": list(record.names),
            "layers": list(record.layers),
            "axes": list(record.axes),
            "measures": [
                {
                    "name": measure.name,
                    "label": measure.label,
                    "meaning": measure.meaning,
                    "values": _short(measure.values),
                    "untrained": None if measure.untrained is None else _short(measure.untrained),
                    "permuted": None if measure.permuted is None else _short(measure.permuted),
                    "permutedIs": measure.permuted_is,
                }
                for measure in record.measures
            ],
        }
    )


def _table_json(record: HeadsRecord) -> Markup:
    """The table of all heads, as ``layer.js`` reads it."""
    number: dict[str, int] = {}
    return script_json(
        {
            "word": "head",
            "layers": [["", "heads/", ".html", len(record.names)]],
            "names": list(record.names),
            "columns": {measure.label: _short(measure.values) for measure in record.measures},
            "tokens": [[number.setdefault(token, len(number)) for token in tokens] for tokens in record.attended],
            "words": list(number),
        }
    )


def _short(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]
