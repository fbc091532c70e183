"""The whole study as one static site. A new subject adds one entry to ``CHAPTERS``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_superposition.errors import RequestError
from mi_superposition.runs import MANIFEST, read_json, versions, write_json
from mi_superposition.site import Section
from mi_superposition.site.neuron_pages import FOLDER as NEURONS
from mi_superposition.site.records import Card, Link
from mi_superposition.site.write import check_site_folder, remove_stale, write_assets, write_index, write_section
from mi_superposition.studies import addition, neuron_order, neuroscope
from mi_superposition.studies.concepts import section as concepts
from mi_superposition.studies.request import RealData, SectionRequest
from mi_superposition.studies.sae import section as sae
from mi_superposition.studies.spectra import section as spectra
from mi_superposition.studies.toy import section as toy
from mi_superposition.training import Stopped


@dataclass(frozen=True)
class Chapter:
    """One section of the report: ``build`` measures it; ``story`` leads on to it from the chapter before."""

    title: str
    story: str
    build: Callable[[SectionRequest], Section]


# In the order in which the story is told.
CHAPTERS: dict[str, Chapter] = {
    "toy": Chapter(
        toy.TITLE,
        "A network has more to say than it has dimensions. Where the features are made up, one can see what it does: it keeps several in one dimension, if they are seldom there together.",
        toy.toy_section,
    ),
    "addition": Chapter(
        addition.TITLE,
        "Next a model small enough to take apart that has a task of its own: 32 heads of two dimensions each have to carry ten digits and their sums.",
        addition.addition_section,
    ),
    "neuron-order": Chapter(
        neuron_order.TITLE,
        "In a language model nobody made the features up. First its weights alone: do neurons that write alike form groups, or does any matrix look so once it is sorted?",
        neuron_order.neuron_order_section,
    ),
    "neuroscope": Chapter(
        neuroscope.SECTION_TITLE,
        "Weights do not say what a neuron is for; texts do. If features outnumber neurons, one neuron must serve several contexts.",
        neuroscope.neuroscope_section,
    ),
    "sae": Chapter(
        sae.TITLE,
        "If neurons are mixtures, the features may be other directions, of which few are active at a time. A sparse autoencoder looks for those.",
        sae.sae_section,
    ),
    "spectra": Chapter(
        spectra.TITLE,
        "How much room is there at all? Ranks count the directions that a layer uses, and do not say how many features share them.",
        spectra.spectra_section,
    ),
    "concepts": Chapter(
        concepts.TITLE,
        "Last, from the other side: concepts that people have. Does the model keep them as directions, and do they share neurons?",
        concepts.concepts_section,
    ),
}

TITLE = "mi_superposition"
LEAD = (
    "How neural networks keep more features than they have dimensions, from made-up features to the concepts of a language model. "
    "Every number stands beside its control: an untrained model, a random set, a chance level."
)
_RUNNING, _FINISHED = "running", "finished"


def write_report(
    out: Path,
    *,
    sections: Sequence[str] = (),
    real: RealData | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Measure every section, or those named, and write the site; ``on_stage`` is told of each stage begun.

    What is shown was measured here from the bundled models or comes with the package; with ``real`` also what takes real texts and
    images is measured here. A site that was stopped goes on after its last finished section. Does nothing and
    returns false where ``out`` already holds this very site, made by this very package. Raises ``RequestError`` for a section
    that is not there and when ``out`` holds other files, ``WorkError`` when the disk refuses, and ``training.Stopped`` when asked to stop.
    """
    for name in sections:
        if name not in CHAPTERS:
            raise RequestError(f"section {name!r} is not one of {', '.join(map(repr, CHAPTERS))}")
    chosen = [name for name in CHAPTERS if not sections or name in sections]
    check_site_folder(out)
    made_from = {
        "package": _package_hash(),
        "versions": versions(),
        "sections": chosen,
        "real": None if real is None else str(real.folder or "hub"),
    }
    before = _manifest(out)
    same = before.get("made_from") == made_from
    if same and before["status"] == _FINISHED:
        return False
    done: dict[str, Any] = before["sections"] if same else {}
    manifest = {"made_from": made_from, "status": _RUNNING, "sections": done}
    # Before the work, so that a place where nothing can be written is found at once.
    write_assets(out)
    write_json(out / MANIFEST, manifest)
    nav = [Link(CHAPTERS[name].title, f"{name}.html") for name in chosen]
    for number, name in enumerate(chosen, start=1):

        def on_progress(state: str, place: str = f"{number}/{len(chosen)} {CHAPTERS[name].title}") -> None:
            on_stage(f"{place}: {state}")

        def on_section_stage(stage: str, tell: Callable[[str], None] = on_progress) -> None:
            if should_stop():
                raise Stopped(len(done), "section")
            tell(stage)

        if name in done:
            continue
        section = CHAPTERS[name].build(SectionRequest(chosen, real, on_section_stage, on_progress, should_stop))
        on_section_stage("pages")
        files = write_section(section, out, title=TITLE, nav=nav)
        done[name] = {"card": asdict(section.card(CHAPTERS[name].story)), "files": files}
        write_json(out / MANIFEST, manifest)
    cards = [Card(**done[name]["card"]) for name in chosen]
    remove_stale(out, {"index.html", *(file for name in chosen for file in done[name]["files"])})
    if "neuroscope" not in chosen and (out / NEURONS).is_dir():
        shutil.rmtree(out / NEURONS)
    write_index(cards, out, title=TITLE, lead=LEAD, nav=nav)
    write_json(out / MANIFEST, manifest | {"status": _FINISHED})
    return True


def _manifest(out: Path) -> dict[str, Any]:
    """That of an earlier site, or an empty one."""
    found = read_json(out / MANIFEST) if (out / MANIFEST).exists() else {}
    return found if isinstance(found, dict) and {"made_from", "status", "sections"} <= found.keys() else {}


def _package_hash() -> str:
    """SHA-256 over the package's own files: code, templates and bundled models."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
