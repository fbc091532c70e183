"""The whole study as one static site. A new subject adds one entry to ``SECTIONS``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from mi_superposition.runs import MANIFEST, read_json, versions, write_json
from mi_superposition.site import Section, write_site
from mi_superposition.site.write import check_site_folder, write_assets
from mi_superposition.studies.addition import addition_section
from mi_superposition.studies.concepts.section import concepts_section
from mi_superposition.studies.neuron_order import neuron_order_section
from mi_superposition.studies.neuroscope import neuroscope_section
from mi_superposition.studies.sae.section import sae_section
from mi_superposition.studies.spectra.section import spectra_section
from mi_superposition.studies.toy.section import toy_section

# A section measures, tells how far it is by calling its argument, and returns what to show.
SECTIONS: dict[str, Callable[[Callable[[str], None]], Section]] = {
    "toy": toy_section,
    "addition": addition_section,
    "neuron-order": neuron_order_section,
    "neuroscope": neuroscope_section,
    "sae": sae_section,
    "spectra": spectra_section,
    "concepts": concepts_section,
}

TITLE = "mi_superposition"
LEAD = (
    "How neural networks keep more features than they have dimensions. Every number stands beside its control: an "
    "untrained model, a random set, a chance level."
)


def write_report(out: Path, *, on_stage: Callable[[str], None] = lambda stage: None) -> bool:
    """Measure every section from the bundled models and write the site; ``on_stage`` is told of each stage begun.

    Does nothing and returns false where ``out`` already holds the site of this very package. Raises ``RequestError``
    when ``out`` holds other files and ``WorkError`` when the disk refuses.
    """
    check_site_folder(out)
    made_from = {"package": _package_hash(), "versions": versions()}
    manifest = out / MANIFEST
    if manifest.exists() and read_json(manifest) == {"made_from": made_from, "status": "finished"}:
        return False
    # Before the work, so that a place where nothing can be written is found at once.
    write_assets(out)
    write_json(manifest, {"made_from": made_from, "status": "running"})
    sections = [build(on_stage) for build in SECTIONS.values()]
    on_stage("pages")
    write_site(sections, out, title=TITLE, lead=LEAD)
    write_json(manifest, {"made_from": made_from, "status": "finished"})
    return True


def _package_hash() -> str:
    """SHA-256 over the package's own files: code, templates and bundled models."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
