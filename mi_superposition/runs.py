"""Run folders: what was asked, what came out, and nothing half written.

A run folder holds ``manifest.json`` (the request and where it was carried out), ``metrics.json`` (flat, numbers),
``history.jsonl``, safetensors files and figures. Every file is written beside its place and then moved there, so
a killed process leaves a complete old file or a complete new one. The manifest's ``status`` is ``running`` until
everything else is in place and ``finished`` afterwards. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError

MANIFEST = "manifest.json"
METRICS = "metrics.json"
HISTORY = "history.jsonl"
LOCK = ".lock"
# How the name of a file ends while it is being written: like nobody else's, as what is left of one is removed.
PARTIAL = ".mi-superposition-partial"
_RECORDED_PACKAGES = ("torch", "transformer-lens", "transformers", "sae-lens", "numpy", "safetensors")


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises ``WorkError`` naming the file when the disk refuses."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        # Where even this fails there is nothing left to tidy: the first error is the one to report.
        if partial.exists() and os.access(partial.parent, os.W_OK):
            partial.unlink()
        raise WorkError(f"cannot write {str(path)!r}: {error.strerror}") from error


def clear_partial(folder: Path) -> None:
    """Remove what a killed process was writing there."""
    for leftover in folder.rglob("*" + PARTIAL):
        leftover.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole; NaN and infinity are refused because JSON has neither."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; ``WorkError`` when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WorkError(f"cannot read {str(path)!r}: {_one_line(error)}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whole."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, save(contiguous, dict(metadata or {})))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; ``WorkError`` when it is missing, truncated or damaged."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WorkError(f"cannot read tensors from {str(path)!r}: {_one_line(error)}") from error


def write_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON values as one safetensors file.

    The tensors go in as tensors, everything around them as JSON in the file's metadata, so the state of any
    torch optimizer is kept exactly without pickle.
    """
    tensors: dict[str, Tensor] = {}

    def strip(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[str(len(tensors))] = value.clone()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(value, Mapping):
            return {"dict": [[strip(key), strip(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [strip(item) for item in value]}
        return {"value": value}

    skeleton = json.dumps(strip(state))
    write_tensors(path, tensors, {"state": skeleton})


def read_state(path: Path) -> Any:
    """Inverse of ``write_state``."""
    tensors, metadata = read_tensors(path)

    def fill(node: dict[str, Any]) -> Any:
        [(kind, content)] = node.items()
        match kind:
            case "tensor":
                return tensors[content]
            case "dict":
                return {fill(key): fill(item) for key, item in content}
            case "list":
                return [fill(item) for item in content]
            case "tuple":
                return tuple(fill(item) for item in content)
            case _:
                return content

    if "state" not in metadata:
        raise WorkError(f"{str(path)!r} holds tensors but no saved state: it was not written as a checkpoint")
    return fill(json.loads(metadata["state"]))


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes: equal exactly when the tensors are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises ``WorkError`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WorkError(f"cannot read {str(path)!r}: {error.strerror}") from error


def text_hash(documents: Iterable[str]) -> str:
    """SHA-256 over texts in their order: equal exactly when all of them are."""
    digest = hashlib.sha256()
    for document in documents:
        text = document.encode("utf-8", "surrogatepass")
        digest.update(f"{len(text)}|".encode() + text)
    return digest.hexdigest()


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
        try:
            with (self.path / HISTORY).open("ab") as file:
                file.write((json.dumps(row, allow_nan=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WorkError(f"cannot write {str(self.path / HISTORY)!r}: {error.strerror}") from error

    def rewind_history(self, step: int) -> None:
        """Drop every row after ``step``, a torn last row included."""
        kept = [row for row in read_history(self.path) if row["step"] <= step]
        write_file(self.path / HISTORY, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def finish(self, metrics: Mapping[str, float | int | list[float] | list[int]]) -> None:
        """Write ``metrics.json``, then mark the run finished: the last thing that happens to it."""
        write_json(self.path / METRICS, dict(metrics))
        self.manifest["status"] = "finished"
        write_json(self.path / MANIFEST, self.manifest)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Rows of a run's ``history.jsonl`` up to the first torn one; empty where there is none."""
    rows: list[dict[str, Any]] = []
    if not (path / HISTORY).exists():
        return rows
    for line in (path / HISTORY).read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if not isinstance(row, dict) or "step" not in row:
            break
        rows.append(row)
    return rows


@contextmanager
def open_run(
    path: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """Create a run folder, or open the one of the very same request to go on with it.

    ``config`` is the full request and ``inputs`` names what it read (models, corpora) with content hashes. Raises
    ``RequestError`` when the folder holds something else: other files, another command, other options, or a run
    that another process is writing.
    """
    config = json.loads(json.dumps(dict(config), allow_nan=False))
    inputs = json.loads(json.dumps(dict(inputs or {})))
    check_run(path, command, config, inputs)
    with locked(path):
        clear_partial(path)
        if (path / MANIFEST).exists():
            manifest = _read_manifest_file(path)
        else:
            manifest = {
                "format": 1,
                "command": command,
                "config": config,
                "inputs": inputs,
                "status": "running",
                "versions": versions(),
                "git_commit": _git_commit(),
            }
            write_json(path / MANIFEST, manifest)
        yield Run(path, manifest)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A folder, created where it is not there, that no other process of ours writes meanwhile.

    Raises ``RequestError`` where one does, ``WorkError`` when the disk refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"cannot create the folder {str(path)!r}: {error.strerror}") from error
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
        yield
    finally:
        # Unlinked while held: whoever waits for it notices and makes a new one.
        (path / LOCK).unlink(missing_ok=True)
        lock.release()


def read_manifest(path: Path, command: str | None = None) -> dict[str, Any]:
    """Manifest of a finished run.

    Raises ``RequestError`` when the folder is no run, is one of another command than ``command``, or is not
    finished.
    """
    if not (path / MANIFEST).is_file():
        raise RequestError(f"{str(path)!r} is not a run folder: it has no {MANIFEST}")
    manifest = _read_manifest_file(path)
    if command is not None and manifest.get("command") != command:
        raise RequestError(f"{str(path)!r} is a run of {manifest.get('command')!r}: give one of {command!r}")
    if manifest.get("status") != "finished":
        raise RequestError(f"{str(path)!r} is not finished: run its command again to go on")
    return manifest


def check_run(path: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Raise as ``open_run`` would for a folder that holds something else, before there is anything to open."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"{str(path)!r} is a file: give a folder for the run")
    if not (path / MANIFEST).exists():
        if path.exists() and (
            others := sorted(p.name for p in path.iterdir() if p.name != LOCK and not p.name.endswith(PARTIAL))
        ):
            raise RequestError(f"{str(path)!r} holds other files ({others[0]!r}, …): give a new or empty folder")
        return
    manifest = _read_manifest_file(path)
    if manifest.get("command") != command:
        raise RequestError(
            f"{str(path)!r} is a run of {manifest.get('command')!r}, not of {command!r}: give another folder"
        )
    for kind, wanted in [("config", config), ("inputs", inputs)]:
        recorded = manifest.get(kind, {})
        for name in sorted({*recorded, *wanted}):
            if recorded.get(name) != wanted.get(name):
                raise RequestError(
                    f"{str(path)!r} was made with {name} = {recorded.get(name)!r}, not {wanted.get(name)!r}: "
                    "give another folder or the same options"
                )


def _read_manifest_file(path: Path) -> dict[str, Any]:
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or not {"command", "config", "inputs", "status"} <= set(manifest):
        raise WorkError(f"{str(path / MANIFEST)!r} is damaged: it lacks a command, config, inputs or status")
    return manifest


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what its results depend on."""
    found = {"python": sys.version.split()[0]}
    for package in ("mi-superposition", *_RECORDED_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git_commit() -> str | None:
    """Commit of the checkout this package runs from; ``None`` for an installed package or without git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
