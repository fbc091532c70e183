"""One streaming pass over a corpus: what every attention head of a model attends to and writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_superposition.corpora import Given, TokenBatch, as_batches
from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.heads.scan.accumulator import (
    TRAINED,
    UNTRAINED,
    HeadAccumulator,
    calibrate_heads,
    hook_of,
    scan_batches,
)
from mi_superposition.heads.scan.circuits import HeadWeights, circuit_ranks, circuit_similarity, copying_scores
from mi_superposition.heads.scan.config import HeadScanSettings
from mi_superposition.heads.scan.excerpts import cut_excerpts
from mi_superposition.heads.scan.measures import MEASURES, Measured
from mi_superposition.heads.scan.reader import HeadReader
from mi_superposition.heads.scan.repeated import RepeatedTokens, repeated_scores
from mi_superposition.heads.scan.result import HeadScan, Similarity
from mi_superposition.heads.scan.tables import attended_tokens, token_pairs
from mi_superposition.models import untrained_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons.scan import documents_needed, read_documents, scan_result
from mi_superposition.parts import ForwardPart
from mi_superposition.progress import SILENT, Progress


def scan_heads(
    model: HookedModel,
    batches: Given,
    settings: HeadScanSettings | None = None,
    *,
    mask: Bool[Tensor, "batch pos"] | Sequence[Tensor] | None = None,
    precision: str = ForwardPart.precision,
    progress: Progress = SILENT,
    **changes: Any,
) -> HeadScan:
    """Scan a corpus: for each attention head where it looks, what it writes, its scores on repeated random tokens, what its weights say, and
    examples; beside every number an untrained model of the same architecture, and attention that is permuted among each query's keys.

    ``batches``: what ``model_batches`` gives, a corpus, a list of texts, or tokens as ``model.to_tokens`` gives them, with a ``mask`` of
    the positions that count (see ``as_batches``). Beginning, end and padding tokens are no queries; as keys they get attention. ``settings``
    says what is kept, and ``changes`` changes some of it: ``top_k=5``, ``seed=1``. ``progress`` counts tokens.

    Raises ``RequestError`` for a model without attention, batches that can be read only once or hold no two tokens in a row, and
    ``WorkError`` for what is not finite.
    """
    batches = as_batches(model, batches, mask)
    settings = (settings or HeadScanSettings()).replace(**changes)
    reader = HeadReader(model, precision)
    untrained = HeadReader(untrained_copy(model, settings.random.seed), precision)
    repeated = RepeatedTokens.of(model, settings)
    progress.begin("token")
    calibration = calibrate_heads(reader, batches, settings)
    accumulator = scan_batches(reader, untrained, batches, calibration, settings, on_tokens=progress.advance)
    documents = read_documents(batches, documents_needed(accumulator.examples))
    return head_scan(accumulator, reader, untrained, repeated, documents, batches)


def head_scan(
    accumulator: HeadAccumulator,
    reader: HeadReader,
    untrained: HeadReader,
    repeated: RepeatedTokens,
    documents: Mapping[int, list[int]],
    batches: Iterable[TokenBatch],
) -> HeadScan:
    """From what a scan remembers to its result; ``documents`` are those of the examples kept, ``batches`` have these at least."""
    model = reader.model
    vocabulary = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    examples = scan_result(accumulator.examples, documents, vocabulary)
    weights, other_weights = HeadWeights.of(model), HeadWeights.of(untrained.model)
    trained, other = accumulator.sums[TRAINED], accumulator.sums[UNTRAINED]
    values, controls, permuted = trained.means(), other.means(), trained.permuted_means()
    values |= repeated_scores(reader, repeated)
    controls |= repeated_scores(untrained, repeated)
    permuted |= {name: torch.tensor(value).expand(len(weights.query)) for name, value in repeated.expected().items()}
    values |= circuit_ranks(weights) | (copying_scores(model, weights) or {})
    controls |= circuit_ranks(other_weights) | (copying_scores(untrained.model, other_weights) or {})
    values["contexts"] = torch.cat([examples.hooks[hook_of(layer)].contexts for layer in reader.layers])
    permuted["contexts"] = torch.cat([examples.hooks[hook_of(layer)].contexts_shuffled for layer in reader.layers])
    similar = {
        "ov": Similarity(*(circuit_similarity(some.value, some.output).float() for some in (weights, other_weights))),
        "qk": Similarity(
            *(circuit_similarity(some.query, some.key.transpose(1, 2)).float() for some in (weights, other_weights))
        ),
        "attention": Similarity(trained.similarity().float(), other.similarity().float()),
    }

    def single(found: Mapping[str, Tensor], name: str) -> Tensor | None:
        return found[name].float().clone() if name in found else None

    return HeadScan(
        layers=list(reader.layers),
        n_heads=model.cfg.n_heads,
        measures={
            measure.name: Measured(
                values[measure.name].float().clone(), single(controls, measure.name), single(permuted, measure.name)
            )
            for measure in MEASURES
            if measure.name in values
        },
        examples=examples,
        excerpts=cut_excerpts(reader, batches, examples),
        pairs=token_pairs(trained, other, accumulator.calibration.pairs),
        attended=attended_tokens(model, weights, trained, other),
        similar=similar,
        n_repeated=repeated.length,
    )
