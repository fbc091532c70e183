"""The attention of heads around their examples, read a second time: every token shown can be the query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.heads.scan.accumulator import hook_of
from mi_superposition.heads.scan.reader import HeadReader, LayerReading
from mi_superposition.neurons import NeuronScan

# Tokens shown before and after the query of an example, and its key, beside the first of the sequence.
_AROUND_QUERY, _AROUND_KEY = (27, 8), (4, 6)
SHOWN = 1 + sum(_AROUND_QUERY) + 1 + sum(_AROUND_KEY) + 1
NOT_SHOWN = -1


@dataclass(frozen=True)
class HeadExcerpts:
    """What the heads of one layer do around their examples, the strongest first, then those of each tenth of the range as
    ``UnitScan.tenths`` has them.

    ``place``: of each token shown its place in the document, in order, the first token of its sequence before them; -1 where it is the
    beginning token, and beyond ``n_shown``. ``query`` and ``key`` are places among the tokens shown. ``attention``: from each token shown
    (query) to each (key); what a row lacks to 1 goes to tokens that are not shown. ``length``: norm of what each token as key would add
    to the head's output at full attention.
    """

    n_shown: Int[Tensor, "head example"]
    place: Int[Tensor, "head example shown"]
    token: Int[Tensor, "head example shown"]
    query: Int[Tensor, "head example"]
    key: Int[Tensor, "head example"]
    attention: Float[Tensor, "head example query shown"]
    length: Float[Tensor, "head example shown"]

    @classmethod
    def empty(cls, n_heads: int, n_examples: int) -> HeadExcerpts:
        """Room for examples."""
        none = torch.full((n_heads, n_examples), NOT_SHOWN)
        places = torch.full((n_heads, n_examples, SHOWN), NOT_SHOWN)
        return cls(
            n_shown=torch.zeros(n_heads, n_examples, dtype=torch.long),
            place=places,
            token=torch.zeros_like(places),
            query=none,
            key=none.clone(),
            attention=torch.zeros(n_heads, n_examples, SHOWN, SHOWN, dtype=torch.float16),
            length=torch.zeros(n_heads, n_examples, SHOWN),
        )

    def put(self, head: int, example: int, row: int, query: int, batch: TokenBatch, reading: LayerReading) -> None:
        """Cut an example out of what was read."""
        pattern, lengths = reading.pattern[row, head].cpu(), reading.values[row, :, head].norm(dim=-1).cpu()
        key = int((pattern[query, : query + 1] * lengths[: query + 1] * batch.mask[row, : query + 1]).argmax())
        n = int((batch.document[row] >= 0).nonzero().max()) + 1
        shown = torch.tensor(_positions(query, key, n))
        k = len(shown)
        at = (head, example)
        self.n_shown[at], self.query[at], self.key[at] = (
            k,
            (shown == query).int().argmax(),
            (shown == key).int().argmax(),
        )
        self.place[at][:k], self.token[at][:k] = batch.place[row, shown], batch.tokens[row, shown]
        self.attention[at][:k, :k] = pattern[shown][:, shown].tril().half()
        self.length[at][:k] = lengths[shown]


def cut_excerpts(reader: HeadReader, batches: Iterable[TokenBatch], scan: NeuronScan) -> dict[str, HeadExcerpts]:
    """The excerpts of all examples of a scan, by hook; ``batches`` have at least the documents that it shows, numbered as it does."""
    # By document and place: the layers, heads and examples of which it is the query.
    wanted: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    cut = {}
    for layer in reader.layers:
        units = scan.hooks[hook_of(layer)]
        document = torch.cat([units.top.document, units.tenths.document], dim=1)
        position = torch.cat([units.top.position, units.tenths.position], dim=1)
        cut[layer] = HeadExcerpts.empty(*document.shape)
        for head, example in (document >= 0).nonzero().tolist():
            where = int(document[head, example]), int(position[head, example])
            wanted.setdefault(where, []).append((layer, head, example))
    for batch, at in _rows_wanted(batches, wanted):
        for piece, first in _pieces(batch, reader.device):

            def hear(
                reading: LayerReading, piece: TokenBatch = piece, first: int = first, at: list[Tensor] = at
            ) -> None:
                for row in range(len(piece.tokens)):
                    for query in at[first + row].tolist():
                        where = int(piece.document[row, query]), int(piece.place[row, query])
                        for layer, head, example in wanted[where]:
                            if layer == reading.layer:
                                cut[layer].put(head, example, row, query, piece, reading)

            reader.read(piece.tokens, hear)
    return {hook_of(layer): some for layer, some in cut.items()}


def _rows_wanted(
    batches: Iterable[TokenBatch], wanted: dict[tuple[int, int], list[tuple[int, int, int]]]
) -> Iterator[tuple[TokenBatch, list[Tensor]]]:
    """Rows with an example, and the positions of the examples in each."""
    by_document: dict[int, list[int]] = {}
    for document, place in wanted:
        by_document.setdefault(document, []).append(place)
    for batch in batches:
        rows, at = [], []
        for row in range(len(batch.tokens)):
            here = torch.zeros_like(batch.document[row], dtype=torch.bool)
            for number in set(batch.document[row].tolist()) & by_document.keys():
                places = torch.tensor(by_document[number])
                here |= (batch.document[row] == number) & torch.isin(batch.place[row], places)
            if bool(here.any()):
                rows.append(row)
                at.append(here.nonzero()[:, 0])
        if rows:
            some = torch.tensor(rows)
            parts = (batch.tokens[some], batch.mask[some], batch.document[some], batch.place[some])
            yield TokenBatch(*parts, batch.content), at


def _pieces(batch: TokenBatch, device: torch.device) -> Iterator[tuple[TokenBatch, int]]:
    first = 0
    for piece in batch.pieces(device):
        yield piece, first
        first += len(piece.tokens)


def _positions(query: int, key: int, n: int) -> list[int]:
    """Positions shown of a sequence of ``n``: its first, those around the key and those around the query; all where there is room."""
    if n <= SHOWN:
        return list(range(n))
    around = [(key, _AROUND_KEY), (query, _AROUND_QUERY)]
    shown = {0} | {at for middle, (before, after) in around for at in range(middle - before, middle + after + 1)}
    return sorted(at for at in shown if 0 <= at < n)
