"""Token batches of a corpus: which document and place every token comes from, and the same rows for any batch size."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mi_superposition.corpora.files import Content
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.protocol import HookedModel, beginning_token
from mi_superposition.parts import SeedPart
from mi_superposition.training import seeded_generator

_TOKENIZED_AT_ONCE = 64
NO_TOKEN = -1
# What a layer makes of so few tokens stays in a CPU's cache, which makes a model itself a third faster than whole batches do
# (`benchmarks/scan.py`).
CPU_TOKENS = 1024


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens. ``mask`` is true where a token counts: not at BOS, EOS or padding, nor where somebody masked it.

    ``document`` is the number of the token's document among those the corpus gives, in its own order (what it passes
    over has no number), and ``place`` the token's number within it; both are -1 where no token of a document stands. ``content``
    gives a 64-bit hash of all tokens of each document in the batch: equal for copies of one text.
    """

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    document: Int[Tensor, "batch pos"]
    place: Int[Tensor, "batch pos"]
    content: Mapping[int, int] = field(default_factory=dict)

    def pieces(self, device: torch.device) -> Iterator[TokenBatch]:
        """Its rows in order, as many at a time as a model on that device reads fastest: on a CPU few, on others all; without the
        padding behind the longest row of each piece.
        """
        # A causal model reads the same whether padding follows or not; what stands between documents stays.
        lengths = [int(row.nonzero()[-1]) + 1 if row.any() else 1 for row in self.document != NO_TOKEN]
        room = CPU_TOKENS if device.type == "cpu" else self.tokens.numel()
        first = 0
        while first < len(lengths):
            end, width = first + 1, lengths[first]
            while end < len(lengths) and (end + 1 - first) * max(width, lengths[end]) <= room:
                width = max(width, lengths[end])
                end += 1
            some = (slice(first, end), slice(width))
            yield TokenBatch(self.tokens[some], self.mask[some], self.document[some], self.place[some], self.content)
            first = end


@dataclass
class TokenCounts:
    """What one pass made of the documents. ``split``: documents longer than a row, which went on in further rows;
    ``truncated``: documents whose end was dropped, and ``dropped_tokens`` how many tokens those were.
    """

    documents: int = 0
    rows: int = 0
    tokens: int = 0
    split: int = 0
    truncated: int = 0
    dropped_tokens: int = 0

    def __str__(self) -> str:
        text = f"{self.documents:,} documents, {self.tokens:,} tokens in {self.rows:,} rows"
        if self.split:
            text += f"; {self.split:,} longer than a row go on in the next"
        if self.truncated:
            text += f"; {self.truncated:,} truncated, {self.dropped_tokens:,} tokens dropped"
        return text


@dataclass
class _Row:
    tokens: list[int] = field(default_factory=list)
    document: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    content: dict[int, int] = field(default_factory=dict)

    def add(self, token: int, document: int = NO_TOKEN, place: int = NO_TOKEN) -> None:
        self.tokens.append(token)
        self.document.append(document)
        self.place.append(place)


class TokenBatches:
    """The batches of a corpus; every pass gives the same ones. ``counts`` is about the last pass."""

    def __init__(
        self,
        corpus: Iterable[Content],
        tokenizer: PreTrainedTokenizerBase | None,
        batch: int,
        context: int,
        *,
        prepend_bos: bool | None,
        long: Literal["split", "truncate"],
        join: bool,
        shuffle: int | None,
        seed: int,
        by_length: bool,
        first_document: int,
        d_vocab: int | None,
    ):
        self.corpus, self.tokenizer, self.batch, self.context = corpus, tokenizer, batch, context
        self.beginning = None if tokenizer is None else tokenizer.bos_token_id
        self.bos = self.beginning if prepend_bos is not False else None
        if prepend_bos and self.bos is None:
            raise RequestError("prepend_bos = True: the tokenizer has no beginning-of-sequence token")
        self.d_vocab = d_vocab
        self.long, self.join, self.shuffle, self.seed = long, join, shuffle, seed
        self.by_length, self.first_document = by_length, first_document
        self.counts = TokenCounts()

    def __iter__(self) -> Iterator[TokenBatch]:
        self.counts = TokenCounts()
        waiting: list[_Row] = []
        rows = self._joined() if self.join else self._rows()
        if self.by_length:
            rows = iter(sorted(rows, key=lambda row: -len(row.tokens)))
        for row in rows:
            waiting.append(row)
            if len(waiting) == self.batch:
                yield self._stacked(waiting)
                waiting = []
        if waiting:
            yield self._stacked(waiting)

    def _stacked(self, rows: list[_Row]) -> TokenBatch:
        width = max(len(row.tokens) for row in rows)
        tokenizer = self.tokenizer
        # A causal model never looks ahead, so what stands in the padding changes nothing before it. A padding token that was added
        # to the tokenizer alone has no embedding.
        candidates = (0,) if tokenizer is None else (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        padding = next(token for token in candidates if token is not None and self._has_embedding(token))

        def padded(lists: list[list[int]], value: int) -> Int[Tensor, "batch pos"]:
            return torch.tensor([[*items, *[value] * (width - len(items))] for items in lists])

        document = padded([row.document for row in rows], NO_TOKEN)
        self.counts.rows += len(rows)
        self.counts.tokens += int((document >= 0).sum())
        tokens = padded([row.tokens for row in rows], padding)
        content = {number: key for row in rows for number, key in row.content.items()}
        return TokenBatch(tokens, document >= 0, document, padded([row.place for row in rows], NO_TOKEN), content)

    def _rows(self) -> Iterator[_Row]:
        """A document in each row, a long one in several."""
        room = self.context - (self.bos is not None)
        for number, tokens in self._tokenized():
            content = {number: document_hash(tokens)}
            if len(tokens) > room:
                if self.long == "truncate":
                    self.counts.truncated += 1
                    self.counts.dropped_tokens += len(tokens) - room
                    tokens = tokens[:room]
                else:
                    self.counts.split += 1
            for start in range(0, len(tokens), room):
                row = _Row(content=content)
                if self.bos is not None:
                    row.add(self.bos)
                for place, token in enumerate(tokens[start : start + room], start):
                    row.add(token, number, place)
                yield row

    def _joined(self) -> Iterator[_Row]:
        """Full rows, in which documents follow each other after the end token; only the last row may be short."""
        end = None if self.tokenizer is None else self.tokenizer.eos_token_id
        end = self.bos if end is None else end
        row = _Row()

        def begun() -> _Row:
            fresh = _Row()
            if self.bos is not None:
                fresh.add(self.bos)
            return fresh

        row = begun()
        for number, tokens in self._tokenized():
            content = document_hash(tokens)
            for place, token in enumerate(tokens):
                row.add(token, number, place)
                row.content[number] = content
                if len(row.tokens) == self.context:
                    yield row
                    row = begun()
            # In a row that only has its beginning token, that parts the documents already.
            if end is not None and len(row.tokens) > (self.bos is not None):
                row.add(end)
                if len(row.tokens) == self.context:
                    yield row
                    row = begun()
        if any(document >= 0 for document in row.document):
            yield row

    def _tokenized(self) -> Iterator[tuple[int, list[int]]]:
        pending: list[tuple[int, Content]] = []
        for numbered in self._shuffled(enumerate(self.corpus, self.first_document)):
            pending.append(numbered)
            if len(pending) == _TOKENIZED_AT_ONCE:
                yield from self._tokens_of(pending)
                pending = []
        if pending:
            yield from self._tokens_of(pending)

    def _tokens_of(self, numbered: list[tuple[int, Content]]) -> Iterator[tuple[int, list[int]]]:
        texts = {number: text for number, text in numbered if isinstance(text, str)}
        encoded: dict[int, list[int]] = {}
        if texts:
            if self.tokenizer is None:
                raise RequestError("the model came without a tokenizer: it cannot read a text; give tokens")
            # Tokenizers that add a beginning token by themselves would give two; and "<|endoftext|>" within a document is
            # text somebody wrote, not its end.
            tokens_of_texts = self.tokenizer(
                list(texts.values()), add_special_tokens=False, split_special_tokens=True, verbose=False
            )["input_ids"]
            encoded = dict(zip(texts, tokens_of_texts, strict=True))
        for number, text in numbered:
            tokens = encoded[number] if isinstance(text, str) else self._bare(text)
            for token in (min(tokens), max(tokens)) if tokens else ():
                if not self._has_embedding(token):
                    last = "" if self.d_vocab is None else f", of which the last is {self.d_vocab - 1}"
                    raise WorkError(f"document {number} has token {token}: the model has no such embedding{last}")
            self.counts.documents += 1
            yield number, tokens

    def _bare(self, tokens: list[int]) -> list[int]:
        """The tokens of a document without its beginning token and padding, which some files have."""
        padding = None if self.tokenizer is None else self.tokenizer.pad_token_id
        first, last = 0, len(tokens)
        while first < last and tokens[first] == padding:
            first += 1
        while first < last and tokens[last - 1] == padding:
            last -= 1
        if first < last and self.beginning is not None and tokens[first] == self.beginning:
            first += 1
        return tokens[first:last]

    def _has_embedding(self, token: int) -> bool:
        return token >= 0 and (self.d_vocab is None or token < self.d_vocab)

    def _shuffled(self, numbered: Iterator[tuple[int, Content]]) -> Iterator[tuple[int, Content]]:
        """The documents by way of a buffer from which a random one is taken each time."""
        if self.shuffle is None:
            yield from numbered
            return
        generator = seeded_generator(self.seed, "documents")
        buffer: list[tuple[int, Content]] = []
        for item in numbered:
            buffer.append(item)
            if len(buffer) > self.shuffle:
                taken = int(torch.randint(len(buffer), (), generator=generator))
                buffer[taken], buffer[-1] = buffer[-1], buffer[taken]
                yield buffer.pop()
        for index in torch.randperm(len(buffer), generator=generator).tolist():
            yield buffer[index]


def document_hash(tokens: list[int]) -> int:
    """64 bits that are equal for documents of the same tokens."""
    digest = hashlib.blake2b(array("q", tokens).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def begins_with_token(model: HookedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> bool:
    """Whether a text begins with a token of its own for this model: the tokenizer has one, and the model was trained with it
    (``cfg.default_prepend_bos``). ``tokenizer``: as for ``beginning_token``.
    """
    return bool(model.cfg.default_prepend_bos) and beginning_token(model, tokenizer) is not None


def model_batches(
    model: HookedModel,
    corpus: Iterable[Content],
    batch: int,
    *,
    context: int | None = None,
    prepend_bos: bool | None = None,
    long: Literal["split", "truncate"] = "split",
    join: bool = False,
    shuffle: int | None = None,
    seed: int = SeedPart.seed,
    by_length: bool = False,
    first_document: int = 0,
) -> TokenBatches:
    """``token_batches`` as a language model reads them: its tokenizer, its vocabulary, its context unless a shorter one is asked for,
    and a beginning token if it was trained with one (``cfg.default_prepend_bos``, as ``model.to_tokens`` does) or ``prepend_bos``
    says so.

    Raises ``RequestError`` for a context longer than the model's, and as ``token_batches`` does.
    """
    if context is not None and context > model.cfg.n_ctx:
        raise RequestError(f"context = {context}: must be 2 to {model.cfg.n_ctx}, the context of the model")
    if prepend_bos is None:
        prepend_bos = begins_with_token(model)
    elif prepend_bos and beginning_token(model) is None:
        raise RequestError("prepend_bos = True: the tokenizer has no beginning-of-sequence token")
    return token_batches(
        corpus,
        model.tokenizer,
        batch,
        model.cfg.n_ctx if context is None else context,
        prepend_bos=prepend_bos,
        long=long,
        join=join,
        shuffle=shuffle,
        seed=seed,
        by_length=by_length,
        first_document=first_document,
        d_vocab=model.cfg.d_vocab,
    )


def check_readable(model: HookedModel, corpus: Iterable[Content], name: str, **reading: Any) -> None:
    """Raise ``RequestError`` for a corpus whose first documents the model cannot read, or that has none; ``reading`` as for
    ``model_batches``.
    """
    # Documents of tokens may be nothing but padding.
    if next(iter(model_batches(model, itertools.islice(corpus, _TOKENIZED_AT_ONCE), 1, **reading)), None) is None:
        raise RequestError(f"the corpus {name!r} is empty: nothing to read")


def token_batches(
    corpus: Iterable[Content],
    tokenizer: PreTrainedTokenizerBase | None,
    batch: int,
    context: int,
    *,
    prepend_bos: bool | None = None,
    long: Literal["split", "truncate"] = "split",
    join: bool = False,
    shuffle: int | None = None,
    seed: int = SeedPart.seed,
    by_length: bool = False,
    first_document: int = 0,
    d_vocab: int | None = None,
) -> TokenBatches:
    """Batches of at most ``batch`` rows of at most ``context`` tokens; rows and their order are those of any other
    batch size. Read lazily. For a language model take ``model_batches``.

    Documents are texts, or lists of tokens, of which a beginning token and padding at the ends are not read. ``tokenizer`` may be
    ``None`` for tokens, and a model with ``d_vocab`` embeddings has none beyond them.

    ``prepend_bos`` decides what every row begins with, since a tokenizer does not know how a model was trained: the
    tokenizer's beginning token (True), nothing (False), or that token wherever the tokenizer has one (None, the default),
    even for a model whose ``cfg.default_prepend_bos`` is False. A tokenizer that adds one by itself adds no second.

    A row holds one document, or with ``join`` several, parted by the end token. A document longer than a row goes on in
    the next (``long="split"``) or is cut (``"truncate"``); ``counts`` says how many. ``shuffle``: documents come in a random
    order from a buffer of that size, by ``seed``. ``by_length``: the longest rows come first, so that a batch has little
    padding; all rows are held at once. ``first_document`` is the number of the first document, for a corpus that is a part
    of a larger one.

    Raises ``RequestError`` for a batch or context below 1, ``prepend_bos=True`` without such a token, a context without room beside
    it, and, when read, for a text without a tokenizer; ``WorkError`` for a token that the model has no embedding for.
    """
    for name, value in (("batch", batch), ("context", context), ("shuffle", 1 if shuffle is None else shuffle)):
        if value < 1:
            raise RequestError(f"{name} = {value}: must be at least 1")
    if long not in ("split", "truncate"):
        raise RequestError(f"long = {long!r}: give 'split' or 'truncate'")
    batches = TokenBatches(
        corpus,
        tokenizer,
        batch,
        context,
        prepend_bos=prepend_bos,
        long=long,
        join=join,
        shuffle=shuffle,
        seed=seed,
        by_length=by_length,
        first_document=first_document,
        d_vocab=d_vocab,
    )
    if batches.bos is not None and context < 2:
        raise RequestError(f"context = {context}: with a beginning token a row needs at least 2")
    return batches
