"""Reading back what a command wrote."""

from __future__ import annotations

from pathlib import Path

from mi_superposition.errors import RequestError
from mi_superposition.results import Result
from mi_superposition.runs import read_manifest
from mi_superposition.subjects import find_study, subjects


def load_run(folder: str | Path) -> Result:
    """The result in the run folder of any command: a ``NeuronScan`` of ``neurons scan``, a ``HeadAblation`` of ``heads ablate``, …

    Raises ``RequestError`` for a folder that is no finished run of a known command, ``WorkError`` for damaged files.
    """
    folder = Path(folder)
    command = read_manifest(folder)["command"]
    study = find_study(command)
    if study is None:
        known = ", ".join(repr(one.command) for subject in subjects() for one in subject.studies)
        raise RequestError(f"{str(folder)!r} is a run of {command!r}: results are read of {known}")
    return study.measuring().load(folder)
