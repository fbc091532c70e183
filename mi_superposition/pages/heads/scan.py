"""The pages of a scan of heads: an overview in which every head is a point, and one page per head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from mi_superposition.corpora.tokens import tokenizer_identity
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import content_hash
from mi_superposition.heads.scan import HeadScan
from mi_superposition.heads.scan.config import HeadPagesConfig, HeadScanConfig
from mi_superposition.models import load_model, weights_of
from mi_superposition.models.protocol import HookedModel
from mi_superposition.pages.heads.scan_ablation import HeadAblations, ablations_of
from mi_superposition.pages.heads.scan_readers import reader_links
from mi_superposition.pages.heads.scan_records import head_records, heads_record
from mi_superposition.pages.losses import losses_of
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import MANIFEST, read_config, read_manifest, same_input
from mi_superposition.schemas import convert_as
from mi_superposition.site.folder import HEAD_PAGES, SiteFolder, opened_site
from mi_superposition.site.head_pages import write_head_pages
from mi_superposition.site.head_records import HeadLinks, HeadRecord
from mi_superposition.studies.heads import scan as study
from mi_superposition.training import Stopped

_TITLE = "Heads"


class _Hashed(TypedDict):
    sha256: str


class _Inputs(TypedDict):
    """Of a scan's manifest, what its pages are checked against."""

    model: _Hashed
    tokenizer: Any


def run(config: HeadPagesConfig, progress: Progress) -> str:
    """The command ``heads pages``."""
    n_pages = _write(config, progress)
    return f"{n_pages:,} pages: {config.out / 'index.html'}"


def write(folder: Path, out: Path, progress: Progress = SILENT) -> Path:
    """The pages of the scan in a finished run folder as a site of their own; its index.

    Raises ``RequestError`` when ``folder`` is no finished scan, its model is gone or has changed, or ``out`` holds other files.
    """
    _write(HeadPagesConfig(scan=folder, out=out), progress)
    return out / "index.html"


def open_head_scan(folder: Path, *, device: str) -> tuple[HeadScan, HeadScanConfig, HookedModel, str]:
    """The scan in a finished run, what was asked for, its model, and the hash of that.

    Raises ``RequestError`` for another folder, and where the model or its tokenizer is gone or has changed by now.
    """
    manifest = read_manifest(folder, study.COMMAND)
    config = read_config(folder, HeadScanConfig)
    try:
        inputs: _Inputs = convert_as(manifest["inputs"], _Inputs, "inputs")
    except ValueError as error:
        raise WorkError(f"{str(folder / MANIFEST)!r} is damaged: {error}") from error
    scan = study.load(folder)
    model = load_model(config.model.name, device=device)
    sha256 = content_hash(weights_of(model))
    if sha256 != inputs["model"]["sha256"] or not same_input(inputs["tokenizer"], tokenizer_identity(model.tokenizer)):
        raise RequestError(f"{config.model.name!r} has changed since {str(folder)!r} scanned it: scan again")
    return scan, config, model, sha256


def _write(config: HeadPagesConfig, progress: Progress) -> int:
    SiteFolder(config.out, HEAD_PAGES)
    scan, asked, model, sha256 = open_head_scan(config.scan, device=config.device.device)
    ablations = HeadAblations() if config.ablation is None else ablations_of(config.ablation, scan, sha256)
    links: list[list[HeadLinks]] = reader_links(scan, model, config, asked)
    record = heads_record(scan, asked, ablations, losses_of(config.scan))

    def counted() -> Iterator[HeadRecord]:
        for done, head in enumerate(head_records(scan, ablations, links)):
            if progress.should_stop():
                raise Stopped(done, "page")
            yield head
            progress.advance(1, head.name)

    progress.begin("page", len(scan.names))
    with opened_site(config.out, HEAD_PAGES) as site:
        write_head_pages(record, counted(), site, site_title=_TITLE)
    return len(scan.names)
