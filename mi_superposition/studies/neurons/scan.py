"""The scan of a corpus as a run folder: in shards, stopped and resumed, on one machine or many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from mi_superposition.corpora import check_readable, corpus_of
from mi_superposition.corpora.tokens import tokenizer_identity
from mi_superposition.engine import check_engine
from mi_superposition.files import content_hash
from mi_superposition.models import device_of, model_record, weights_of
from mi_superposition.neurons import NeuronScan
from mi_superposition.neurons.config import ScanConfig
from mi_superposition.progress import SILENT, Progress
from mi_superposition.room import check_memory
from mi_superposition.runs import Outcome, Run, open_run, read_config
from mi_superposition.sae.files import one_sae_folder, sae_identity
from mi_superposition.studies.neurons.readers import model_of, reader_of
from mi_superposition.studies.neurons.shards import ScanSource, scan_in_shards
from mi_superposition.studies.neurons.stored import read_scan
from mi_superposition.training import fixed_arithmetic

COMMAND = "neurons scan"
_Config = TypeVar("_Config", bound=ScanConfig)
# Peak of memory over what a scan keeps, beside the model: 15.4 over 2.9 GiB for SmolLM2-135M and 300 documents in shards of 100, 7.5 for
# 60 documents in one shard.
_COPIES = 5.5


def measure(config: ScanConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Scan a corpus into a run folder, or resume.

    Raises ``RequestError`` for a request that cannot be met or a folder of another one, and ``training.Stopped`` after it was asked
    to stop and had saved the shards done.
    """
    config, source = read_request(config)
    with opened(out, COMMAND, config, source) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        scan = scan_in_shards(out, source, config, progress)
        run.finish(scan_metrics(scan) | source.corpus.losses(config.text.documents))
    return Outcome(out, finished_already=False)


def load(folder: Path) -> NeuronScan:
    """The scan in a finished run folder. Raises ``RequestError`` where there is none."""
    return read_scan(folder, read_config(folder, ScanConfig, COMMAND).kept)


def scan_metrics(scan: NeuronScan) -> dict[str, float | int]:
    """Numbers of a scan, flat: how much was read, and ``HOOK/NUMBER`` over the units of each hook."""
    metrics: dict[str, float | int] = {
        "documents": scan.n_documents,
        "tokens": scan.n_tokens,
        "units": scan.n_units,
    }
    for hook, units in scan.hooks.items():
        metrics |= {
            f"{hook}/fraction_active_median": float(units.fraction_active.median()),
            f"{hook}/never_active": int((units.fraction_active == 0).sum()),
            f"{hook}/contexts_median": float(units.contexts.median()),
            f"{hook}/contexts_shuffled_median": float(units.contexts_shuffled.median()),
        }
    return metrics


def read_request(config: _Config) -> tuple[_Config, ScanSource]:
    """The request with the device and the number of threads it means, and what it reads.

    Raises ``RequestError`` for what cannot be scanned, before there is a run folder.
    """
    check_engine(config.workers.engine)
    threads = config.threads.threads
    if threads is None:
        threads = 1 if config.workers.engine == "ray" else torch.get_num_threads()
    config = config.replace(device=device_of(config.device.device), threads=threads)
    model = model_of(config)
    reader = reader_of(model, config)
    widths = reader.widths()
    # What a shard gives, what all before it gave, and the checkpoint or the result that is made of them.
    needed = _COPIES * sum(config.kept.n_bytes(width) for width in widths.values())
    check_memory(
        needed,
        f"a scan of {sum(widths.values()):,} units (fewer with hook; less with correlation_share = 0, top_k, reach)",
    )
    corpus = corpus_of(config.text)
    check_readable(model, corpus, config.text.corpus, context=config.forward.context)
    return config, ScanSource(model, content_hash(weights_of(model)), corpus, reader)


@contextmanager
def opened(out: Path, command: str, config: ScanConfig, source: ScanSource) -> Iterator[Run]:
    """The run folder of a scan, with the arithmetic that its bytes depend on."""
    inputs: dict[str, Any] = {
        "model": model_record(config.model.name, source.model),
        "corpus": source.corpus.identity(),
        "tokenizer": tokenizer_identity(source.model.tokenizer),
    }
    if config.sae is not None:
        inputs["sae"] = {"name": config.sae, "sha256": sae_identity(one_sae_folder(config.sae))}
    with open_run(out, command, config, inputs) as run, fixed_arithmetic(config.threads.number):
        yield run
