"""Pages from records. The templates escape everything; figures pass through one function that does the same."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mi_superposition.site.folder import RUN, SiteFolder, opened_site
from mi_superposition.site.records import (
    UNITS,
    Card,
    FigureRecord,
    ImageRecord,
    Link,
    MatrixRecord,
    Page,
    Section,
    TableRecord,
    TextsRecord,
)
from mi_superposition.site.tiles import TILE, matrix_files

_STATIC = (
    "style.css", "figures.js", "matrix.js", "packing.js", "examples.js", "neuron.js", "units.js", "head.js", "heads.js", "layer.js", "search.js", "find.js",
    "favicon.svg",
)  # fmt: skip
# Only the site's own scripts run, none that stands in a page, and nothing is asked of another machine. Plotly writes styles.
_SECURITY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file: 'unsafe-inline'; img-src 'self' file: data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)
# More layers than this would fill the head of every page with links.
_MANY_LAYERS, _LAYERS_BESIDE = 12, 2
_Layer = TypeVar("_Layer")
# What the search for units reads, where a site has their pages.
UNIT_INDEX = f"{UNITS}/search.js"


def write_site(sections: Sequence[Section], out: Path, *, title: str, lead: str) -> None:
    """Write the whole site; the same records give the same bytes.

    Raises ``RequestError`` when ``out`` is a file or a folder with other things in it, ``WorkError`` when the disk
    refuses.
    """
    with opened_site(out, RUN) as site:
        write_assets(site)
        nav = [Link(section.title, f"{section.page.slug}.html") for section in sections]
        for section in sections:
            write_section(section, site, title=title, nav=nav)
        units = any(UNITS in section.folders for section in sections)
        write_index([section.card() for section in sections], site, title=title, lead=lead, nav=nav, units=units)


def write_section(section: Section, site: SiteFolder, *, title: str, nav: Sequence[Link]) -> list[str]:
    """Write a section's pages, pictures, matrices and what the search finds it by; ``nav`` leads to all sections.

    Gives the addresses of what was written, relative to the site: files, and folders of tiles and of what the section writes more.
    """
    templates = environment()
    written = []
    for page in section.pages:
        for item in page.items:
            if isinstance(item, ImageRecord):
                written.append(f"images/{item.file_name}")
                site.write(written[-1], item.content)
            if isinstance(item, MatrixRecord):
                written.append(f"matrix/{item.id}")
                site.write_all(matrix_files(item))
        html = templates.get_template("page.html").render(site_title=title, nav=nav, section=section, page=page)
        written.append(f"{page.slug}.html")
        site.write(written[-1], html.encode("utf-8", "backslashreplace"))
    written.append(_search_file(section.page.slug))
    site.write(written[-1], f"siteSearch({script_json(_entries(section))});\n".encode())
    if section.write_more is not None:
        section.write_more(site, title)
    return [*written, *section.folders]


def write_index(
    cards: Sequence[Card], site: SiteFolder, *, title: str, lead: str, nav: Sequence[Link], units: bool
) -> None:
    """Write the page that leads to all sections. Last, so that a reader who finds an index finds everything it links to.

    ``units``: whether the site has pages of units, which its search finds too.
    """
    out = site.folder
    html = (
        environment()
        .get_template("index.html")
        .render(
            site_title=title,
            lead=lead,
            nav=nav,
            cards=cards,
            searched=[_search_file(card.slug) for card in cards],
            made_of=_content_version([*(out / _search_file(card.slug) for card in cards), *[out / UNIT_INDEX] * units]),
            units=UNITS if units else None,
        )
    )
    site.write("index.html", html.encode("utf-8", "backslashreplace"))


def _entries(section: Section) -> list[list[str]]:
    """What the search of the index finds: address, title, the page it is on, and its words."""
    entries = []
    for page in section.pages:
        entries.append([f"{page.slug}.html", page.title, section.title, page.intro])
        entries += [[f"{page.slug}.html#{item.id}", item.title, page.title, item.look_at] for item in page.items]
    return entries


def _search_file(slug: str) -> str:
    return f"search/{slug}.js"


def write_assets(site: SiteFolder, *, figures: bool = True) -> None:
    """Style, scripts and icon. Without ``figures`` the 4.7 MB that draw them are left out. What a killed process left half-written goes."""
    site.clear_partial()
    for name in _STATIC:
        site.write(f"assets/{name}", files("mi_superposition.site").joinpath("assets", name).read_bytes())
    if figures:
        site.write("assets/plotly.min.js", get_plotlyjs().encode())


@functools.cache
def environment() -> Environment:
    """The templates, compiled once: whatever they show is escaped, and a name that is not there is an error."""
    templates = Environment(
        loader=PackageLoader("mi_superposition.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["figure_json"] = _figure_json
    templates.filters["near"] = near
    templates.tests["figure"] = lambda item: isinstance(item, FigureRecord)
    templates.tests["image"] = lambda item: isinstance(item, ImageRecord)
    templates.filters["matrix_json"] = _matrix_json
    templates.tests["link"] = lambda cell: isinstance(cell, Link)
    templates.tests["matrix"] = lambda item: isinstance(item, MatrixRecord)
    templates.tests["texts"] = lambda item: isinstance(item, TextsRecord)
    templates.tests["table"] = lambda item: isinstance(item, TableRecord)
    templates.globals["security"] = _SECURITY
    templates.globals["asset_version"] = _asset_version()
    # The way from a page to the site's folder.
    templates.globals["root"] = ""
    return templates


def near(layers: Sequence[_Layer], here: _Layer | None) -> Sequence[_Layer]:
    """The layers that a page links to: all if there are at most 12 or the page is of no layer, else its own and two on either side."""
    if here not in layers or len(layers) <= _MANY_LAYERS:
        return layers
    at = layers.index(here)
    return layers[max(0, at - _LAYERS_BESIDE) : at + _LAYERS_BESIDE + 1]


def _figure_json(figure: go.Figure) -> Markup:
    """A figure as JSON that cannot end the script element it stands in."""
    return script_json(json.loads(figure.to_json() or "{}"))


def _matrix_json(record: MatrixRecord) -> Markup:
    """What the viewer needs to know of a matrix; its tiles are files."""
    return script_json(
        {
            "id": record.id,
            "what": record.what,
            "tile": TILE,
            "size": len(record.views[0].order),
            "views": [
                {"key": view.key, "label": view.label, "order": view.order.tolist(), "valuesOf": view.values_of}
                for view in record.views
            ],
            "spots": [list(spot) for spot in record.spots],
            "pages": {str(neuron): address for neuron, address in record.pages.items()},
        }
    )


def script_json(value: Any) -> Markup:
    """JSON that no page can read as markup."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _asset_version() -> str:
    """Changes when a style or script does, so that a browser does not show a new page with an old style."""
    return _digest(files("mi_superposition.site").joinpath("assets", name).read_bytes() for name in _STATIC)


def _content_version(paths: Sequence[Path]) -> str:
    """Changes when what the search reads does."""
    return _digest(path.read_bytes() for path in paths if path.exists())


def _digest(contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:8]


__all__ = ["Page", "write_assets", "write_index", "write_section", "write_site"]
