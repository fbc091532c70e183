"""What a measurement is given to read, whatever its form, as token batches: a corpus, texts, or the tokens themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_superposition.corpora.batches import NO_TOKEN, TokenBatch, TokenBatches, document_hash, model_batches
from mi_superposition.corpora.corpus import Corpus
from mi_superposition.errors import RequestError
from mi_superposition.models.protocol import HookedModel, beginning_token

# Token batches, texts, or tokens as ``model.to_tokens`` gives them: one tensor, or one for each text or batch.
Given = Iterable[TokenBatch] | Iterable[str] | Int[Tensor, "batch pos"] | Sequence[Tensor]
_ROWS = 32


def as_batches(model: HookedModel, given: Any, mask: Any = None) -> Iterable[TokenBatch]:
    """What a model is to read, as batches that can be read again and again.

    ``given``: token batches, which are taken as they are; texts or a corpus, read by ``model_batches``; or tokens ``[batch, pos]`` (one
    tensor, or a list of them, each of one row or several). Each row of tokens is a document. A beginning token at its first position and
    padding at either end (the tokenizer's padding token, which TransformerLens often lets be its end token) do not count. ``mask``: for
    tokens, the positions that count, in the same form; the rest of a row is still part of its document.

    Raises ``RequestError`` for anything else, for tokens outside the vocabulary, rows longer than the model's context, a mask of another
    shape, and a mask beside what is no tensor.
    """
    if isinstance(given, Tensor):
        given, mask = [given], None if mask is None else [mask]
    if isinstance(given, TokenBatches):
        first: Any = None
    elif isinstance(given, Corpus):
        first = ""
    elif isinstance(given, str) or iter(given) is given:
        what = "a text" if isinstance(given, str) else "batches that can be read only once"
        raise RequestError(f"{what}: give token_batches(…), a corpus, or a list of texts, tokens or batches")
    else:
        first = next(iter(given), None)
    if mask is not None and not isinstance(first, Tensor):
        raise RequestError("mask: is for tokens; token batches have their own")
    if first is not None and not isinstance(first, str | Tensor | TokenBatch):
        raise RequestError(f"a list of {type(first).__name__}: give texts, tensors of tokens or token batches")
    if isinstance(first, str):
        return model_batches(model, given, _ROWS)
    if isinstance(first, Tensor):
        return list(_token_rows(model, given, mask))
    if isinstance(first, TokenBatch) and not first.content:
        return [_completed(batch) for batch in given]
    return given


def _token_rows(model: HookedModel, tensors: Sequence[Tensor], masks: Sequence[Tensor] | None) -> Iterator[TokenBatch]:
    if masks is not None and len(masks) != len(tensors):
        raise RequestError(f"mask: {len(masks)} for {len(tensors)} tensors of tokens; give one for each")
    done = 0
    for number, tokens in enumerate(tensors):
        # Where the tokens were made; the model's own device gets them batch by batch.
        rows = (tokens[None] if tokens.ndim == 1 else tokens).cpu()
        _check(model, rows)
        document = _documents(model, rows)
        counts = document
        if masks is not None:
            asked = masks[number].cpu()
            asked = asked[None] if asked.ndim == 1 else asked
            if asked.shape != rows.shape or asked.dtype != torch.bool:
                raise RequestError(
                    f"mask has shape {tuple(asked.shape)} and dtype {asked.dtype}: must be bool, and {tuple(rows.shape)} as the tokens"
                )
            counts = document & asked
        first = document.int().argmax(dim=1, keepdim=True)
        position = torch.arange(rows.shape[1])[None] - first
        numbers = done + torch.arange(len(rows))[:, None].expand_as(rows)
        yield TokenBatch(
            tokens=rows,
            mask=counts,
            document=numbers.where(document, NO_TOKEN),
            place=position.where(document, NO_TOKEN),
            content={done + row: document_hash(rows[row, document[row]].tolist()) for row in range(len(rows))},
        )
        done += len(rows)


def _completed(batch: TokenBatch) -> TokenBatch:
    """A batch made by hand, in which a document may be only the positions that count: the rest of a row with one document is its too."""
    document, place = batch.document.clone(), batch.place.clone()
    content: dict[int, int] = {}
    for row, mask in enumerate(batch.mask):
        numbers = document[row][document[row] >= 0].unique().tolist()
        if len(numbers) == 1:
            known = int(document[row].ge(0).int().argmax())
            last = int(mask.nonzero().max()) if bool(mask.any()) else known
            whole = place[row, known] + torch.arange(len(mask)) - known
            inside = (whole >= 0) & (torch.arange(len(mask)) <= last)
            document[row, inside], place[row, inside] = numbers[0], whole[inside]
            content[numbers[0]] = document_hash(batch.tokens[row, inside].tolist())
    return TokenBatch(batch.tokens, batch.mask, document, place, content)


def _check(model: HookedModel, rows: Tensor) -> None:
    if rows.ndim != 2 or rows.numel() == 0 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise RequestError(
            f"tokens of shape {tuple(rows.shape)} and dtype {rows.dtype}: give whole numbers [batch, pos], neither empty"
        )
    if rows.shape[1] > model.cfg.n_ctx:
        raise RequestError(f"{rows.shape[1]} positions: the model reads at most {model.cfg.n_ctx}")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= model.cfg.d_vocab:
        raise RequestError(f"token {low if low < 0 else high}: the vocabulary is 0 to {model.cfg.d_vocab - 1}")


def _documents(model: HookedModel, rows: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Where tokens of a text stand: not at a beginning token, nor in padding."""
    text = torch.ones_like(rows, dtype=torch.bool)
    if model.tokenizer is None:
        return text
    padding, beginning = model.tokenizer.pad_token_id, beginning_token(model)
    if padding is not None:
        other = (rows != padding).int()
        text &= (other.cumsum(dim=1) > 0) & (other.flip(1).cumsum(dim=1).flip(1) > 0)
    if beginning is not None:
        # The first that is no padding, or the last of the padding where both are one token.
        first = text.int().argmax(dim=1, keepdim=True)
        text &= ~((rows == beginning) & (torch.arange(rows.shape[1])[None] == first))
    return text
