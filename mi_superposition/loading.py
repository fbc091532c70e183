"""Running a study from Python, and reading back what a command wrote."""

from __future__ import annotations

from pathlib import Path

from mi_superposition.config import Config
from mi_superposition.errors import RequestError
from mi_superposition.progress import SILENT, Progress
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


def run(config: Config, out: str | Path, progress: Progress = SILENT) -> Result:
    """Do what the command of this configuration does, into the run folder ``out``, and read back the result.

    ``ms.run(AblateConfig.of(problems=500), "runs/ablation")`` is ``mi-superposition heads ablate --problems 500 --out runs/ablation``,
    without the page (``ms.write_page``). Raises ``RequestError`` for a configuration of no study, and as the study does.
    """
    known = [study for subject in subjects() for study in subject.studies]
    for study in known:
        if type(config) is study.load_config():
            study.measuring().measure(config, Path(out), progress)
            return study.measuring().load(Path(out))
    names = ", ".join(study.config_class for study in known)
    raise RequestError(f"{type(config).__name__} is the configuration of no study: give one of {names}")
