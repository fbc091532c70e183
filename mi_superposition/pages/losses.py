"""What the corpus of a run lost as it was read, for its pages."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from mi_superposition.runs import read_metrics

_SAID = {
    "empty": "empty and passed over",
    "broken": "that could not be read",
    "missing": "without text",
    "repaired": "with bytes that are no UTF-8, each shown as U+FFFD",
}


_Counts = TypedDict("_Counts", {f"corpus/{kind}": NotRequired[int] for kind in _SAID})  # type: ignore[misc]


def losses_of(folder: Path) -> str:
    """What is not as it was in the corpus of a finished run, by number of documents; empty where all is."""
    counts = read_metrics(folder, _Counts)
    return ", ".join(f"{count:,} {said}" for kind, said in _SAID.items() if (count := counts.get(f"corpus/{kind}", 0)))
