"""One streaming pass over a corpus: what every unit of a model responds to."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from mi_superposition.corpora import Given, TokenBatch, as_batches
from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.models import Encode
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.config import ScanSettings
from mi_superposition.neurons.scan.accumulator import ScanAccumulator
from mi_superposition.neurons.scan.calibration import Calibration, RangeAccumulator
from mi_superposition.neurons.scan.finish import documents_needed, scan_result
from mi_superposition.neurons.scan.reader import Readings, UnitReader
from mi_superposition.neurons.scan.result import NeuronScan
from mi_superposition.parts import ForwardPart
from mi_superposition.progress import SILENT, Progress

# Sequences on which the range of each unit is measured.
CALIBRATION_ROWS = 32
_TOKENS_IN_A_PART = 2**21
# Of one batch: its pieces, each with what the units did on it.
BatchRead = list[tuple[TokenBatch, Readings]]


def scan_neurons(
    model: HookedModel,
    batches: Given,
    settings: ScanSettings | None = None,
    *,
    mask: Bool[Tensor, "batch pos"] | Sequence[Tensor] | None = None,
    hooks: str | Sequence[str] | Mapping[str, Encode | None] | None = None,
    precision: str = ForwardPart.precision,
    progress: Progress = SILENT,
    **changes: Any,
) -> NeuronScan:
    """Scan a corpus: for each unit its largest activations, one per document, its smallest, some of each of ten intervals of its
    range, histogram, moments, top tokens and partners. One pass; memory does not grow with the corpus.

    ``batches``: what ``model_batches`` gives, a corpus, a list of texts, or tokens as ``model.to_tokens`` gives them, with a ``mask`` of
    the positions that count (see ``as_batches``). Beginning, end and padding tokens do not count. ``hooks``: names, or names
    with what encodes each activation into units (``{"blocks.1.hook_resid_pre": sae.encode}``, named
    ``blocks.1.hook_resid_pre.features`` in the result, with no example where they are 0); default: all MLP neurons.
    ``settings`` says what is kept, and ``changes`` changes some of it: ``top_k=5``, ``seed=1``. ``precision="bfloat16"`` runs the
    model under autocast. ``progress`` counts tokens.

    Raises ``RequestError`` for a hook or setting that is not there, batches that can be read only once or hold no text, and
    ``WorkError`` for activations that are not finite.
    """
    batches = as_batches(model, batches, mask)
    settings = (settings or ScanSettings()).replace(**changes)
    reader = UnitReader.of(model, hooks, precision)

    def from_the_first() -> Iterator[BatchRead]:
        progress.begin("token")
        return read_batches(reader, batches, on_tokens=progress.advance)

    calibrations, read = calibrate(from_the_first)
    accumulator = scan_batches(read, calibrations, settings)
    documents = read_documents(batches, documents_needed(accumulator))
    return scan_result(accumulator, documents, vocabulary_of(model))


def vocabulary_of(model: HookedModel) -> list[str]:
    """What every token of a model looks like, by its number; its number for a model that came without a tokenizer."""
    return visible_tokens(model.tokenizer, model.cfg.d_vocab)


def read_batches(
    reader: UnitReader, batches: Iterable[TokenBatch], *, on_tokens: Callable[[int], None] = lambda tokens: None
) -> Iterator[BatchRead]:
    """Run the model: of each batch its pieces and what its units did on them. ``on_tokens`` is called with the number of tokens of each
    piece read.
    """

    def read(piece: TokenBatch) -> tuple[TokenBatch, Readings]:
        readings = reader.read(piece.tokens)
        on_tokens(int(piece.mask.sum()))
        return piece, readings

    for batch in batches:
        yield [read(piece) for piece in batch.pieces(reader.device)]


def calibrate(
    from_the_first: Callable[[], Iterator[BatchRead]],
) -> tuple[dict[str, Calibration], Iterator[BatchRead]]:
    """The range of every unit's activations on the first 32 sequences; and all batches that ``from_the_first`` gives.

    Where the first batch has the whole sample, as with the default size, it is not read again. Smaller batches are: whoever asks for
    them wants to save memory, so no more than two are held. Raises ``RequestError`` where there is none.
    """
    left = CALIBRATION_ROWS
    ranges: dict[str, RangeAccumulator] = {}
    read = from_the_first()
    begun: list[BatchRead] = []
    for pieces in read:
        begun = [] if ranges else [pieces]
        for piece, readings in pieces:
            mask = piece.mask[: max(left, 0)]
            for hook, (activations, vectors) in readings.items():
                some = activations[: len(mask)][mask], vectors[: len(mask)][mask]
                ranges.setdefault(hook, RangeAccumulator()).update(*some)
            left -= len(piece.tokens)
        del pieces
        if left <= 0:
            break
    if not ranges:
        raise RequestError("the corpus is empty: nothing to scan")
    all_of_them = _from_the_first(begun, read) if begun else from_the_first()
    return {hook: measured.calibration() for hook, measured in ranges.items()}, all_of_them


def _from_the_first(begun: list[BatchRead], rest: Iterator[BatchRead]) -> Iterator[BatchRead]:
    # A batch that was given is held no longer: its activations may take gigabytes.
    while begun:
        yield begun.pop()
    yield from rest


def scan_batches(
    read: Iterable[BatchRead], calibrations: dict[str, Calibration], settings: ScanSettings
) -> ScanAccumulator:
    """What the scan remembers after these batches; parts of a corpus can be merged."""
    whole = part = ScanAccumulator(calibrations, settings)
    for pieces in read:
        # Single-precision sums of ever more terms would at some point not move any more: each part has its own.
        if part.n_tokens >= _TOKENS_IN_A_PART:
            if part is not whole:
                whole.merge(part)
            part = ScanAccumulator(calibrations, settings)
        part.update(pieces)
        # Not held while the next are read.
        del pieces
    if part is not whole:
        whole.merge(part)
    return whole


def read_documents(batches: Iterable[TokenBatch], wanted: set[int]) -> dict[int, list[int]]:
    """The tokens of some documents, by their numbers."""
    pieces: dict[int, list[tuple[int, array[int]]]] = {}
    for batch in batches:
        for row in range(len(batch.tokens)):
            for number in set(batch.document[row].tolist()) & wanted:
                at = batch.document[row] == number
                tokens = array("i", batch.tokens[row, at].tolist())
                pieces.setdefault(number, []).append((int(batch.place[row, at][0]), tokens))
    return {
        number: [token for _, tokens in sorted(pieces[number], key=lambda piece: piece[0]) for token in tokens]
        for number in sorted(pieces)
    }
