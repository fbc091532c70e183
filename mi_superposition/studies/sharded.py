"""One pass over a corpus in shards: parts of it, read here or by Ray's workers, whose accumulators are merged in the shards' order.

The result is the same bytes with either engine and however often the work was stopped or killed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mi_superposition.corpora import Content
from mi_superposition.engine import results_of
from mi_superposition.errors import WorkError
from mi_superposition.files import check_held, read_state, remove, write_state
from mi_superposition.parts import WorkersPart
from mi_superposition.progress import Progress
from mi_superposition.runs import CHECKPOINT
from mi_superposition.training import Stopped

SHARDS = "shards"
# Between two checkpoints, in seconds: writing one takes a fraction of a second to a few.
CHECKPOINT_EVERY = 30.0


class Accumulator(Protocol):
    """What reading documents leaves: ``merge`` of two equals one pass over both."""

    @property
    def n_documents(self) -> int:
        """Documents seen."""
        ...

    @property
    def n_tokens(self) -> int:
        """Tokens that counted."""
        ...

    def merge(self, other: Any) -> None:
        """Add what another one has seen, whose documents must all be others."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything seen."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to a state of ``state()``."""
        ...


class Shard(Protocol):
    """Some documents of the corpus, with all that a worker needs to read them; ``out`` is where it leaves the result."""

    @property
    def number(self) -> int:
        """Its place among the shards."""
        ...

    @property
    def documents(self) -> list[Content]:
        """What it holds."""
        ...

    @property
    def out(self) -> Path:
        """File of a worker's result."""
        ...


_Accumulator = TypeVar("_Accumulator", bound=Accumulator)
_Shard = TypeVar("_Shard", bound=Shard)


def documents_in_shards(
    documents: Iterable[Content], size: int, first: int, folder: Path
) -> Iterator[tuple[int, int, list[Content], Path]]:
    """From shard ``first`` on: its number, that of its first document, its documents, and the file of its result in a run folder."""
    remaining = iter(documents)
    # Absolute: a worker stands in another folder.
    results = folder.resolve() / SHARDS
    for number in itertools.count():
        some = list(itertools.islice(remaining, size))
        if not some:
            return
        if number >= first:
            yield number, number * size, some, results / f"{number:06d}.safetensors"


@dataclass
class ShardedWork(Generic[_Accumulator, _Shard]):
    """The shards of one pass: which are done, and what they gave.

    ``shards(first)`` gives those from number ``first`` on. ``here`` reads one in this process, calling back after each batch; ``away`` is
    what a worker does: it leaves the state of its accumulator in ``shard.out`` and says how many documents that was, and where it is.

    The progress counts documents, or with ``in_tokens`` tokens, piece by piece as they are read here; how many ``documents`` there will
    be says how many tokens, as far as those read are like the others.
    """

    folder: Path
    progress: Progress
    workers: WorkersPart
    cpus: int
    gpus: int
    empty: Callable[[], _Accumulator]
    shards: Callable[[int], Iterator[_Shard]]
    here: Callable[[_Shard, Callable[[int], None]], _Accumulator]
    away: Callable[[_Shard], tuple[int, Path]]
    in_tokens: bool = False
    documents: int | None = None
    done: int = 0

    def merged(self) -> _Accumulator:
        """All shards, from the first that is not done; those before are in the checkpoint.

        Raises ``Stopped`` after it was asked to stop and had saved the shards done, and ``WorkError`` when a worker is lost.
        """
        accumulator: _Accumulator | None = None
        checkpoint = self.folder / CHECKPOINT
        if checkpoint.exists():
            saved = read_state(checkpoint)
            accumulator = self.empty()
            accumulator.load_state(saved["scan"])
            self.done = saved["shards"]
            self.progress.advance(accumulator.n_tokens if self.in_tokens else accumulator.n_documents, "resuming")
            self._expect(accumulator)
        saved_at = time.monotonic()

        def told(tokens: int) -> None:
            if self.in_tokens:
                self.progress.advance(tokens)
            self._stop_if_asked(accumulator)

        def read_here(shard: _Shard) -> tuple[int, _Accumulator]:
            return len(shard.documents), self.here(shard, told)

        work: Callable[[_Shard], tuple[int, _Accumulator | Path]] = (
            read_here if self.workers.engine == "local" else self.away
        )
        results = results_of(
            work,
            self.shards(self.done),
            engine=self.workers.engine,
            address=self.workers.ray_address,
            cpus=self.cpus,
            gpus=self.gpus,
        )
        for n_documents, part in results:
            read = self._read(part) if isinstance(part, Path) else part
            # What was read here was told as it was read.
            more = 0 if read is part else read.n_tokens
            if accumulator is None and read is part:
                # Not merged into an empty one: of a large model each takes gigabytes. What a worker left stays a file, so it is.
                accumulator = read
            else:
                accumulator = self.empty() if accumulator is None else accumulator
                accumulator.merge(read)
            del read, part
            self.done += 1
            if self.in_tokens:
                self.progress.advance(more, f"{accumulator.n_documents:,} documents")
                self._expect(accumulator)
            else:
                self.progress.advance(n_documents, f"{accumulator.n_tokens:,} tokens")
            if time.monotonic() - saved_at > CHECKPOINT_EVERY:
                self._save(accumulator)
                saved_at = time.monotonic()
            self._stop_if_asked(accumulator)
        return self.empty() if accumulator is None else accumulator

    def _expect(self, accumulator: _Accumulator) -> None:
        if self.in_tokens and self.documents is not None and accumulator.n_documents:
            self.progress.expect(round(accumulator.n_tokens / accumulator.n_documents * self.documents))

    def _save(self, accumulator: _Accumulator) -> None:
        write_state(self.folder / CHECKPOINT, {"shards": self.done, "scan": accumulator.state()})
        for path in (self.folder / SHARDS).glob("*.safetensors"):
            if int(path.stem) < self.done:
                remove(path)

    def _stop_if_asked(self, accumulator: _Accumulator | None) -> None:
        if self.progress.should_stop():
            if accumulator is not None:
                self._save(accumulator)
            raise Stopped(self.done, "shard")

    def _read(self, path: Path) -> _Accumulator:
        check_held(path)
        if not path.exists():
            raise WorkError(f"{str(path)!r} is not there: all workers must share the file system of the run folder")
        part = self.empty()
        part.load_state(read_state(path))
        return part


def tidy(folder: Path) -> None:
    """Remove what is kept only to resume, once the result is written; a killed process leaves that to the next one."""
    remove(folder / CHECKPOINT)
    remove(folder / SHARDS)
