"""Pages from records. The templates escape everything; figures pass through one function that does the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mi_superposition.errors import RequestError
from mi_superposition.runs import clear_partial, write_file
from mi_superposition.site.records import FigureRecord, ImageRecord, Link, MatrixRecord, Page, Section, TableRecord
from mi_superposition.site.tiles import TILE, write_matrix

_STATIC = ("style.css", "figures.js", "matrix.js", "neuron.js", "layer.js", "search.js", "favicon.svg")
# Present in every site of ours: how a folder is recognised as one that may be written over.
_MARK = "assets/style.css"


def write_site(sections: Sequence[Section], out: Path, *, title: str, lead: str) -> None:
    """Write the whole site; the same records give the same bytes.

    Raises ``RequestError`` when ``out`` is a file or a folder with other things in it, ``WorkError`` when the disk
    refuses.
    """
    check_site_folder(out)
    write_assets(out)
    templates = environment()
    for section in sections:
        for page in (section.page, *section.more):
            for item in page.items:
                if isinstance(item, ImageRecord):
                    write_file(out / "images" / item.file_name, item.content)
                if isinstance(item, MatrixRecord):
                    write_matrix(item, out)
            html = templates.get_template("page.html").render(
                site_title=title, sections=sections, section=section, page=page
            )
            write_file(out / f"{page.slug}.html", html.encode("utf-8", "backslashreplace"))
        if section.write_more is not None:
            section.write_more(out, title)
    # Last, so that a reader who finds an index finds everything it links to.
    html = templates.get_template("index.html").render(site_title=title, lead=lead, sections=sections)
    write_file(out / "index.html", html.encode("utf-8", "backslashreplace"))


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
    if out.is_dir() and not (out / _MARK).exists() and (others := sorted(path.name for path in out.iterdir())):
        raise RequestError(f"{str(out)!r} holds other files ({others[0]!r}, …): give a new or empty folder")


def environment() -> Environment:
    """The templates: whatever they show is escaped, and a name that is not there is an error."""
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
    digest = hashlib.sha256()
    for name in _STATIC:
        digest.update(files("mi_superposition.site").joinpath("assets", name).read_bytes())
    return digest.hexdigest()[:8]


__all__ = ["Page", "check_site_folder", "write_assets", "write_site"]
