"""Activations written once and read by many trainings: safetensors files, mapped into memory, a buffer each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import write_tensors
from mi_superposition.runs import MANIFEST, check_run, open_run, read_manifest
from mi_superposition.sae.activations import ActivationStream
from mi_superposition.schemas import convert_as
from mi_superposition.training import Stopped

COMMAND = "sae activations"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


_Count = Annotated[int, msgspec.Meta(ge=1)]


class _Stored(TypedDict):
    hooks: list[str]
    batch_size: _Count
    buffer_batches: _Count
    n_batches: _Count


class StoredActivations:
    """The batches of an ``ActivationStream`` as it wrote them down; in single precision the very same.

    Raises ``RequestError`` for a folder that is not a finished one of these.
    """

    def __init__(self, folder: Path):
        manifest = read_manifest(folder, COMMAND)
        try:
            config: _Stored = convert_as(manifest["config"], _Stored, "config")
        except ValueError as error:
            raise WorkError(f"{str(folder / MANIFEST)!r} is damaged: {error}") from error
        self.folder = folder
        self.hooks: tuple[str, ...] = tuple(config["hooks"])
        self.batch_size: int = config["batch_size"]
        self.buffer_batches: int = config["buffer_batches"]
        self.n_batches: int = config["n_batches"]
        self._open: tuple[int, Any] | None = None

    def batch(self, index: int) -> dict[str, Float[Tensor, "batch d"]]:
        """Batch number ``index`` of every hook, float32.

        Raises ``RequestError`` for one that was not written, ``WorkError`` for a damaged file.
        """
        if not 0 <= index < self.n_batches:
            raise RequestError(f"batch {index:,}: {str(self.folder)!r} holds {self.n_batches:,}")
        number, within = divmod(index, self.buffer_batches)
        first = within * self.batch_size
        try:
            if self._open is None or self._open[0] != number:
                self._open = (number, safe_open(str(_shard(self.folder, number)), framework="pt"))
            file = self._open[1]
            return {hook: file.get_slice(hook)[first : first + self.batch_size].float() for hook in self.hooks}
        except (OSError, SafetensorError) as error:
            raise WorkError(f"cannot read {str(_shard(self.folder, number))!r}: {error}") from error


def stored_bytes(d_by_hook: Mapping[str, int], n_tokens: int, dtype: str = "float32") -> int:
    """Size on disk."""
    return sum(d_by_hook.values()) * n_tokens * DTYPES[dtype].itemsize


def store_activations(
    stream: ActivationStream,
    folder: Path,
    n_batches: int,
    *,
    dtype: str = "float32",
    inputs: Mapping[str, Any] | None = None,
    on_buffer: Callable[[int], None] = lambda batches: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> StoredActivations:
    """Write the first ``n_batches`` of a stream into a run folder, or resume it; what is there is not made again.

    ``inputs`` names model and corpus as run folders do. Raises ``RequestError`` for a folder of other activations, and
    ``Stopped`` after a whole buffer when asked to stop.
    """
    with open_run(folder, COMMAND, _config(stream, n_batches, dtype), inputs) as run:
        for number in range(0 if run.finished else -(-n_batches // stream.buffer_batches)):
            some = range(number * stream.buffer_batches, min((number + 1) * stream.buffer_batches, n_batches))
            if not _shard(folder, number).exists():
                found = [stream.batch(index) for index in some]
                kept = {hook: torch.cat([batch[hook] for batch in found]).to(DTYPES[dtype]) for hook in stream.hooks}
                for hook, values in kept.items():
                    if not bool(values.isfinite().all()):
                        raise WorkError(f"the activations at {hook!r} are too large for {dtype}: write them as float32")
                write_tensors(_shard(folder, number), kept)
            on_buffer(len(some))
            if should_stop() and some.stop < n_batches:
                raise Stopped(some.stop, "batch")
        if not run.finished:
            run.finish({"batches": n_batches, "tokens": n_batches * stream.batch_size}, with_hashes=False)
    return StoredActivations(folder)


def check_store(
    stream: ActivationStream, folder: Path, n_batches: int, *, dtype: str, inputs: Mapping[str, Any]
) -> None:
    """Raise ``RequestError`` where ``store_activations`` would refuse the folder."""
    check_run(folder, COMMAND, _config(stream, n_batches, dtype), inputs)


def _config(stream: ActivationStream, n_batches: int, dtype: str) -> dict[str, Any]:
    if dtype not in DTYPES:
        raise RequestError(f"dtype = {dtype!r}: give {' or '.join(map(repr, DTYPES))}")
    return {
        "hooks": list(stream.hooks),
        "batch_size": stream.batch_size,
        "buffer_batches": stream.buffer_batches,
        "n_batches": n_batches,
        "seed": stream.seed,
        "precision": stream.precision,
        "dtype": dtype,
    }


def _shard(folder: Path, number: int) -> Path:
    return folder / f"activations-{number:05d}.safetensors"
