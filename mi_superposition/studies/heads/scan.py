"""The scan of all attention heads over a corpus as a run folder: in shards, stopped and resumed, on one machine or many."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_superposition.corpora import Content, Corpus, TokenBatch, TokenBatches, check_readable, corpus_of, model_batches
from mi_superposition.corpora.tokens import tokenizer_identity
from mi_superposition.engine import check_engine, name_for_workers
from mi_superposition.errors import WorkError
from mi_superposition.files import content_hash, read_tensors, write_state, write_tensors
from mi_superposition.heads.scan import HeadAccumulator, HeadReader, HeadScan, RepeatedTokens, head_scan, scan_batches
from mi_superposition.heads.scan.accumulator import ROWS_SOUGHT, HeadCalibration, calibrate_heads
from mi_superposition.heads.scan.config import HeadScanConfig
from mi_superposition.models import BUNDLED_MODELS, device_of, load_model, model_record, untrained_copy, weights_of
from mi_superposition.models.settings import check_heads
from mi_superposition.neurons.scan import documents_needed, read_documents
from mi_superposition.progress import SILENT, Progress
from mi_superposition.room import check_memory
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.sharded import ShardedWork, documents_in_shards, tidy
from mi_superposition.training import fixed_arithmetic

COMMAND = "heads scan"
RESULT = "heads.safetensors"
_CALIBRATION = "calibration.safetensors"


@dataclass(frozen=True)
class _Source:
    """What a scan reads: the heads of a model and of an untrained one, and the corpus."""

    reader: HeadReader
    untrained: HeadReader
    model_sha256: str
    corpus: Corpus


@dataclass(frozen=True)
class HeadShard:
    """Some documents of the corpus, with everything a worker needs to scan them; ``out`` is where it leaves the result."""

    number: int
    first_document: int
    documents: list[Content]
    config: HeadScanConfig
    calibration: HeadCalibration
    model_sha256: str
    out: Path


def measure(config: HeadScanConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Scan the heads of a model and of an untrained one over a corpus into a run folder, or resume.

    Raises ``RequestError`` for a request that cannot be met or a folder of another one, and ``training.Stopped`` after it was asked
    to stop and had saved the shards done.
    """
    config, source = _read_request(config)
    model = source.reader.model
    repeated = RepeatedTokens.of(model, config.kept, config.forward.context)
    with fixed_arithmetic(config.threads.number):
        # What is too short for a scan is refused before there is a folder.
        calibration = None if (out / _CALIBRATION).exists() else _calibration(config, source)
    inputs: dict[str, Any] = {
        "model": model_record(config.model.name, model),
        "corpus": source.corpus.identity(),
        "tokenizer": tokenizer_identity(model.tokenizer),
    }
    with open_run(out, COMMAND, config, inputs) as run, fixed_arithmetic(config.threads.number):
        if run.finished:
            return Outcome(out, finished_already=True)
        if not (out / RESULT).exists():
            progress.begin("token")
            if calibration is not None:
                write_tensors(out / _CALIBRATION, calibration.tensors())
            calibration = HeadCalibration.from_tensors(read_tensors(out / _CALIBRATION)[0])
            accumulator = _work(out, source, _for_workers(config), calibration, progress).merged()
            progress.advance(0, "reading examples")
            write_record(out / RESULT, _result(config, source, accumulator, repeated))
        tidy(out)
        run.finish({**load_result(out).metrics(), **source.corpus.losses(config.text.documents)})
    return Outcome(out, finished_already=False)


def load(folder: Path) -> HeadScan:
    """The scan in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return load_result(folder)


def load_result(folder: Path) -> HeadScan:
    """The scan that a run folder has, finished or not. Raises ``WorkError`` for a file that is damaged or missing."""
    return read_record(folder / RESULT, HeadScan)


def scan_head_shard(shard: HeadShard) -> tuple[int, Path]:
    """What a worker does: scan a shard and write the result to ``shard.out``; how many documents, and where.

    A result that is there already, of a run that was stopped, is left as it is. Raises ``WorkError`` when the worker's
    model is another one than the driver's.
    """
    if not shard.out.exists():
        reader, untrained, sha256 = _worker_readers(shard.config)
        if sha256 != shard.model_sha256:
            name = shard.config.model.name
            raise WorkError(f"{name!r}: the model on a worker differs from the one the scan was started with")
        with fixed_arithmetic(shard.config.threads.number):
            write_state(shard.out, _scan_here(reader, untrained, shard, lambda tokens: None).state())
    return len(shard.documents), shard.out


def _read_request(config: HeadScanConfig) -> tuple[HeadScanConfig, _Source]:
    """The request with the device and the number of threads it means, and what it reads; raises ``RequestError`` for what cannot be
    scanned, before there is a run folder.
    """
    check_engine(config.workers.engine)
    check_heads(config.model.name, context=config.forward.context)
    threads = config.threads.threads
    if threads is None:
        threads = 1 if config.workers.engine == "ray" else torch.get_num_threads()
    config = config.replace(device=device_of(config.device.device), threads=threads)
    reader, untrained, sha256 = _readers(config)
    model = reader.model
    n_heads = len(reader.layers) * model.cfg.n_heads
    pairs = n_heads * config.kept.pairs
    sums = 8 * n_heads * (2 * model.cfg.d_vocab + 2 * pairs + 2 * n_heads)
    # Random tokens as they are drawn, and all of them twice.
    repeated = 4 * 8 * config.kept.repeated_sequences * min(config.kept.repeated_length, model.cfg.n_ctx)
    # What a shard gives, what all before it gave, and both merged.
    check_memory(
        3 * sums + 4 * config.kept.of_units.n_bytes(n_heads) + repeated,
        f"a scan of {n_heads:,} heads (less with smaller pairs, top_k, per_tenth, repeated_sequences)",
    )
    corpus = corpus_of(config.text)
    check_readable(model, corpus, config.text.corpus, context=config.forward.context)
    return config, _Source(reader, untrained, sha256, corpus)


def _readers(config: HeadScanConfig) -> tuple[HeadReader, HeadReader, str]:
    """The heads of the model and of its untrained copy, and the hash of the model's weights."""
    model = load_model(config.model.name, device=config.device.device)
    untrained = untrained_copy(model, config.kept.random.seed)
    precision = config.forward.precision
    return HeadReader(model, precision), HeadReader(untrained, precision), content_hash(weights_of(model))


@functools.lru_cache(maxsize=1)
def _worker_readers(config: HeadScanConfig) -> tuple[HeadReader, HeadReader, str]:
    """A worker loads its models once for all its shards."""
    return _readers(config)


def _for_workers(config: HeadScanConfig) -> HeadScanConfig:
    """The same request for workers in other folders, and perhaps on machines with other devices of the kind."""
    return config.replace(
        model=name_for_workers(config.model.name, BUNDLED_MODELS), device=config.device.device.split(":")[0]
    )


def _batches(
    reader: HeadReader,
    documents: list[Content],
    config: HeadScanConfig,
    first_document: int = 0,
    *,
    by_length: bool = True,
) -> TokenBatches:
    return model_batches(
        reader.model,
        documents,
        config.forward.forward_batch,
        context=config.forward.context,
        by_length=by_length,
        first_document=first_document,
    )


def _calibration(config: HeadScanConfig, source: _Source) -> HeadCalibration:
    """Ranges and pairs from the first documents: whoever resumes uses the same."""
    n = min(ROWS_SOUGHT, config.text.documents or ROWS_SOUGHT)
    first = list(itertools.islice(source.corpus, n))
    return calibrate_heads(source.reader, _batches(source.reader, first, config, by_length=False), config.kept)


def _scan_here(
    reader: HeadReader, untrained: HeadReader, shard: HeadShard, on_tokens: Callable[[int], None]
) -> HeadAccumulator:
    batches = _batches(reader, shard.documents, shard.config, shard.first_document)
    return scan_batches(reader, untrained, batches, shard.calibration, shard.config.kept, on_tokens=on_tokens)


def _work(
    folder: Path, source: _Source, config: HeadScanConfig, calibration: HeadCalibration, progress: Progress
) -> ShardedWork[HeadAccumulator, HeadShard]:
    def shards(first: int) -> Iterator[HeadShard]:
        documents = itertools.islice(iter(source.corpus), config.text.documents)
        for number, first_document, some, out in documents_in_shards(documents, config.shard, first, folder):
            yield HeadShard(number, first_document, some, config, calibration, source.model_sha256, out)

    return ShardedWork(
        folder=folder,
        progress=progress,
        workers=config.workers,
        cpus=config.threads.number,
        gpus=int(config.device.device == "cuda"),
        empty=lambda: HeadAccumulator(calibration, config.kept, source.reader.model.cfg.n_heads),
        shards=shards,
        here=lambda shard, on_tokens: _scan_here(source.reader, source.untrained, shard, on_tokens),
        away=scan_head_shard,
        in_tokens=True,
        documents=config.text.documents,
    )


def _result(
    config: HeadScanConfig, source: _Source, accumulator: HeadAccumulator, repeated: RepeatedTokens
) -> HeadScan:
    """With the documents of the examples, which are read a second time."""
    numbers = sorted(documents_needed(accumulator.examples))
    wanted = set(numbers)
    texts = [text for number, text in _numbered(source.corpus, numbers) if number in wanted]
    batches = _batches(source.reader, texts, config, by_length=False)
    found = read_documents(batches, set(range(len(numbers))))
    documents = {numbers[index]: tokens for index, tokens in found.items()}
    return head_scan(accumulator, source.reader, source.untrained, repeated, documents, _renumbered(batches, numbers))


def _numbered(corpus: Corpus, numbers: list[int]) -> Iterator[tuple[int, Content]]:
    """The documents of a corpus up to the last of these, with their numbers."""
    return itertools.islice(enumerate(corpus), numbers[-1] + 1 if numbers else 0)


def _renumbered(batches: TokenBatches, numbers: list[int]) -> Iterator[TokenBatch]:
    """Batches of some documents of a corpus, with the numbers that these have there."""
    known = torch.tensor([*numbers, -1])
    for batch in batches:
        content = {numbers[number]: key for number, key in batch.content.items()}
        # -1, where no document is, stands for the last of them.
        yield TokenBatch(batch.tokens, batch.mask, known[batch.document], batch.place, content)
