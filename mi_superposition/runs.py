"""Run folders: what was asked, what came out, and nothing half written.

A run folder holds ``manifest.json`` (the configuration and where it was carried out), ``metrics.json`` (flat, numbers),
``history.jsonl`` and safetensors files. The manifest's ``status`` is ``running`` until everything else is in place and
``finished`` afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec
from filelock import FileLock, Timeout

from mi_superposition.config import Config
from mi_superposition.errors import RequestError, WorkError, first_line
from mi_superposition.files import (
    PARTIAL,
    append_line,
    clear_partial,
    file_hash,
    held,
    make_folder,
    remove,
    text_hash,
    write_file,
    write_json,
)
from mi_superposition.provenance import git_commit, versions
from mi_superposition.schemas import Metrics, parse_as, read_as
from mi_superposition.subjects import find_study

MANIFEST = "manifest.json"
METRICS = "metrics.json"
HISTORY = "history.jsonl"
# What an unfinished run goes on from.
CHECKPOINT = "checkpoint.safetensors"
# What studies leave in the folders of their runs.
_RESULTS = (".safetensors", ".jsonl")
_OTHER_RESULTS = (METRICS, "model.json", "cfg.json", "evaluation.json", "spots.csv")
# How the names of metrics end that differ from machine to machine.
_TIMINGS = ("seconds", "_per_second")
# Where a run has its pages, in its folder.
PAGE = "page"
LOCK = ".lock"
# Of an input: how it was checked. Not compared, as it is no part of what the input is.
CHECKED = "checked"
# Of an input: a hash that covers more of it than those of version 0.1 did. Compared where it was recorded.
WHOLE = "whole"
# Of the manifest. 1: configurations nested and partly under other names (version 0.1). 2: flat, an entry an option.
FORMAT = 2
# Characters of a value that a message has at most.
_QUOTED = 100
_Config = TypeVar("_Config", bound=Config)


class Step(TypedDict):
    """What every row of a history has."""

    step: int


class Manifest(TypedDict):
    """``manifest.json``."""

    format: NotRequired[Annotated[int, msgspec.Meta(ge=1)]]
    command: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    status: Literal["running", "finished"]
    versions: NotRequired[dict[str, str]]
    git_commit: NotRequired[str | None]
    # Of a finished run: SHA-256 of the results that lie in its folder itself; of the metrics without timings.
    files: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class Outcome:
    """How a study ended: where its run folder is, and whether it was finished before."""

    folder: Path
    finished_already: bool

    def __str__(self) -> str:
        return f"{'finished already' if self.finished_already else 'results'}: {self.folder}"


class Run:
    """One run folder, opened for writing by ``open_run``."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest

    @property
    def finished(self) -> bool:
        """Whether everything the run promised is in place."""
        return self.manifest["status"] == "finished"

    def append_history(self, row: Mapping[str, Any]) -> None:
        """Add one row to ``history.jsonl``; rows carry a ``step`` so that a resumed run can drop what it redoes."""
        append_line(self.path / HISTORY, json.dumps(row, allow_nan=False))

    def rewind_history(self, step: int, row: Any = Step) -> None:
        """Drop every row after ``step``, a torn last row included. Raises as ``read_history``, before work goes on from what is damaged."""
        rows = zip(read_history(self.path, row), _history_lines(self.path), strict=True)
        write_file(self.path / HISTORY, b"".join(line + b"\n" for row, line in rows if row["step"] <= step))

    def finish(self, metrics: Mapping[str, float | int | list[float] | list[int]], *, with_hashes: bool = True) -> None:
        """Write ``metrics.json``, then mark the run finished; its checkpoint is of no use any more. ``with_hashes``: not for files so
        large that reading them takes as long as making them.
        """
        write_json(self.path / METRICS, dict(metrics))
        if with_hashes:
            self.manifest["files"] = _hashes(self.path)
        self.manifest["status"] = "finished"
        write_json(self.path / MANIFEST, self.manifest)
        remove(self.path / CHECKPOINT)


def read_history(path: Path, row: Any = dict[str, Any]) -> list[Any]:
    """The rows of a run's ``history.jsonl``, each as ``row`` declares it; empty where there are none.

    A last line that was cut off is left out: a killed process leaves one. Raises ``WorkError``, with the number of the line, for any
    other that is no such row.
    """
    return [
        parse_as(line, row, f"{path / HISTORY}, line {number}")
        for number, line in enumerate(_history_lines(path), start=1)
    ]


def _history_lines(path: Path) -> list[bytes]:
    if not (path / HISTORY).exists():
        return []
    whole, _, _ = (path / HISTORY).read_bytes().rpartition(b"\n")
    return whole.split(b"\n") if whole else []


def read_metrics(path: Path, schema: Any = Metrics) -> Any:
    """The numbers of a run. Raises ``WorkError`` where they are missing or are something else than ``schema`` says."""
    return read_as(path / METRICS, schema)


@contextmanager
def open_run(
    path: Path, command: str, config: Config | Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """Create a run folder, or open the one of the very same request to go on with it.

    ``config`` is the full request and ``inputs`` names what it read (models, corpora) with content hashes. Options that the
    result does not depend on may be others than before; the manifest then has the new ones. Raises ``RequestError`` when the
    folder holds something else: other files, another command, other options, or a run that another process is writing.
    """
    inputs = json.loads(json.dumps(dict(inputs or {})))
    check_run(path, command, config, inputs)
    asked = config.flat() if isinstance(config, Config) else json.loads(json.dumps(dict(config), allow_nan=False))
    with locked(path):
        clear_partial(path)
        if (path / MANIFEST).exists():
            manifest = _read_manifest_file(path)
            # As text: True is equal to 1.
            if manifest["format"] == FORMAT and json.dumps(manifest["config"]) != json.dumps(asked):
                manifest["config"] = asked
                write_json(path / MANIFEST, manifest)
        else:
            manifest = {
                "format": FORMAT,
                "command": command,
                "config": asked,
                "inputs": inputs,
                "status": "running",
                "versions": versions(),
                "git_commit": git_commit(),
            }
            write_json(path / MANIFEST, manifest)
        run = Run(path, manifest)
        if run.finished:
            # Left behind by a process that was killed in its very last moment.
            remove(path / CHECKPOINT)
        yield run


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A folder, created where it is not there, that no other process of ours writes meanwhile.

    Raises ``RequestError`` where one does, ``WorkError`` when the disk refuses, and when the folder is written after it was renamed or
    removed by others.
    """
    make_folder(path)
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(
            f"{str(path)!r} is being written by another process: wait for it or take another folder"
        ) from None
    except OSError as error:
        raise WorkError(f"cannot write in {str(path)!r}: {error.strerror}") from error
    try:
        with held(path / LOCK) as is_there:
            try:
                yield
            finally:
                # Removed while held: whoever waits for it notices and makes a new one. One that has come in its place is another's.
                if is_there():
                    remove(path / LOCK)
    finally:
        lock.release()


def read_manifest(path: Path, command: str | None = None) -> dict[str, Any]:
    """Manifest of a finished run, whose files are found to be those that it wrote.

    Raises ``RequestError`` when the folder is no run, is one of another command than ``command``, or is not
    finished, and ``WorkError`` for a file that is missing or was changed.
    """
    if not (path / MANIFEST).is_file():
        raise RequestError(f"{str(path)!r} is not a run folder: it has no {MANIFEST}")
    manifest = _read_manifest_file(path)
    if command is not None and manifest.get("command") != command:
        raise RequestError(f"{str(path)!r} is a run of {manifest.get('command')!r}: give one of {command!r}")
    if manifest.get("status") != "finished":
        raise RequestError(f"{str(path)!r} is not finished: run its command again to go on")
    # Format 1 knew no hashes.
    for name, digest in (manifest.get("files", {}) if manifest["format"] == FORMAT else {}).items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise WorkError(f"{str(file)!r} is missing: put it back, or run its command again in a new folder")
        if _result_hash(file) != digest:
            raise WorkError(
                f"{str(file)!r} was changed since the run wrote it: put it back, or run its command again in a new folder"
            )
    return manifest


def seal(path: Path) -> None:
    """Take what is now in a finished run's folder for what the run wrote: for whoever copies a part of it. Raises as
    ``read_manifest`` for another folder.
    """
    manifest = _read_manifest_file(path)
    if manifest["status"] != "finished":
        raise RequestError(f"{str(path)!r} is not finished: nothing of it can be kept")
    write_json(path / MANIFEST, manifest | {"files": _hashes(path)})


# Hashes of results that this process has taken: a page asks for them again and again.
_known: dict[tuple[Path, int, int], str] = {}


def _hashes(path: Path) -> dict[str, str]:
    return {file.name: _result_hash(file) for file in _results_in(path)}


def _result_hash(path: Path) -> str:
    """SHA-256 of a file of a run; how long it took is no result."""
    if path.name != METRICS:
        found = path.stat()
        key = (path.resolve(), found.st_mtime_ns, found.st_size)
        if key not in _known:
            _known[key] = file_hash(path)
        return _known[key]
    numbers = read_as(path, Metrics)
    return text_hash([f"{name} {numbers[name]!r}" for name in sorted(numbers) if not name.endswith(_TIMINGS)])


def _results_in(path: Path) -> list[Path]:
    """What a run leaves in its folder; whatever else somebody keeps there is theirs."""
    files = (file for file in sorted(path.iterdir()) if file.is_file() and not file.is_symlink())
    return [
        file for file in files if file.name != CHECKPOINT and (file.suffix in _RESULTS or file.name in _OTHER_RESULTS)
    ]


def check_place(path: Path) -> None:
    """Raise ``RequestError`` for a place that holds other things of the user's (the working directory and those above it, the home
    folder, a git checkout), and for one inside a file.
    """
    place, here = path.resolve(), Path.cwd().resolve()
    if place == here or place in here.parents:
        raise RequestError(f"{str(path)!r} is the working directory, or holds it: name a folder inside it")
    if file := next((above for above in place.parents if above.is_file()), None):
        raise RequestError(f"{str(path)!r} is inside {str(file)!r}, which is a file: give another place")
    # Where nobody has said which folder that is, there is none.
    if place == Path(os.path.expanduser("~")).resolve():
        raise RequestError(f"{str(path)!r} is the home folder: name a folder inside it")
    if (place / ".git").exists():
        raise RequestError(f"{str(path)!r} is a git checkout: name a folder inside it, or elsewhere")


def is_page_of_run(folder: Path) -> bool:
    """Whether this is where a run of this package has its pages: ``page`` in its folder."""
    try:
        return folder.name == PAGE and find_study(_read_manifest_file(folder.parent)["command"]) is not None
    except (WorkError, RequestError):
        return False


def check_run(
    path: Path, command: str, config: Config | Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> None:
    """Raise as ``open_run`` would for a folder that holds something else, before there is anything to open."""
    check_place(path)
    if path.exists() and not path.is_dir():
        raise RequestError(f"{str(path)!r} is a file: give a folder for the run")
    if not (path / MANIFEST).exists():
        if path.exists() and (
            others := sorted(p.name for p in path.iterdir() if p.name != LOCK and not p.name.endswith(PARTIAL))
        ):
            raise RequestError(f"{str(path)!r} holds other files ({others[0]!r}, …): give a new or empty folder")
        return
    manifest = _read_manifest_file(path)
    if manifest["command"] != command:
        raise RequestError(
            f"{str(path)!r} is a run of {manifest['command']!r}, not of {command!r}: give another folder"
        )
    recorded = recorded_config(manifest, path / MANIFEST)
    wanted: Mapping[str, Any]
    if not isinstance(config, Config):
        wanted = config
    else:
        # An option that came with a later version was at its default; one that does not affect the result may differ.
        defaults = {option.name: option.default for option in config.options()}
        free = defaults.keys() - config.identity().keys()
        wanted = config.identity()
        # What format 1 did not record, such as the device, was as it is asked for now.
        usual = wanted if manifest["format"] < FORMAT else defaults
        recorded = {**{name: usual[name] for name in wanted}, **recorded}
        # As in `read_config`: what this version has no option for is left out.
        gone = recorded.keys() - defaults.keys() if manifest["format"] < FORMAT else set()
        recorded = {name: value for name, value in recorded.items() if name not in free | gone}
    for before, now in ((recorded, wanted), _comparable(manifest["inputs"], inputs or {})):
        before, now = (json.loads(json.dumps(dict(some), default=str)) for some in (before, now))
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise RequestError(
                    f"{str(path)!r} was made with {name} = {_quoted(before.get(name))}, not {_quoted(now.get(name))}: "
                    "give another folder or the same options"
                )


def _quoted(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= _QUOTED else f"{said[:_QUOTED]}…"


def same_input(recorded: Any, given: Any) -> bool:
    """Whether an input is still the one that a manifest recorded."""
    [before, now] = _comparable({"": recorded}, {"": given})
    return before == now


def _comparable(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Inputs recorded and given now, without how they were checked and what was not recorded then."""
    both = []
    for inputs in (recorded, given):
        kept = {}
        for name, one in inputs.items():
            before = recorded.get(name)
            left_out = {CHECKED} | ({WHOLE} if isinstance(before, Mapping) and WHOLE not in before else set())
            kept[name] = {k: v for k, v in one.items() if k not in left_out} if isinstance(one, Mapping) else one
        both.append(kept)
    return both


def recorded_config(manifest: Mapping[str, Any], source: Path | str = MANIFEST) -> dict[str, Any]:
    """The options that a run was asked for, under the names of today. Raises ``WorkError``, with the ``source``, for those of version 0.1 that
    lack what it recorded.
    """
    study = find_study(manifest["command"])
    flat = manifest["config"]
    if manifest["format"] < FORMAT:
        try:
            flat = (Config if study is None else study.load_config()).flattened(flat)
        except RequestError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise WorkError(
                f"{str(source)!r} is damaged: config: it is none of version 0.1, which format 1 is of ({first_line(error)})"
            ) from error
    renamed = (
        {} if study is None else {old.replace("-", "_"): new.replace("-", "_") for old, new in study.renamed.items()}
    )
    flat = {renamed.get(name, name): value for name, value in flat.items()}
    if manifest["format"] >= FORMAT:
        return flat
    # The default of that time, which is still taken where it is there.
    if flat.get("column") == "text":
        del flat["column"]
    # Some runs of that time had their model among the inputs alone.
    if isinstance(manifest["inputs"].get("model"), dict):
        flat.setdefault("model", manifest["inputs"]["model"].get("name"))
    return flat


def read_config(path: Path, cls: type[_Config], command: str | None = None) -> _Config:
    """The configuration of a finished run. What this version has no option for is left out.

    Raises as ``read_manifest``, and ``RequestError`` where an older run lacks what has no default.
    """
    known = {option.name for option in cls.options()}
    recorded = recorded_config(read_manifest(path, command), path / MANIFEST)
    return cls.from_flat({name: value for name, value in recorded.items() if name in known})


def _read_manifest_file(path: Path) -> dict[str, Any]:
    manifest = read_as(path / MANIFEST, Manifest)
    manifest.setdefault("format", 1)
    if manifest["format"] > FORMAT:
        raise RequestError(
            f"{str(path)!r} was written by a newer version (format {manifest['format']}): this one reads up to {FORMAT}"
        )
    return manifest
