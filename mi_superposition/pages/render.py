"""From a finished run folder to its pages, whichever study it is of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mi_superposition.errors import RequestError
from mi_superposition.pages.config import PageConfig
from mi_superposition.pages.losses import losses_of
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import PAGE, read_manifest
from mi_superposition.site.write import write_site
from mi_superposition.subjects import Study, find_study


def run(config: PageConfig, progress: Progress) -> str:
    """The command ``page``."""
    return f"page: {write_page(config.run, config.out, progress=progress)}"


def write_page(folder: Path, out: Path | None = None, *, progress: Progress = SILENT) -> Path:
    """Write the pages of a finished run into ``out`` (default: ``page`` in its folder); the page to open.

    Raises ``RequestError`` for a folder that is no finished run of a known study, or of an older version that did not keep what
    the page shows, and when ``out`` holds other files.
    """
    study = study_of(folder)
    out = folder / PAGE if out is None else out
    showing = study.showing()
    if hasattr(showing, "write"):
        # A study with thousands of pages writes them one by one.
        return showing.write(folder, out, progress)
    sections = showing.sections(folder)
    if losses := losses_of(folder):
        first = sections[0]
        page = replace(first.page, intro=f"{first.page.intro} Documents of the corpus: {losses}.")
        sections = [replace(first, page=page), *sections[1:]]
    write_site(sections, out, title=sections[0].title, lead="")
    return out / "index.html"


def is_shown(folder: Path) -> bool:
    """Whether the run's pages are there. The index is written last."""
    return (folder / PAGE / "index.html").is_file()


def study_of(folder: Path) -> Study:
    """The study that a finished run is of. Raises ``RequestError`` where there is none, or none with pages."""
    command = read_manifest(folder)["command"]
    study = find_study(command)
    if study is None:
        raise RequestError(
            f"{str(folder)!r} is a run of {command!r}, which is no command here that has a page: give a run of 'toy train', 'neurons order', …"
        )
    return study
