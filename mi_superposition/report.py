"""The whole study as one static site. A new subject adds one entry to ``CHAPTERS``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import MANIFEST, locked, read_json, versions, write_json
from mi_superposition.site import Section
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
    """One section of the report: ``build`` measures it; ``story`` leads on to it from the chapter before; ``reported`` is what the
    study or paper it follows says, with its source.
    """

    title: str
    story: str
    reported: str
    build: Callable[[SectionRequest], Section]


# In the order in which the story is told.
CHAPTERS: dict[str, Chapter] = {
    "toy": Chapter(
        toy.TITLE,
        "A network has more to say than it has dimensions. Where the features are made up, one can see what it does: it keeps several in one dimension, if they are seldom there together.",
        "5 sparse features in 2 dimensions lie as a pentagon, without ReLU only 2 are kept (Elhage et al. 2022)",
        toy.toy_section,
    ),
    "addition": Chapter(
        addition.TITLE,
        "Next a model small enough to take apart that has a task of its own: 32 heads of two dimensions each have to carry ten digits and their sums.",
        "98.0 % of digits of 2,000 test problems (the notebooks this study follows)",
        addition.addition_section,
    ),
    "neuron-order": Chapter(
        neuron_order.TITLE,
        "In a language model nobody made the features up. First its weights alone: does an order of neurons fall out of them, or does any matrix look ordered once it is sorted?",
        "W^T W looks ordered once its neurons are sorted; neither a number nor a control was given",
        neuron_order.neuron_order_section,
    ),
    "neuroscope": Chapter(
        neuroscope.SECTION_TITLE,
        "Weights do not say what a neuron is for; texts do. If features outnumber neurons, some neurons must serve several contexts.",
        "pages of examples, from which neurons look polysemantic (Neuroscope, Nanda 2022); no such number was given",
        neuroscope.neuroscope_section,
    ),
    "sae": Chapter(
        sae.TITLE,
        "If neurons are mixtures, the features may be other directions, of which few are active at a time. A sparse autoencoder looks for those.",
        "more features than dimensions, clearer than neurons (Cunningham et al. 2023, Bricken et al. 2023)",
        sae.sae_section,
    ),
    "spectra": Chapter(
        spectra.TITLE,
        "How much room is there at all? Ranks count the directions that a layer uses, and do not say how many features share them.",
        "110 (113) of 128 and 54 of 64 in the chapter this study follows; of which matrix is not known",
        spectra.spectra_section,
    ),
    "concepts": Chapter(
        concepts.TITLE,
        "Last, from the other side: concepts that people have. Does the model keep them as directions, and do they share neurons?",
        "texts correlate with three concepts by 0.335, 0.339 and 0.372, not centred (the chapter this study follows)",
        concepts.concepts_section,
    ),
}

TITLE = "mi_superposition"
LEAD = (
    "How neural networks keep more features than they have dimensions, from made-up features to the concepts of a language model. "
    "Every figure's number stands beside its control: an untrained model, a random set, a chance level."
)
_RUNNING, _FINISHED = "running", "finished"


def chosen_sections(sections: Sequence[str]) -> list[str]:
    """These sections in the order of the story; all of them where none is named. Raises ``RequestError`` for one that is not there."""
    for name in sections:
        if name not in CHAPTERS:
            raise RequestError(f"section {name!r} is not one of {', '.join(map(repr, CHAPTERS))}")
    return [name for name in CHAPTERS if not sections or name in sections]


def write_report(
    out: Path,
    *,
    sections: Sequence[str] = (),
    real: RealData | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
    on_progress: Callable[[str], None] = lambda state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Measure every section, or those named, and write the site; ``on_stage`` is told of each stage begun, ``on_progress`` how far
    a long one is.

    What is shown was measured here from the bundled models or comes with the package; with ``real`` also what takes real texts and
    images is measured here. A site that was stopped goes on after its last finished section. Does nothing and
    returns false where ``out`` already holds this very site, made by this very package. Raises ``RequestError`` for a section
    that is not there and when ``out`` holds other files or is being written, ``WorkError`` when the disk refuses, and
    ``training.Stopped`` when asked to stop.
    """
    chosen = chosen_sections(sections)
    check_site_folder(out)
    made_from = {
        "package": _package_hash(),
        "versions": versions(),
        "sections": chosen,
        "real": None if real is None else real.identity(),
    }
    with locked(out):
        before = _manifest(out)
        same = before["made_from"] == made_from
        if same and before["status"] == _FINISHED and _whole(out, before):
            return False
        done: dict[str, Any] = before["sections"] if same else {}
        earlier = _addresses(before)
        manifest = {"made_from": made_from, "status": _RUNNING, "sections": done, "earlier": sorted(earlier)}
        # Before the work, so that a place where nothing can be written is found at once.
        write_assets(out)
        write_json(out / MANIFEST, manifest)
        nav = [Link(CHAPTERS[name].title, f"{name}.html") for name in chosen]
        for number, name in enumerate(chosen, start=1):
            if name in done:
                continue
            place = f"{number}/{len(chosen)} {CHAPTERS[name].title}"
            request = _section_request(chosen, real, place, len(done), on_stage, on_progress, should_stop)
            section = CHAPTERS[name].build(request)
            request.on_stage("pages")
            files = write_section(section, out, title=TITLE, nav=nav)
            done[name] = {"card": asdict(section.card(CHAPTERS[name].story, CHAPTERS[name].reported)), "files": files}
            write_json(out / MANIFEST, manifest)
        write_index([Card(**done[name]["card"]) for name in chosen], out, title=TITLE, lead=LEAD, nav=nav)
        # After the index, which now leads to none of them.
        remove_stale(out, earlier - {file for name in chosen for file in done[name]["files"]})
        write_json(out / MANIFEST, {"made_from": made_from, "status": _FINISHED, "sections": done})
    return True


def _section_request(
    chosen: list[str],
    real: RealData | None,
    place: str,
    n_done: int,
    on_stage: Callable[[str], None],
    on_progress: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> SectionRequest:
    """One that says where in the report it is, and stops between stages."""

    def on_section_stage(stage: str) -> None:
        if should_stop():
            raise Stopped(n_done, "section")
        on_stage(f"{place}: {stage}")

    return SectionRequest(chosen, real, on_section_stage, lambda state: on_progress(f"{place}: {state}"), should_stop)


def _manifest(out: Path) -> dict[str, Any]:
    """That of an earlier site; one of nothing where there is none that can be read."""
    nothing: dict[str, Any] = {"made_from": None, "status": _RUNNING, "sections": {}}
    try:
        found = read_json(out / MANIFEST)
    except WorkError:
        return nothing
    readable = isinstance(found, dict) and nothing.keys() <= found.keys() and isinstance(found["sections"], dict)
    return found if readable else nothing


def _addresses(manifest: dict[str, Any]) -> set[str]:
    """All that the sections of a site wrote, and what a site before it had left to remove."""
    return {file for section in manifest["sections"].values() for file in section["files"]} | set(
        manifest.get("earlier", ())
    )


def _whole(out: Path, manifest: dict[str, Any]) -> bool:
    """Whether everything that a finished site is made of is still there."""
    return all((out / address).exists() for address in ("index.html", *_addresses(manifest)))


def _package_hash() -> str:
    """SHA-256 over the package's own files: code, templates and bundled models."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
