"""The whole study as one static site. A new subject adds one entry to ``SECTIONS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mi_superposition.site import Section, write_site
from mi_superposition.studies.addition import addition_section

# A section measures, tells how far it is by calling its argument, and returns what to show.
SECTIONS: dict[str, Callable[[Callable[[str], None]], Section]] = {
    "addition": addition_section,
}

TITLE = "mi_superposition"
LEAD = (
    "How neural networks keep more features than they have dimensions. Every number stands beside its control: an "
    "untrained model, a random set, a chance level."
)


def write_report(out: Path, *, on_stage: Callable[[str], None] = lambda stage: None) -> None:
    """Measure every section from the bundled models and write the site; ``on_stage`` is told of each stage begun."""
    sections = [build(on_stage) for build in SECTIONS.values()]
    on_stage("pages")
    write_site(sections, out, title=TITLE, lead=LEAD)
