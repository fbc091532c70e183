"""A scan in shards: parts of the corpus, scanned here or by Ray's workers and merged in their order.

The result is the same bytes with either engine and however often the work was stopped or killed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from mi_superposition.corpora import Content, Corpus, TokenBatches, model_batches
from mi_superposition.engine import name_for_workers
from mi_superposition.errors import WorkError
from mi_superposition.files import content_hash, read_tensors, write_state, write_tensors
from mi_superposition.models import BUNDLED_MODELS, weights_of
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import NeuronScan
from mi_superposition.neurons.config import ScanConfig
from mi_superposition.neurons.scan import (
    Calibration,
    ScanAccumulator,
    UnitReader,
    calibrate,
    documents_needed,
    read_batches,
    read_documents,
    scan_batches,
    scan_result,
)
from mi_superposition.neurons.scan.scan import CALIBRATION_ROWS, BatchRead, vocabulary_of
from mi_superposition.progress import Progress
from mi_superposition.sae.files import BUNDLED_SAES
from mi_superposition.studies.neurons.readers import State, joined_directions, model_of, reader_of
from mi_superposition.studies.neurons.stored import SCAN, read_scan, write_scan
from mi_superposition.studies.sharded import ShardedWork, documents_in_shards, tidy
from mi_superposition.training import Stopped, fixed_arithmetic

CALIBRATION = "calibration.safetensors"


@dataclass(frozen=True)
class Shard:
    """Some documents of the corpus, with everything a worker needs to scan them; ``out`` is where it leaves the result."""

    number: int
    first_document: int
    documents: list[Content]
    config: ScanConfig
    state: State
    calibrations: dict[str, Calibration]
    model_sha256: str
    directions: Path | None
    out: Path


@dataclass(frozen=True)
class ScanSource:
    """What a scan reads: how ``reader`` reads the units of a model (in the state given), and the texts as ``model`` reads them,
    whose weights have the hash ``model_sha256``. ``directions``: the file of random directions, where these are read.
    """

    model: HookedModel
    model_sha256: str
    corpus: Corpus
    reader: UnitReader
    state: State = "trained"
    directions: Path | None = None


def scan_in_shards(
    folder: Path, source: ScanSource, config: ScanConfig, progress: Progress, *, stage: str = "scan"
) -> NeuronScan:
    """Scan a corpus into ``folder``, or resume; a scan that is there is read.

    ``config`` has a number of threads, and the device of the model. Raises ``Stopped`` after it was asked to stop and had saved the
    shards done, and ``WorkError`` when a worker is lost, or has another model.
    """
    if (folder / SCAN).exists():
        tidy(folder)
        return read_scan(folder, config.kept)
    calibrations, begun = _calibrations(folder, source, config, progress, stage)
    accumulator = _work(folder, source, _for_workers(config), calibrations, begun, progress).merged()
    progress.advance(0, "reading examples")
    documents = _documents_of(source, config, documents_needed(accumulator))
    scan = scan_result(accumulator, documents, vocabulary_of(source.model))
    write_scan(folder, scan)
    tidy(folder)
    return scan


def batches_of(
    model: HookedModel,
    documents: Iterable[Content],
    config: ScanConfig,
    first_document: int = 0,
    *,
    by_length: bool = True,
) -> TokenBatches:
    """Documents as the scan reads them."""
    return model_batches(
        model,
        documents,
        config.forward.forward_batch,
        context=config.forward.context,
        by_length=by_length,
        first_document=first_document,
    )


def scan_shard(shard: Shard) -> tuple[int, Path]:
    """What a worker does: scan a shard and write the result to ``shard.out``; how many documents, and where.

    A result that is there already, of a run that was stopped, is left as it is. Raises ``WorkError`` when the worker's
    model is another one than the driver's.
    """
    if not shard.out.exists():
        config = shard.config
        model, reader, sha256 = _worker_reader(config, shard.state, shard.directions)
        if sha256 != shard.model_sha256:
            raise WorkError(
                f"{config.model.name!r}: the model on a worker differs from the one the scan was started with"
            )
        with fixed_arithmetic(config.threads.number):
            write_state(shard.out, _scan_here(model, reader, shard, lambda tokens: None).state())
    return len(shard.documents), shard.out


@functools.lru_cache(maxsize=1)
def _worker_reader(config: ScanConfig, state: State, directions: Path | None) -> tuple[HookedModel, UnitReader, str]:
    """A worker loads its model once for all its shards; with the hash of its weights."""
    model = model_of(config)
    read = None if directions is None else joined_directions(directions)
    return model, reader_of(model, config, state, read), content_hash(weights_of(model))


def _for_workers(config: ScanConfig) -> ScanConfig:
    """The same request for workers in other folders, and perhaps on machines with other devices of the kind."""
    return config.replace(
        model=name_for_workers(config.model.name, BUNDLED_MODELS),
        sae=None if config.sae is None else name_for_workers(config.sae, BUNDLED_SAES),
        device=config.device.device.split(":")[0],
    )


def _calibrations(
    folder: Path, source: ScanSource, config: ScanConfig, progress: Progress, stage: str
) -> tuple[dict[str, Calibration], Iterator[BatchRead] | None]:
    """Ranges from the first documents, written down: whoever resumes uses the same.

    Also what the model made of these documents, so that the first shard need not run it on them again. ``None`` where the ranges were
    there already, where Ray's workers read the shards, and where a shard is smaller than the sample.
    """
    path = folder / CALIBRATION
    begun = None

    def begin() -> None:
        progress.begin("token")
        progress.stage(stage)

    if path.exists():
        begin()
    else:

        def told(tokens: int) -> None:
            progress.advance(tokens)
            if progress.should_stop():
                raise Stopped(0, "shard")

        n = min(CALIBRATION_ROWS, config.text.documents or CALIBRATION_ROWS)
        first = list(itertools.islice(source.corpus, n))

        def from_the_first() -> Iterator[BatchRead]:
            begin()
            return read_batches(source.reader, batches_of(source.model, first, config), on_tokens=told)

        measured, begun = calibrate(from_the_first)
        write_tensors(
            path, {f"{hook}/{name}": value for hook, c in measured.items() for name, value in vars(c).items()}
        )
        if config.workers.engine != "local" or config.shard < n:
            begun = None
            # These tokens are read once more.
            begin()
    tensors, _ = read_tensors(path)
    names = [field.name for field in fields(Calibration)]
    return {
        hook: Calibration(**{name: tensors[f"{hook}/{name}"] for name in names}) for hook in source.reader.names
    }, begun


def _documents_of(source: ScanSource, config: ScanConfig, needed: set[int]) -> dict[int, list[int]]:
    """The tokens of the documents shown, read a second time."""
    numbers = sorted(needed)
    texts = (text for number, text in enumerate(source.corpus) if number in needed)
    batches = batches_of(source.model, itertools.islice(texts, len(numbers)), config, by_length=False)
    documents = read_documents(batches, set(range(len(numbers))))
    return {numbers[index]: tokens for index, tokens in documents.items()}


def _scan_here(
    model: HookedModel,
    reader: UnitReader,
    shard: Shard,
    on_tokens: Callable[[int], None],
    begun: Iterator[BatchRead] | None = None,
) -> ScanAccumulator:
    """``begun``: what was read of the first documents of the first shard already."""
    config, documents = shard.config, shard.documents
    # The same batches whoever reads them, hence the same bytes.
    n = 0 if shard.first_document else CALIBRATION_ROWS
    if begun is None:
        begun = read_batches(reader, batches_of(model, documents[:n], config), on_tokens=on_tokens)
    rest = batches_of(model, documents[n:], config, shard.first_document + n)
    read = itertools.chain(begun, read_batches(reader, rest, on_tokens=on_tokens))
    return scan_batches(read, shard.calibrations, config.kept)


def _work(
    folder: Path,
    source: ScanSource,
    config: ScanConfig,
    calibrations: dict[str, Calibration],
    begun: Iterator[BatchRead] | None,
    progress: Progress,
) -> ShardedWork[ScanAccumulator, Shard]:
    def here(shard: Shard, on_tokens: Callable[[int], None]) -> ScanAccumulator:
        return _scan_here(source.model, source.reader, shard, on_tokens, None if shard.number else begun)

    def shards(first: int) -> Iterator[Shard]:
        documents = itertools.islice(iter(source.corpus), config.text.documents)
        for number, first_document, some, out in documents_in_shards(documents, config.shard, first, folder):
            yield Shard(
                number=number,
                first_document=first_document,
                documents=some,
                config=config,
                state=source.state,
                calibrations=calibrations,
                model_sha256=source.model_sha256,
                directions=source.directions,
                out=out,
            )

    return ShardedWork(
        folder=folder,
        progress=progress,
        workers=config.workers,
        cpus=config.threads.number,
        gpus=int(config.device.device == "cuda"),
        empty=lambda: ScanAccumulator(calibrations, config.kept),
        shards=shards,
        here=here,
        away=scan_shard,
        in_tokens=True,
        documents=config.text.documents,
    )
