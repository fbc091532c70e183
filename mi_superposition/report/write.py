"""Measuring every chapter's runs, and writing the site from their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import PARTIAL, json_bytes
from mi_superposition.pages.request import ChapterRequest, Job, RealData
from mi_superposition.progress import SILENT, Progress
from mi_superposition.provenance import versions
from mi_superposition.report.config import ReportConfig
from mi_superposition.runs import LOCK, MANIFEST, Outcome
from mi_superposition.schemas import read_as
from mi_superposition.site.folder import REPORT, SiteFolder, opened_site
from mi_superposition.site.records import UNITS, Card, Link
from mi_superposition.site.write import write_assets, write_index, write_section
from mi_superposition.subjects import Chapter, chapters, find_study
from mi_superposition.training import Stopped

RUNS = "runs"
# What shows, and measures nothing.
_SHOWING = ("pages", "site", "figures", "report", "cli")

TITLE = "mi_superposition"
LEAD = (
    "How neural networks represent more features than they have dimensions: from toy models with known features to the concepts of a "
    "language model. Every number is shown with its control: an untrained model, a random baseline, or a chance level."
)
_RUNNING, _FINISHED = "running", "finished"


class _Section(TypedDict):
    card: Card
    files: list[str]


class _Made(TypedDict):
    """The report's manifest: what it was made from, and the pages of its finished sections."""

    made_from: Any
    measured_by: NotRequired[Any]
    status: str
    sections: dict[str, _Section]


class _ChapterProgress(Progress):
    """Says where in the report the work is, and stops between stages."""

    def __init__(self, outer: Progress, place: str, n_done: int):
        self.outer, self.place, self.n_done = outer, place, n_done

    def advance(self, by: int = 1, state: str = "") -> None:  # noqa: ARG002
        """What a study counts is no chapter."""
        self.outer.advance(0, f"{self.place}: {state}")

    def stage(self, name: str) -> None:
        """Another stage of the report."""
        if self.should_stop():
            raise Stopped(self.n_done, "chapter")
        self.outer.advance(1, f"{self.place}: {name}")

    def should_stop(self) -> bool:
        """As whoever runs the report says."""
        return self.outer.should_stop()


def run(config: ReportConfig, progress: Progress) -> str:
    """The command ``report``."""
    outcome = write_report(config, progress)
    return f"{'finished already' if outcome.finished_already else 'report'}: {config.out / 'index.html'}"


def write_report(config: ReportConfig, progress: Progress = SILENT) -> Outcome:
    """Measure the runs of every chapter, or of those named, and write the site from them.

    What is shown was measured here from the bundled models or comes with the package; with ``full`` also what takes real texts and
    images is measured here. A site that was stopped goes on after its last finished run and chapter. Does nothing where ``out``
    already holds this very site, made by this very package. Raises ``RequestError`` when ``out`` holds other files or is being
    written, ``WorkError`` when the disk refuses, and ``training.Stopped`` when asked to stop.
    """
    out, chosen = config.out, config.chosen
    real = None
    if config.full:
        real = RealData(config.data, out.resolve().with_name(f"{out.resolve().name}-runs"), chosen)
    SiteFolder(out, REPORT)
    made_from = {
        "package": _package_hash(),
        "versions": versions(),
        "sections": chosen,
        "real": None if real is None else real.identity(),
    }
    # Runs stay as long as what measures is the same, whatever is said of them and whichever sections are shown.
    measured_by = {"package": _package_hash(without=_SHOWING), "versions": versions(), "full": config.full}
    with opened_site(out, REPORT) as site:
        before = _manifest(out)
        same = before["made_from"] == made_from
        if same and before["status"] == _FINISHED and _whole(out, before):
            return Outcome(out, finished_already=True)
        if before.get("measured_by") != measured_by:
            _remove_runs(site)
        # A section of which anything is missing is made again.
        whole = {
            name: {"card": asdict(made["card"]), "files": made["files"]}
            for name, made in before["sections"].items()
            if _all_there(out, made["files"])
        }
        done: dict[str, Any] = whole if same else {}
        manifest = {"made_from": made_from, "measured_by": measured_by, "status": _RUNNING, "sections": done}
        # Before the work, so that a place where nothing can be written is found at once.
        write_assets(site)
        site.write(MANIFEST, json_bytes(manifest))
        known = chapters()
        nav = [Link(known[name].title, f"{name}.html") for name in chosen]
        requests = {
            name: ChapterRequest(
                chosen, real, _ChapterProgress(progress, f"{number}/{len(chosen)} {known[name].title}", len(done))
            )
            for number, name in enumerate(chosen, start=1)
        }
        runs = {name: _measured(known[name], requests[name], site) for name in chosen}
        for name in chosen:
            if name in done:
                continue
            chapter, request = known[name], requests[name]
            section = chapter.showing().section(runs, request)
            request.progress.stage("pages")
            files = write_section(section, site, title=TITLE, nav=nav)
            done[name] = {"card": asdict(section.card(chapter.story, chapter.reported)), "files": files}
            site.write(MANIFEST, json_bytes(manifest))
        write_index(
            [Card(**done[name]["card"] | {"slug": name}) for name in chosen],
            site,
            title=TITLE,
            lead=LEAD,
            nav=nav,
            units=any(UNITS in done[name]["files"] for name in chosen),
        )
        # After the index, which now leads to none of them.
        kept = [MANIFEST, "index.html", "assets", RUNS, *(file for name in chosen for file in done[name]["files"])]
        site.remove([address for address in site.listed() if not _is_in(address, kept)])
        site.write(MANIFEST, json_bytes(manifest | {"status": _FINISHED}))
    return Outcome(out, finished_already=False)


def _measured(chapter: Chapter, request: ChapterRequest, site: SiteFolder) -> Mapping[str, Path]:
    """The folders of a chapter's runs, made where they are not there."""
    folders = {}
    jobs: Mapping[str, Job] = chapter.showing().jobs(request)
    for name, job in jobs.items():
        request.progress.stage(name)
        if job.bundled is not None:
            folders[name] = job.bundled
        elif job.kept and request.real is not None:
            folders[name] = _made(job, request.real.run_folder(chapter.name, name), request).folder
        else:
            address = f"{RUNS}/{chapter.name}-{name}"
            outcome = _made(job, site.folder / address, request)
            folders[name] = outcome.folder
            if not (outcome.finished_already and site.lists_any_in(address)):
                site.add_folder(address)
    return folders


def _made(job: Job, folder: Path, request: ChapterRequest) -> Outcome:
    assert job.config is not None, folder
    if job.measured_by is not None:
        measuring: Any = import_module(job.measured_by)
    else:
        study = find_study(job.command)
        assert study is not None, job.command
        measuring = study.measuring()
    return measuring.measure(job.config, folder, request.progress)


def _manifest(out: Path) -> _Made:
    """That of an earlier site; one of nothing where there is none that can be read."""
    try:
        return read_as(out / MANIFEST, _Made)
    except WorkError:
        return _Made(made_from=None, status=_RUNNING, sections={})


def _remove_runs(site: SiteFolder) -> None:
    """Runs that another version of this package measured. Raises ``RequestError`` where there is more among them."""
    site.remove([address for address in site.listed() if _is_in(address, [RUNS])])
    there = (path for path in (site.folder / RUNS).rglob("*") if path.is_file() and path.name != LOCK)
    if left := sorted(path for path in there if not path.name.endswith(PARTIAL)):
        raise RequestError(
            f"{str(left[0])!r} is no finished part of the report that another version began: move it away, or give a new folder"
        )


def _is_in(address: str, kept: Collection[str]) -> bool:
    """Whether an address is one of these, or in a folder that is."""
    return any(address == one or address.startswith(f"{one}/") for one in kept)


def _whole(out: Path, manifest: _Made) -> bool:
    """Whether everything that a finished site is made of is still there."""
    return all(_all_there(out, ["index.html", *section["files"]]) for section in manifest["sections"].values())


def _all_there(out: Path, addresses: Collection[str]) -> bool:
    return all((out / address).exists() for address in addresses)


def _package_hash(without: Collection[str] = ()) -> str:
    """SHA-256 over the package's own files: code, templates and bundled models, but for some of its packages."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        name = path.relative_to(root)
        if name.parts[0] not in without:
            digest.update(str(name).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
