"""Pages from records. The templates escape everything; figures pass through one function that does the same."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mi_superposition.errors import RequestError
from mi_superposition.files import PARTIAL, clear_partial, remove, write_file
from mi_superposition.runs import LOCK
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
)
from mi_superposition.site.tiles import TILE, write_matrix

_STATIC = ("style.css", "figures.js", "matrix.js", "neuron.js", "layer.js", "search.js", "find.js", "favicon.svg")
# Present in every site of ours: how a folder is recognised as one that may be written over.
_MARK = "assets/style.css"
# What the search for units reads, where a site has their pages.
UNIT_INDEX = f"{UNITS}/search.js"


def write_site(sections: Sequence[Section], out: Path, *, title: str, lead: str) -> None:
    """Write the whole site; the same records give the same bytes.

    Raises ``RequestError`` when ``out`` is a file or a folder with other things in it, ``WorkError`` when the disk
    refuses.
    """
    check_site_folder(out)
    write_assets(out)
    nav = [Link(section.title, f"{section.page.slug}.html") for section in sections]
    for section in sections:
        write_section(section, out, title=title, nav=nav)
    write_index([section.card() for section in sections], out, title=title, lead=lead, nav=nav)


def write_section(section: Section, out: Path, *, title: str, nav: Sequence[Link]) -> list[str]:
    """Write a section's pages, pictures, matrices and what the search finds it by; ``nav`` leads to all sections.

    Gives the addresses of what was written, relative to the site: files, and folders of tiles and of what the section writes more.
    """
    templates = environment()
    written = []
    for page in section.pages:
        for item in page.items:
            if isinstance(item, ImageRecord):
                written.append(f"images/{item.file_name}")
                write_file(out / written[-1], item.content)
            if isinstance(item, MatrixRecord):
                written.append(f"matrix/{item.id}")
                write_matrix(item, out)
        html = templates.get_template("page.html").render(site_title=title, nav=nav, section=section, page=page)
        written.append(f"{page.slug}.html")
        write_file(out / written[-1], html.encode("utf-8", "backslashreplace"))
    written.append(_search_file(section.page.slug))
    write_file(out / written[-1], f"siteSearch({script_json(_entries(section))});\n".encode())
    if section.write_more is not None:
        section.write_more(out, title)
    return [*written, *section.folders]


def write_index(cards: Sequence[Card], out: Path, *, title: str, lead: str, nav: Sequence[Link]) -> None:
    """Write the page that leads to all sections. Last, so that a reader who finds an index finds everything it links to."""
    html = (
        environment()
        .get_template("index.html")
        .render(
            site_title=title,
            lead=lead,
            nav=nav,
            cards=cards,
            searched=[_search_file(card.slug) for card in cards],
            made_of=_content_version([*(out / _search_file(card.slug) for card in cards), out / UNIT_INDEX]),
            units=UNITS if (out / UNIT_INDEX).exists() else None,
        )
    )
    write_file(out / "index.html", html.encode("utf-8", "backslashreplace"))


def remove_stale(out: Path, addresses: Collection[str]) -> None:
    """Remove what an earlier site wrote and this one does not: files, and folders with all that is in them.

    What lies elsewhere stays, whatever a site's manifest may say.
    """
    for address in addresses:
        path = out / address
        if out.resolve() not in path.resolve().parents:
            continue
        remove(path)


def _entries(section: Section) -> list[list[str]]:
    """What the search of the index finds: address, title, the page it is on, and its words."""
    entries = []
    for page in section.pages:
        entries.append([f"{page.slug}.html", page.title, section.title, page.intro])
        entries += [[f"{page.slug}.html#{item.id}", item.title, page.title, item.look_at] for item in page.items]
    return entries


def _search_file(slug: str) -> str:
    return f"search/{slug}.js"


def write_assets(out: Path, *, figures: bool = True) -> None:
    """Style, scripts and icon: written first, so that a site cut off later is recognised as ours and written over.

    Without ``figures`` the 4.7 MB that draw them are left out. What a killed process left half-written goes.
    """
    clear_partial(out)
    for name in _STATIC:
        write_file(out / "assets" / name, files("mi_superposition.site").joinpath("assets", name).read_bytes())
    if figures:
        write_file(out / "assets" / "plotly.min.js", get_plotlyjs().encode())


def check_site_folder(out: Path) -> None:
    """Raise ``RequestError`` unless ``out`` is new, empty, or a site written before."""
    if out.exists() and not out.is_dir():
        raise RequestError(f"{str(out)!r} is a file: give a folder for the site")
    if out.is_dir() and not (out / _MARK).exists():
        others = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
        # A site cut off at its very first file has nothing whole yet; a report holds its lock.
        if others := [name for name in others if not name.endswith(PARTIAL) and name != LOCK]:
            raise RequestError(f"{str(out)!r} holds other files ({others[0]!r}, …): give a new or empty folder")


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
    templates.tests["figure"] = lambda item: isinstance(item, FigureRecord)
    templates.tests["image"] = lambda item: isinstance(item, ImageRecord)
    templates.filters["matrix_json"] = _matrix_json
    templates.tests["link"] = lambda cell: isinstance(cell, Link)
    templates.tests["matrix"] = lambda item: isinstance(item, MatrixRecord)
    templates.tests["table"] = lambda item: isinstance(item, TableRecord)
    templates.globals["asset_version"] = _asset_version()
    # The way from a page to the site's folder.
    templates.globals["root"] = ""
    return templates


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


__all__ = ["Page", "check_site_folder", "remove_stale", "write_assets", "write_index", "write_section", "write_site"]
