"""The scan of a corpus as a run folder: in shards, stopped and gone on with, on one machine or many."""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from mi_superposition.corpora import Corpus, TokenBatches, load_corpus, model_batches
from mi_superposition.corpora.tokens import tokenizer_hash
from mi_superposition.engine import Engine, check_engine, name_for_workers, results_of
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models import BUNDLED_MODELS, FEATURES, Encode, load_model, weights_of
from mi_superposition.neurons.scan import (
    Calibration,
    NeuronScan,
    ScanAccumulator,
    ScanSettings,
    UnitReader,
    calibrate,
    documents_needed,
    read_documents,
    scan_batches,
    scan_result,
)
from mi_superposition.neurons.scan.scan import CALIBRATION_ROWS
from mi_superposition.runs import (
    Run,
    content_hash,
    open_run,
    read_manifest,
    read_state,
    read_tensors,
    write_state,
    write_tensors,
)
from mi_superposition.sae import check_sae, load_sae
from mi_superposition.sae.files import BUNDLED_SAES, one_sae_folder, sae_identity
from mi_superposition.training import Stopped, fixed_arithmetic

COMMAND = "neurons scan"
SCAN, CALIBRATION, CHECKPOINT, SHARDS = (
    "scan.safetensors",
    "calibration.safetensors",
    "checkpoint.safetensors",
    "shards",
)
# Between two checkpoints, in seconds: writing one takes a fraction of a second to a few.
_CHECKPOINT_EVERY = 30.0


@dataclass(frozen=True)
class ScanRequest:
    """What is scanned and how: all that the result depends on.

    ``hooks``: those whose units are scanned. With ``sae``, an autoencoder by its name, its features are scanned too. With
    neither, all MLP neurons.
    """

    model: str = "stories"
    sae: str | None = None
    corpus: str = "stories"
    split: str = "train"
    column: str = "text"
    hooks: tuple[str, ...] = ()
    documents: int | None = None
    shard: int = 500
    batch: int = 32
    context: int | None = None
    precision: str = "float32"
    threads: int = 1
    device: str = "cpu"
    settings: ScanSettings = field(default_factory=ScanSettings)

    def __post_init__(self) -> None:
        for name, least in (("shard", 1), ("batch", 1), ("threads", 1), ("documents", 1), ("context", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RequestError(f"{name} = {value}: must be at least {least}")


@dataclass(frozen=True)
class Shard:
    """Some documents of the corpus, with everything a worker needs to scan them; ``out`` is where it leaves the result."""

    number: int
    first_document: int
    documents: list[str]
    request: ScanRequest
    calibrations: dict[str, Calibration]
    model_sha256: str
    out: Path


def write_scan_run(
    out: Path,
    request: ScanRequest,
    *,
    engine: Engine = "local",
    ray_address: str | None = None,
    on_documents: Callable[[int, str], None] = lambda documents, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Scan a corpus into a run folder, or go on with it; false when it was finished already.

    The corpus is cut into shards, which are merged in their order, so the result is the same bytes with either engine,
    however often it was stopped. ``on_documents`` is told how many documents were done just now.

    Raises ``RequestError`` for a request that cannot be met or a folder of another one, and ``Stopped`` after it was
    asked to stop and had saved the shards done.
    """
    check_engine(engine)
    model = load_model(request.model, device=request.device)
    # Workers of a cluster stand in other folders, and perhaps on machines with other devices.
    sent = replace(
        request,
        model=name_for_workers(request.model, BUNDLED_MODELS),
        sae=None if request.sae is None else name_for_workers(request.sae, BUNDLED_SAES),
        device=torch.device(model.W_E.device).type,
    )
    reader = _reader(model, request.hooks, request.sae, request.precision)
    corpus = load_corpus(request.corpus, split=request.split, column=request.column)
    # Refused before there is a run folder.
    if next(iter(_batches(model, list(itertools.islice(corpus, 1)), request, 0)), None) is None:
        raise RequestError(f"the corpus {request.corpus!r} gives no rows: there is nothing to scan")
    inputs = {
        "model": {"name": request.model, "sha256": content_hash(weights_of(model))},
        "corpus": corpus.identity(),
        "tokenizer": {"sha256": tokenizer_hash(model.tokenizer)},
    }
    if request.sae is not None:
        inputs["sae"] = {"name": request.sae, "sha256": sae_identity(one_sae_folder(request.sae))}
    config = asdict(request) | {"device": sent.device}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            # A process killed between the last word of a run and its tidying up leaves that to the next one.
            _tidy(run)
            return False
        on_documents(0, "first sample")
        with fixed_arithmetic(request.threads):
            calibrations = _calibrations(run, reader, corpus, request)
            accumulator = _merged_shards(
                run, reader, corpus, sent, calibrations, engine, ray_address, on_documents, should_stop
            )
            on_documents(0, "examples")
            _finish(run, accumulator, _documents_of(corpus, model, request, documents_needed(accumulator)))
    return True


def load_scan(run: Path) -> NeuronScan:
    """The scan in a finished run folder. Raises ``RequestError`` where there is none."""
    manifest = read_manifest(run, COMMAND)
    tensors, metadata = read_tensors(run / SCAN)
    counts = json.loads(metadata["counts"])
    settings = ScanSettings(**manifest["config"]["settings"])
    return NeuronScan.from_tensors(
        tensors,
        hooks=counts["hooks"],
        n_documents=counts["documents"],
        n_tokens=counts["tokens"],
        settings=settings,
    )


def scanned_saes(name: str | None, model: Any) -> dict[str, Any]:
    """An autoencoder whose features are scanned, by the name the scan has for them. Raises as ``load_sae`` and ``check_sae``."""
    if name is None:
        return {}
    sae = load_sae(name, device=model.W_E.device)
    return {f"{check_sae(sae, model)}{FEATURES}": sae}


def _reader(model: Any, hooks: tuple[str, ...], sae_name: str | None, precision: str) -> UnitReader:
    encoders: dict[str, Encode | None] = dict.fromkeys(hooks)
    for features, sae in scanned_saes(sae_name, model).items():
        hook = features.removesuffix(FEATURES)
        if hook in encoders:
            raise RequestError(
                f"hook {hook!r}: its features are scanned, which cannot be done with its dimensions in one go"
            )
        encoders[hook] = sae.encode
    return UnitReader.of(model, encoders or None, precision)


def _batches(
    model: Any, documents: Iterable[str], request: ScanRequest, first_document: int, *, by_length: bool = True
) -> TokenBatches:
    return model_batches(
        model, documents, request.batch, context=request.context, by_length=by_length, first_document=first_document
    )


def _calibrations(run: Run, reader: UnitReader, corpus: Corpus, request: ScanRequest) -> dict[str, Calibration]:
    """Ranges from the first documents, written down: whoever goes on uses the same."""
    path = run.path / CALIBRATION
    if not path.exists():
        first = list(itertools.islice(corpus, min(CALIBRATION_ROWS, request.documents or CALIBRATION_ROWS)))
        found = calibrate(reader, _batches(reader.model, first, request, 0))
        write_tensors(path, {f"{hook}/{name}": value for hook, c in found.items() for name, value in vars(c).items()})
    tensors, _ = read_tensors(path)
    names = [field.name for field in fields(Calibration)]
    return {hook: Calibration(**{name: tensors[f"{hook}/{name}"] for name in names}) for hook in reader.names}


def _merged_shards(
    run: Run,
    reader: UnitReader,
    corpus: Corpus,
    request: ScanRequest,
    calibrations: dict[str, Calibration],
    engine: Engine,
    ray_address: str | None,
    on_documents: Callable[[int, str], None],
    should_stop: Callable[[], bool],
) -> ScanAccumulator:
    checkpoint, folder = run.path / CHECKPOINT, run.path.resolve() / SHARDS
    accumulator = _empty(calibrations, request)
    done = 0
    if checkpoint.exists():
        saved = read_state(checkpoint)
        accumulator.load_state(saved["scan"])
        done = saved["shards"]
        on_documents(accumulator.n_documents, "going on")

    def save() -> None:
        write_state(checkpoint, {"shards": done, "scan": accumulator.state()})
        for path in (run.path / SHARDS).glob("*.safetensors"):
            if int(path.stem) < done:
                path.unlink()

    def stop_if_asked() -> None:
        if should_stop():
            save()
            raise Stopped(done, "shard")

    def shards() -> Iterator[Shard]:
        for shard in _shards(corpus, request, calibrations, run.manifest["inputs"]["model"]["sha256"], folder):
            if shard.number >= done_before:
                yield shard

    done_before, saved_at = done, time.monotonic()

    def scan_here(shard: Shard) -> tuple[int, ScanAccumulator]:
        return len(shard.documents), _scan_here(reader, shard, lambda tokens: stop_if_asked())

    work: Callable[[Shard], tuple[int, ScanAccumulator | Path]] = scan_here if engine == "local" else scan_shard
    gpus = int(request.device == "cuda")
    for n, found in results_of(work, shards(), engine=engine, address=ray_address, cpus=request.threads, gpus=gpus):
        part = _read_part(found, calibrations, request) if isinstance(found, Path) else found
        accumulator.merge(part)
        done += 1
        on_documents(n, f"{accumulator.n_tokens:,} tokens")
        if time.monotonic() - saved_at > _CHECKPOINT_EVERY:
            save()
            saved_at = time.monotonic()
        stop_if_asked()
    return accumulator


def _shards(
    corpus: Corpus, request: ScanRequest, calibrations: dict[str, Calibration], model_sha256: str, folder: Path
) -> Iterator[Shard]:
    documents = itertools.islice(iter(corpus), request.documents)
    for number in itertools.count():
        texts = list(itertools.islice(documents, request.shard))
        if not texts:
            return
        out = folder / f"{number:06d}.safetensors"
        yield Shard(number, number * request.shard, texts, request, calibrations, model_sha256, out)


def _empty(calibrations: dict[str, Calibration], request: ScanRequest) -> ScanAccumulator:
    return ScanAccumulator(calibrations, request.settings)


def _scan_here(reader: UnitReader, shard: Shard, on_tokens: Callable[[int], None]) -> ScanAccumulator:
    batches = _batches(reader.model, shard.documents, shard.request, shard.first_document)
    return scan_batches(reader, batches, shard.calibrations, shard.request.settings, on_tokens=on_tokens)


def scan_shard(shard: Shard) -> tuple[int, Path]:
    """What a worker does: scan a shard and leave the result at its place; how many documents, and where.

    A result that is there already, of a run that was stopped, is left as it is. Raises ``WorkError`` when the worker's
    model is another one than the driver's.
    """
    if not shard.out.exists():
        request = shard.request
        reader, sha256 = _worker_reader(request.model, request.device, request.hooks, request.sae, request.precision)
        if sha256 != shard.model_sha256:
            raise WorkError(f"{request.model!r} is another model on a worker than where the scan was started")
        with fixed_arithmetic(shard.request.threads):
            write_state(shard.out, _scan_here(reader, shard, lambda tokens: None).state())
    return len(shard.documents), shard.out


@functools.lru_cache(maxsize=1)
def _worker_reader(
    model: str, device: str, hooks: tuple[str, ...], sae: str | None, precision: str
) -> tuple[UnitReader, str]:
    """A worker loads its model once for all its shards; with the hash of its weights."""
    loaded = load_model(model, device=device)
    return _reader(loaded, hooks, sae, precision), content_hash(weights_of(loaded))


def _read_part(path: Path, calibrations: dict[str, Calibration], request: ScanRequest) -> ScanAccumulator:
    if not path.exists():
        raise WorkError(f"{str(path)!r} is not there: all workers must share the file system of the run folder")
    part = _empty(calibrations, request)
    part.load_state(read_state(path))
    return part


def _documents_of(corpus: Corpus, model: Any, request: ScanRequest, needed: set[int]) -> dict[int, list[int]]:
    """The tokens of the documents shown, read a second time."""
    numbers = sorted(needed)
    texts = (text for number, text in enumerate(corpus) if number in needed)
    batches = _batches(model, itertools.islice(texts, len(numbers)), request, 0, by_length=False)
    found = read_documents(batches, set(range(len(numbers))))
    return {numbers[place]: tokens for place, tokens in found.items()}


def _finish(run: Run, accumulator: ScanAccumulator, documents: dict[int, list[int]]) -> None:
    scan = scan_result(accumulator, documents)
    # One entry: safetensors writes several in no fixed order.
    counts = json.dumps({"documents": scan.n_documents, "tokens": scan.n_tokens, "hooks": list(scan.hooks)})
    write_tensors(run.path / SCAN, scan.tensors(), {"counts": counts})
    metrics: dict[str, float | int] = {
        "documents": scan.n_documents,
        "tokens": scan.n_tokens,
        "units": sum(found.n_units for found in scan.hooks.values()),
    }
    for hook, found in scan.hooks.items():
        metrics |= {
            f"{hook}/fraction_active_median": float(found.fraction_active.median()),
            f"{hook}/never_active": int((found.fraction_active == 0).sum()),
            f"{hook}/contexts_median": float(found.contexts.median()),
            f"{hook}/contexts_shuffled_median": float(found.contexts_shuffled.median()),
        }
    run.finish(metrics)
    _tidy(run)


def _tidy(run: Run) -> None:
    """Remove what was kept only to go on with."""
    (run.path / CHECKPOINT).unlink(missing_ok=True)
    for path in (run.path / SHARDS).glob("*.safetensors"):
        path.unlink()
    if (run.path / SHARDS).exists():
        (run.path / SHARDS).rmdir()
