"""One streaming pass over a corpus: what every unit of a model responds to."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError
from mi_superposition.models import Encode
from mi_superposition.neurons.scan.accumulator import Calibration, RangeAccumulator, ScanAccumulator, ScanSettings
from mi_superposition.neurons.scan.reader import UnitReader
from mi_superposition.neurons.scan.result import NeuronScan, documents_needed, scan_result

# Rows from which the range of each unit is found.
CALIBRATION_ROWS = 32
_TOKENS_IN_A_PART = 2**21


def scan_neurons(
    model: Any,
    batches: Iterable[TokenBatch],
    *,
    hooks: Sequence[str] | Mapping[str, Encode | None] | None = None,
    top_k: int | None = None,
    settings: ScanSettings | None = None,
    precision: str = "float32",
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> NeuronScan:
    """Scan a corpus: for each unit its best examples (``top_k``, default 20, one a document), its least, some of each
    tenth of its range, histogram, moments, top tokens and partners. One pass; memory does not grow with the corpus.

    ``batches`` come from ``token_batches`` (or are a list of its batches), so that they can be read again for the first
    sample and for the documents shown. Tokens that are masked (BOS, EOS, padding) never count. ``hooks``: names, or names
    with what encodes each activation into units (``{"blocks.1.hook_resid_pre": sae.encode}``, found as
    ``blocks.1.hook_resid_pre.features``, with no example where they are 0); default: all MLP neurons. ``settings``: everything else that is kept.
    ``precision="bfloat16"`` runs the model under autocast. ``on_tokens`` is called with the number of tokens of each batch
    done.

    Raises ``RequestError`` for a hook that is not there, batches that can be read only once or hold no text, and
    ``WorkError`` for activations that are not finite.
    """
    if iter(batches) is batches:
        raise RequestError("batches can be read only once: give token_batches(...) or a list")
    settings = settings or ScanSettings()
    if top_k is not None:
        settings = replace(settings, top_k=top_k)
    reader = UnitReader.of(model, hooks, precision)
    accumulator = scan_batches(reader, batches, calibrate(reader, batches), settings, on_tokens=on_tokens)
    return scan_result(accumulator, read_documents(batches, documents_needed(accumulator)))


def calibrate(reader: UnitReader, batches: Iterable[TokenBatch]) -> dict[str, Calibration]:
    """The range of every unit's activations over the first 32 rows."""
    left = CALIBRATION_ROWS
    ranges: dict[str, RangeAccumulator] = {}
    pieces = itertools.chain.from_iterable(batch.pieces(reader.device) for batch in batches)
    for batch in pieces:
        mask = batch.mask[:left]
        for hook, (activations, vectors) in reader.read(batch.tokens[:left]).items():
            ranges.setdefault(hook, RangeAccumulator()).update(activations[mask], vectors[mask])
        left -= len(batch.tokens)
        if left <= 0:
            break
    if not ranges:
        raise RequestError("the corpus gives no rows: there is nothing to scan")
    return {hook: found.calibration() for hook, found in ranges.items()}


def scan_batches(
    reader: UnitReader,
    batches: Iterable[TokenBatch],
    calibrations: dict[str, Calibration],
    settings: ScanSettings,
    *,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> ScanAccumulator:
    """What the scan remembers after these batches; parts of a corpus can be merged."""
    whole = part = ScanAccumulator(calibrations, settings)
    for batch in batches:
        # Single-precision sums of ever more terms would at some point not move any more: each part has its own.
        if part.n_tokens >= _TOKENS_IN_A_PART:
            if part is not whole:
                whole.merge(part)
            part = ScanAccumulator(calibrations, settings)
        part.update([(piece, reader.read(piece.tokens)) for piece in batch.pieces(reader.device)])
        on_tokens(int(batch.mask.sum()))
    if part is not whole:
        whole.merge(part)
    return whole


def read_documents(batches: Iterable[TokenBatch], wanted: set[int]) -> dict[int, list[int]]:
    """The tokens of some documents, by their numbers."""
    pieces: dict[int, list[tuple[int, array[int]]]] = {}
    for batch in batches:
        for row in range(len(batch.tokens)):
            for number in set(batch.document[row][batch.mask[row]].tolist()) & wanted:
                at = (batch.document[row] == number) & batch.mask[row]
                tokens = array("i", batch.tokens[row, at].tolist())
                pieces.setdefault(number, []).append((int(batch.place[row, at][0]), tokens))
    return {
        number: [token for _, tokens in sorted(pieces[number], key=lambda piece: piece[0]) for token in tokens]
        for number in sorted(pieces)
    }
