"""The report's chapter on superposition among heads, from a run that comes with the package (``scripts/head_trigrams.py``)."""

from __future__ import annotations

from mi_superposition.pages.heads import trigrams
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.site import Section
from mi_superposition.studies.heads import trigrams as study

CHAPTER = "heads"
TITLE = "Superposition among heads"


def jobs(request: ChapterRequest) -> dict[str, Job]:  # noqa: ARG001
    """The bundled run."""
    return {"trigrams": Job(study.COMMAND, bundled=study.BUNDLED)}


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """Skip trigrams of the bundled stories, their heads, and the toy that calibrates the measure."""
    return trigrams.section(study.load(runs[CHAPTER]["trigrams"]), slug=CHAPTER, title=TITLE)
