"""Superposition among the heads of a language model: skip trigrams, the heads that carry them, and controls.

    python scripts/head_trigrams.py
    python scripts/head_trigrams.py --model openai-community/gpt2 --corpus mine.jsonl --out runs/trigrams

`mi-superposition heads trigrams` has the same options and writes a page. With ``--bundle`` the result goes into the package, for the report.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from mi_superposition.cli.terminal import StoppedByUser, terminal_progress
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.runs import MANIFEST, METRICS, seal
from mi_superposition.storing import write_record
from mi_superposition.studies.heads import trigrams as study

# The model that the report's chapter is of.
BUNDLED_MODEL = "stories"


def main(config: TrigramsConfig, out: Path | None = None, bundle: bool = False) -> None:
    """Measure, print.

    Args:
        config: What to measure on what.
        out: Run folder; a run that was stopped is resumed. Default: none is kept.
        bundle: Whether the result goes into the package.
    """
    if bundle and config.model.name != BUNDLED_MODEL:
        raise RequestError(f"--bundle with model = {config.model.name!r}: the report is of {BUNDLED_MODEL!r}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch) / "run"
        with terminal_progress() as progress:
            study.measure(config, folder, progress)
        result = study.load(folder)
        if bundle:
            put_into_package(folder)
            print(f"bundled in {study.BUNDLED}", file=sys.stderr)
    print(result.summary())
    print(result.to_frame().head(20).to_string())


def put_into_package(folder: Path) -> None:
    """A finished run, with the halves, which have been compared already, in half precision."""
    result = study.load(folder)
    tables = {name: getattr(result, name) for name in ("edges", "random", "untrained")}
    study.BUNDLED.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, MANIFEST):
        shutil.copy(folder / name, study.BUNDLED / name)
    smaller: dict[str, Any] = {name: replace(one, halves=one.halves.half()) for name, one in tables.items()}
    write_record(study.BUNDLED / study.RESULT, replace(result, **smaller))
    seal(study.BUNDLED)


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
