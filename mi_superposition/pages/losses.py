"""What the corpus of a run lost as it was read, for its pages."""

from __future__ import annotations

from pathlib import Path

from mi_superposition.corpora.corpus import KINDS
from mi_superposition.files import read_json
from mi_superposition.runs import METRICS

_SAID = {
    "empty": "empty and passed over",
    "broken": "that could not be read",
    "missing": "without text",
    "repaired": "with bytes that are no UTF-8, each shown as U+FFFD",
}


def losses_of(folder: Path) -> str:
    """What is not as it was in the corpus of a finished run, by number of documents; empty where all is."""
    metrics = read_json(folder / METRICS)
    counts = {kind: metrics.get(f"corpus/{kind}", 0) for kind in KINDS[1:]}
    return ", ".join(f"{count:,} {_SAID[kind]}" for kind, count in counts.items() if count)
