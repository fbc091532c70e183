"""A scan as a file of its run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import msgspec

from mi_superposition.errors import WorkError
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.neurons import NeuronScan, ScanSettings
from mi_superposition.schemas import parse_as

SCAN = "scan.safetensors"


class _Counts(TypedDict):
    documents: Annotated[int, msgspec.Meta(ge=0)]
    tokens: Annotated[int, msgspec.Meta(ge=0)]
    hooks: list[str]
    vocabulary: NotRequired[list[str]]


def write_scan(folder: Path, scan: NeuronScan) -> None:
    """Write a scan whole or not at all."""
    # One entry: safetensors writes several in no fixed order.
    counts = {
        "documents": scan.n_documents,
        "tokens": scan.n_tokens,
        "hooks": list(scan.hooks),
        "vocabulary": list(scan.vocabulary),
    }
    write_tensors(folder / SCAN, scan.tensors(), {"counts": json.dumps(counts)})


def read_scan(folder: Path, settings: ScanSettings) -> NeuronScan:
    """Inverse of ``write_scan``. Scans of version 0.1 have no vocabulary. Raises ``WorkError`` for a file that is damaged or missing."""
    tensors, metadata = read_tensors(folder / SCAN)
    counts = parse_as(metadata.get("counts", ""), _Counts, folder / SCAN)
    try:
        return NeuronScan.from_tensors(
            tensors,
            hooks=counts["hooks"],
            n_documents=counts["documents"],
            n_tokens=counts["tokens"],
            settings=settings,
            vocabulary=counts.get("vocabulary", ()),
        )
    except KeyError as error:
        raise WorkError(f"{str(folder / SCAN)!r} is damaged: it lacks {error}") from error
