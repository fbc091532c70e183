"""The result of ``heads ablate`` beside what a scan says of each head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import pandas as pd

from mi_superposition.errors import RequestError
from mi_superposition.heads.scan import HeadScan
from mi_superposition.runs import read_manifest
from mi_superposition.schemas import convert_as
from mi_superposition.subjects import find_study

ABLATE = "heads ablate"
_ERROR = " error"


@dataclass(frozen=True)
class HeadAblations:
    """What an ablation measured of each head, in the scan's order, by what it was, and the standard errors that it gives. Empty where none
    was given.
    """

    values: Mapping[str, list[float]] = field(default_factory=dict)
    errors: Mapping[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, numbers: Mapping[str, list[float]]) -> HeadAblations:
        """Numbers by name, of which one that ends in "error" is the standard error of that without."""
        errors = {name: numbers[f"{name}{_ERROR}"] for name in numbers if f"{name}{_ERROR}" in numbers}
        values = {
            name: some for name, some in numbers.items() if name.removesuffix(_ERROR) not in errors or name in errors
        }
        return cls(values, errors)


class _Model(TypedDict):
    sha256: str


class _Inputs(TypedDict):
    """Of an ablation's manifest, what says that it is of the same model."""

    model: _Model


def ablations_of(folder: Path, scan: HeadScan, sha256: str) -> HeadAblations:
    """Every number that a finished run of ``heads ablate`` has of each head of the same model.

    Raises ``RequestError`` for a run of something else or of another model, and for one that does not have every head of the scan.
    """
    manifest = read_manifest(folder, ABLATE)
    try:
        inputs: _Inputs = convert_as(manifest["inputs"], _Inputs, "inputs")
    except ValueError as error:
        raise RequestError(f"{str(folder)!r} does not say which model it ablated ({error}): run it again") from error
    if inputs["model"]["sha256"] != sha256:
        raise RequestError(f"ablation = {str(folder)!r}: is of another model than the scan")
    study = find_study(ABLATE)
    assert study is not None
    return HeadAblations.of(_by_head(study.measuring().load(folder).to_frame(), scan, folder))


def _by_head(frame: pd.DataFrame, scan: HeadScan, folder: Path) -> dict[str, list[float]]:
    """The numbers of a table with a row a head, named by the columns or levels ``layer`` and ``head``."""
    rows = frame.reset_index(drop=not any(frame.index.names))
    if "layer" not in rows and len(scan.layers) == 1:
        rows = rows.assign(layer=scan.layers[0])
    heads = [(layer, head) for layer in scan.layers for head in range(scan.n_heads)]
    if not {"layer", "head"} <= set(rows):
        raise RequestError(f"ablation = {str(folder)!r}: its table does not say of which layer and head each row is")
    numbers = rows.select_dtypes("number").drop(columns=["layer", "head"], errors="ignore")
    kinds = [name for name in rows if name not in numbers and name not in ("layer", "head")]
    found: dict[str, list[float]] = {}
    for kind, some in rows.groupby(kinds, sort=False) if kinds else [((), rows)]:
        known = {(row["layer"], row["head"]): at for at, row in some[["layer", "head"]].iterrows()}
        if any(head not in known for head in heads):
            continue
        said = ", ".join(map(str, kind))
        for name in numbers:
            label = f"{name.replace('_', ' ')}{f' ({said})' if said else ''}"
            found[label] = [float(numbers.loc[known[head], name]) for head in heads]
    if not found:
        raise RequestError(f"ablation = {str(folder)!r}: does not have every head of the scan")
    return found
