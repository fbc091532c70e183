"""One streaming pass over a corpus: what every unit of a model responds to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError
from mi_superposition.neurons.scan.accumulator import Calibration, ScanAccumulator, ScanSettings
from mi_superposition.neurons.scan.reader import Encode, UnitReader
from mi_superposition.neurons.scan.result import NeuronScan, documents_needed, scan_result

# Rows from which the range of each unit is found.
CALIBRATION_ROWS = 64


def scan_neurons(
    model: Any,
    batches: Iterable[TokenBatch],
    *,
    hooks: Sequence[str] | Mapping[str, Encode | None] | None = None,
    top_k: int = 20,
    settings: ScanSettings | None = None,
    precision: str = "float32",
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> NeuronScan:
    """Scan a corpus: for each unit its best examples (``top_k``, one a document), its least, some of each tenth of its
    range, histogram, moments, top tokens and partners. One pass; memory does not grow with the corpus.

    ``batches`` come from ``token_batches`` (or are a list of its batches), so that they can be read again for the first
    sample and for the documents shown. Tokens that are masked (BOS, EOS, padding) never count. ``hooks``: names, or names
    with what encodes each activation into units (``{"blocks.1.hook_resid_pre": sae.encode}``); default: all MLP neurons.
    ``settings``: everything else that is kept. ``precision="bfloat16"`` runs the model under autocast. ``on_tokens`` is
    called with the number of tokens of each batch done.

    Raises ``RequestError`` for a hook that is not there, batches that can be read only once or hold no text, and
    ``WorkError`` for activations that are not finite.
    """
    if iter(batches) is batches:
        raise RequestError("batches can be read only once: give token_batches(...) or a list")
    settings = replace(settings or ScanSettings(), top_k=top_k)
    reader = UnitReader.of(model, hooks, precision)
    accumulator = scan_batches(reader, batches, calibrate(reader, batches), settings, on_tokens=on_tokens)
    return scan_result(accumulator, read_documents(batches, documents_needed(accumulator)))


def calibrate(reader: UnitReader, batches: Iterable[TokenBatch]) -> dict[str, Calibration]:
    """The range of every unit's activations over the first 64 rows."""
    left = CALIBRATION_ROWS
    heard: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {hook: [] for hook in reader.hooks}
    for batch in batches:
        mask = batch.mask[:left]
        for hook, (activations, vectors) in reader.read(batch.tokens[:left]).items():
            heard[hook].append((activations[mask], vectors[mask]))
        left -= len(batch.tokens)
        if left <= 0:
            break
    if left == CALIBRATION_ROWS:
        raise RequestError("the corpus gives no rows: there is nothing to scan")
    return {
        hook: Calibration.of(torch.cat([a for a, _ in parts]), torch.cat([v for _, v in parts]))
        for hook, parts in heard.items()
    }


def scan_batches(
    reader: UnitReader,
    batches: Iterable[TokenBatch],
    calibrations: dict[str, Calibration],
    settings: ScanSettings,
    *,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> ScanAccumulator:
    """What the scan remembers after these batches; parts of a corpus can be merged."""
    d_vector = len(next(iter(calibrations.values())).representation)
    accumulator = ScanAccumulator(calibrations, d_vector, settings)
    for batch in batches:
        accumulator.update(batch, reader.read(batch.tokens))
        on_tokens(int(batch.mask.sum()))
    return accumulator


def read_documents(batches: Iterable[TokenBatch], wanted: set[int]) -> dict[int, list[int]]:
    """The tokens of some documents, by their numbers."""
    found: dict[int, dict[int, int]] = {}
    for batch in batches:
        for row in range(len(batch.tokens)):
            at = batch.mask[row].nonzero()[:, 0]
            numbers = batch.document[row, at].tolist()
            if wanted.isdisjoint(numbers):
                continue
            for number, place, token in zip(
                numbers, batch.place[row, at].tolist(), batch.tokens[row, at].tolist(), strict=True
            ):
                if number in wanted:
                    found.setdefault(number, {})[place] = token
    return {number: [found[number][place] for place in sorted(found[number])] for number in sorted(found)}
