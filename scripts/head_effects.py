"""What every attention head of a language model does for its predictions: heads ablated on text and tasks, and controls.

    python scripts/head_effects.py --model stories
    python scripts/head_effects.py --model openai-community/gpt2 --corpus mine.jsonl --out runs/heads

`mi-superposition heads ablate` has the same options and writes a page. With ``--bundle`` the result goes into the package, for the report.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import tyro

from mi_superposition.cli.terminal import StoppedByUser, terminal_progress
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.heads.config import AblateConfig
from mi_superposition.runs import MANIFEST, METRICS, seal
from mi_superposition.studies.heads import ablate, ablate_text

# The model that the report's chapter is of.
BUNDLED_MODEL = "stories"


def main(config: AblateConfig, out: Path | None = None, bundle: bool = False) -> None:
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
            ablate.measure(config, folder, progress)
        result = ablate.load(folder)
        if bundle:
            put_into_package(folder)
            print(f"bundled in {ablate_text.BUNDLED}", file=sys.stderr)
    print(result.summary())
    print(result.to_frame().to_string())


def put_into_package(folder: Path) -> None:
    """A finished run on text, without its page."""
    ablate_text.load(folder)
    ablate_text.BUNDLED.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, MANIFEST, ablate_text.RESULT):
        shutil.copy(folder / name, ablate_text.BUNDLED / name)
    seal(ablate_text.BUNDLED)


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
