"""Skip trigrams in text: a token A, some tokens later B, and C right after B, counted with the document as the unit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from mi_superposition.errors import RequestError

# Documents whose pairs are in memory at once.
_DOCUMENTS_AT_ONCE = 500
# Fewer tokens between A and B than this make a phrase, not a skip trigram: at least one stands between.
NEAREST = 2
Triples = np.ndarray


@dataclass(frozen=True)
class Queries:
    """One occurrence of each token B in each document, drawn at random: its document, position, B, and the next token.

    One a document, so that the occurrences of B are independent of each other, as an exact test needs.
    """

    document: np.ndarray
    position: np.ndarray
    current: np.ndarray
    following: np.ndarray


@dataclass(frozen=True)
class Counts:
    """How often each triple (A, B, C) occurred, in documents: ``triples`` [triple, 3], sorted, with ``n_abc`` of each, ``n_ab`` (A before
    B), ``n_bc`` (C after B) and ``n_b``.
    """

    triples: Triples
    n_abc: np.ndarray
    n_ab: np.ndarray
    n_bc: np.ndarray
    n_b: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """P(C | B, A earlier) - P(C | B, A not earlier); 0 where one of them has no documents."""
        without = self.n_b - self.n_ab
        with_a = self.n_abc / np.maximum(self.n_ab, 1)
        without_a = (self.n_bc - self.n_abc) / np.maximum(without, 1)
        return np.where((without > 0) & (self.n_ab > 0), with_a - without_a, 0.0)

    @property
    def p(self) -> np.ndarray:
        """One-sided p of Fisher's exact test that A earlier makes C after B more frequent."""
        return hypergeom.sf(self.n_abc - 1, self.n_b, self.n_bc, self.n_ab)

    def of(self, chosen: np.ndarray) -> Counts:
        """The counts of some of the triples."""
        return Counts(*(getattr(self, name)[chosen] for name in ("triples", "n_abc", "n_ab", "n_bc", "n_b")))


def draw_queries(documents: Sequence[np.ndarray], generator: np.random.Generator) -> Queries:
    """One occurrence of every token of every document that has ``NEAREST`` tokens before it and one after it."""
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for number, tokens in enumerate(documents):
        positions = np.arange(NEAREST, len(tokens) - 1)
        if not len(positions):
            continue
        positions = generator.permutation(positions)
        _, first = np.unique(tokens[positions], return_index=True)
        chosen = positions[first]
        for column, values in zip(
            columns, (np.full(len(chosen), number), chosen, tokens[chosen], tokens[chosen + 1]), strict=True
        ):
            column.append(values)
    if not columns[0]:
        raise RequestError(f"no document of {len(documents)} has {NEAREST + 2} tokens: there are no skip trigrams")
    return Queries(*(np.concatenate(column) for column in columns))


def earlier_tokens(documents: Sequence[np.ndarray], queries: Queries, window: int) -> Iterator[tuple[np.ndarray, ...]]:
    """For some queries at a time: their numbers, and the different tokens that stand ``NEAREST`` to ``window`` tokens before them."""
    order = np.argsort(queries.document, kind="stable")
    bounds = np.searchsorted(
        queries.document[order], np.arange(0, len(documents) + _DOCUMENTS_AT_ONCE, _DOCUMENTS_AT_ONCE)
    )
    distances = np.arange(NEAREST, window + 1)
    for first, last in itertools.pairwise(bounds):
        some = order[first:last]
        if not len(some):
            continue
        numbers = queries.document[some]
        inside = documents[numbers[0] : numbers[-1] + 1]
        flat = np.concatenate(list(inside))
        starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in inside])])[numbers - numbers[0]]
        places = queries.position[some][:, None] - distances
        tokens = np.where(places >= 0, flat[np.maximum(starts[:, None] + places, 0)], -1)
        tokens.sort(axis=1)
        new = np.ones_like(tokens, dtype=bool)
        new[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
        row, column = np.nonzero(new & (tokens >= 0))
        yield some[row], tokens[row, column]


def count_triples(
    documents: Sequence[np.ndarray],
    window: int,
    generator: np.random.Generator,
    least: int = 1,
    among: Triples | None = None,
) -> Counts:
    """All triples that occur in ``least`` documents, A standing ``NEAREST`` to ``window`` tokens before B; or those of ``among``, in its
    order, however often they occur.
    """
    queries = draw_queries(documents, generator)
    size = 1 + max(int(tokens.max()) for tokens in documents if len(tokens))
    if among is not None and len(among):
        size = max(size, int(among.max()) + 1)
    pairs, triples = _Tally(), _Tally()
    for query, earlier in earlier_tokens(documents, queries, window):
        pair = earlier.astype(np.int64) * size + queries.current[query]
        triple = pair * size + queries.following[query]
        if among is not None:
            wanted = (among[:, 0].astype(np.int64) * size + among[:, 1]) * size + among[:, 2]
            pair = pair[np.isin(pair, wanted // size)]
            triple = triple[np.isin(triple, wanted)]
        pairs.add(pair)
        triples.add(triple)
    follows = _Tally()
    follows.add(queries.current.astype(np.int64) * size + queries.following)
    n_b = np.bincount(queries.current, minlength=size)
    if among is None:
        keys, n_abc = triples.counted()
        keys, n_abc = keys[n_abc >= least], n_abc[n_abc >= least]
    else:
        keys = (among[:, 0].astype(np.int64) * size + among[:, 1]) * size + among[:, 2]
        n_abc = triples.of(keys)
    found = np.stack([keys // size // size, keys // size % size, keys % size], axis=1)
    return Counts(found, n_abc, pairs.of(keys // size), follows.of(keys % (size * size)), n_b[found[:, 1]])


class _Tally:
    """How often each number was added."""

    def __init__(self) -> None:
        self.keys, self.counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, numbers: np.ndarray) -> None:
        keys, counts = np.unique(numbers, return_counts=True)
        together, place = np.unique(np.concatenate([self.keys, keys]), return_inverse=True)
        total = np.zeros(len(together), np.int64)
        np.add.at(total, place, np.concatenate([self.counts, counts]))
        self.keys, self.counts = together, total

    def counted(self) -> tuple[np.ndarray, np.ndarray]:
        return self.keys, self.counts

    def of(self, numbers: np.ndarray) -> np.ndarray:
        if not len(self.keys):
            return np.zeros(len(numbers), np.int64)
        place = np.searchsorted(self.keys, numbers).clip(max=len(self.keys) - 1)
        return np.where(self.keys[place] == numbers, self.counts[place], 0)


def choose_candidates(counts: Counts, most: int, alike: int, p_below: float = 0.01) -> np.ndarray:
    """Which triples to test on other documents: the ``most`` with the smallest p, at most ``alike`` of them with the same A and B, the
    same A and C or the same B and C, and none above ``p_below``.
    """
    p = counts.p
    chosen: list[int] = []
    seen: dict[tuple[int, int, int], int] = {}
    for index in np.argsort(p, kind="stable"):
        if p[index] > p_below or len(chosen) == most:
            break
        a, b, c = (int(token) for token in counts.triples[index])
        pairs = [(0, a, b), (1, a, c), (2, b, c)]
        if all(seen.get(pair, 0) < alike for pair in pairs):
            chosen.append(int(index))
            for pair in pairs:
                seen[pair] = seen.get(pair, 0) + 1
    return np.array(chosen, dtype=np.int64)


def holm(p: np.ndarray) -> np.ndarray:
    """p corrected for their number: the probability of any false one (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    steps = (len(p) - np.arange(len(p))) * p[order]
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p) else steps
    return corrected
