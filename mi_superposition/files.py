"""Files that are whole or not there: written beside their place and then moved to it. Nothing is pickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mi_superposition.errors import WorkError
from mi_superposition.schemas import parse_record

# How the name of a file ends while it is being written: like nobody else's, as what is left of one is removed.
PARTIAL = ".mi-superposition-partial"


def _not_through_a_link(path: str, flags: int) -> int:
    # Windows has no such flag, and links that only an administrator makes.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class Disk:
    """Every change that this package makes to a disk, a method for each kind, so that a test can make any single one fail."""

    def make_folder(self, path: Path) -> None:
        """Create a folder and those above it, where they are not there yet."""
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Put content into a file, in place of what it held."""
        with open(path, "wb", opener=_not_through_a_link) as file:
            file.write(content)

    def append(self, path: Path, content: bytes) -> None:
        """Put content at the end of a file."""
        with open(path, "ab", opener=_not_through_a_link) as file:
            file.write(content)

    def sync(self, path: Path) -> None:
        """Wait until a file's content is on the disk itself."""
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def move(self, path: Path, to: Path) -> None:
        """Give a file another name, in place of the file that has it."""
        path.replace(to)

    def remove(self, path: Path) -> None:
        """Remove a file, where it is there."""
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        path.rmdir()


_disk = Disk()
# Lock files that this process holds, or the one that it works for; and the inode that each was when it was taken.
_held: dict[Path, int] = {}


@contextmanager
def held(lock: Path) -> Iterator[Callable[[], bool]]:
    """Inside, nothing is written into the folder of a lock file that this process has taken unless the file is still there.

    A folder that was renamed or removed would else be made anew, and written by two. Yields whether it is still there.
    """
    with held_by_another({lock: lock.stat().st_ino}):
        yield lambda: _is_held(lock)


def locks_held() -> dict[Path, int]:
    """The lock files that this process holds, for another that works for it: see ``held_by_another``."""
    return {lock.resolve(): inode for lock, inode in _held.items()}


@contextmanager
def held_by_another(locks: Mapping[Path, int]) -> Iterator[None]:
    """Inside, as in ``held``, nothing is written into the folders of ``locks_held()`` of a process, perhaps on another machine, that this one
    works for.
    """
    new = {lock: inode for lock, inode in locks.items() if lock not in _held}
    _held.update(new)
    try:
        yield
    finally:
        for lock in new:
            del _held[lock]


def _is_held(lock: Path) -> bool:
    try:
        # Another machine has another number for the device.
        return lock.stat().st_ino == _held[lock]
    except OSError:
        return False


def check_held(path: Path) -> None:
    """Raise ``WorkError`` where a path is in a folder that was renamed or removed while this process writes it."""
    for lock in _held:
        if path.is_relative_to(lock.parent) and not _is_held(lock):
            raise WorkError(
                f"{str(lock.parent)!r} was renamed or removed while it was written, or {lock.name} in it: run the command again where it "
                "is now, or for a new folder"
            )


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises ``WorkError`` naming the file when the disk refuses."""
    partial = path.with_name(path.name + PARTIAL)
    check_held(path)
    try:
        _disk.make_folder(path.parent)
        _disk.write(partial, content)
        _disk.sync(partial)
        _disk.move(partial, path)
    except OSError as error:
        # Where even this fails there is nothing left to tidy: the first error is the one to report.
        if partial.exists() and os.access(partial.parent, os.W_OK):
            _disk.remove(partial)
        # It may have gone since it was looked for.
        check_held(path)
        raise WorkError(f"cannot write {str(path)!r}: {error.strerror}") from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file. Raises ``WorkError`` naming the file when the disk refuses."""
    append_lines(path, [line])


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, which is created where it is not there yet. Raises ``WorkError`` naming it when the disk refuses."""
    check_held(path)
    try:
        _disk.make_folder(path.parent)
        _disk.append(path, "".join(line + "\n" for line in lines).encode())
        _disk.sync(path)
    except OSError as error:
        check_held(path)
        raise WorkError(f"cannot write {str(path)!r}: {error.strerror}") from error


def make_folder(path: Path) -> None:
    """Create a folder where it is not there yet. Raises ``WorkError`` naming it when the disk refuses."""
    check_held(path)
    try:
        _disk.make_folder(path)
    except OSError as error:
        raise WorkError(f"cannot create the folder {str(path)!r}: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing where it is not there. Raises ``WorkError`` when the disk refuses."""
    try:
        if path.is_dir() and not path.is_symlink():
            for inner in sorted(path.iterdir()):
                remove(inner)
            _disk.remove_folder(path)
        else:
            _disk.remove(path)
    except OSError as error:
        raise WorkError(f"cannot remove {str(path)!r}: {error.strerror}") from error


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing; any other stays."""
    with contextlib.suppress(OSError):
        _disk.remove_folder(folder)


def clear_partial(folder: Path) -> None:
    """Remove what a killed process was writing there."""
    for leftover in folder.rglob("*" + PARTIAL):
        remove(leftover)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole; NaN and infinity are refused because JSON has neither."""
    write_file(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """A value as this package writes JSON files; NaN and infinity are refused because JSON has neither."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Read a JSON file of others, whatever it holds; ``WorkError`` when it is missing or damaged. Ours are read by ``read_as``."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
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
        check_held(path)
        raise WorkError(f"cannot read tensors from {str(path)!r}: {_one_line(error)}") from error


def write_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON values as one safetensors file.

    The tensors go in as tensors, everything around them as JSON in the file's metadata, so the state of any
    torch optimizer is kept exactly without pickle. With the hash of both, as work goes on from it unseen.
    """
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()

    def strip(value: Any) -> Any:
        if isinstance(value, Tensor):
            storage = value.untyped_storage().data_ptr()
            # safetensors refuses tensors that share memory. Only those are copied: all may be gigabytes.
            tensors[str(len(tensors))] = value.clone() if storage in storages else value
            storages.add(storage)
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(value, Mapping):
            return {"dict": [[strip(key), strip(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [strip(item) for item in value]}
        return {"value": value}

    skeleton = json.dumps(strip(state))
    write_tensors(path, tensors, {"state": skeleton, "sha256": _state_hash(skeleton, tensors)})


def read_state(path: Path) -> Any:
    """Inverse of ``write_state``. Raises ``WorkError`` for a file that is missing, is no saved state, or is another than was written."""
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
    # Version 0.1 wrote none.
    if metadata.get("sha256", digest := _state_hash(metadata["state"], tensors)) != digest:
        raise WorkError(f"{str(path)!r} was changed since it was written: put it back, or begin again in a new folder")
    try:
        return fill(parse_record(metadata["state"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WorkError(f"{str(path)!r} is damaged: it is no saved state ({_one_line(error)})") from error


def _state_hash(skeleton: str, tensors: Mapping[str, Tensor]) -> str:
    return text_hash([skeleton, content_hash(tensors)])


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes: equal exactly when the tensors are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        # A single value may have a stride of 0, which has no view as bytes.
        digest.update(tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data)
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


def _one_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
