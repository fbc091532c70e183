"""Attentional features: skip trigrams that one half of the documents proposes, the other half confirms, and the model shows too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import false_discovery_control, t
from torch import Tensor

from mi_superposition.errors import RequestError
from mi_superposition.heads.trigrams.config import Correction, TrigramsConfig
from mi_superposition.heads.trigrams.counting import NEAREST, Counts, choose_candidates, count_triples, holm
from mi_superposition.heads.trigrams.matching import MatchedTokens, token_class
from mi_superposition.heads.trigrams.occurrences import Occurrence, OccurrenceIndex
from mi_superposition.training import derived_seed

# A triple in fewer documents of the first half is not proposed: it could hardly be confirmed.
_LEAST = 6


@dataclass(frozen=True)
class TextTrigrams:
    """Skip trigrams that the text has, the clearest of the first half first, with the ``counts`` of the second. ``n_tried`` were tested."""

    counts: Counts
    n_tried: int


@dataclass(frozen=True)
class Located:
    """A skip trigram with occurrences in two sets of documents that share none: to test it, and to measure its heads."""

    trigram: tuple[int, int, int]
    difference: float
    testing: list[Occurrence]
    measuring: list[Occurrence]


class TrigramSearch:
    """The documents, halved at random, and what is found in them."""

    def __init__(self, documents: Sequence[np.ndarray], texts: Sequence[str], config: TrigramsConfig):
        shortest = NEAREST + 2
        if sum(len(tokens) >= shortest for tokens in documents) < 4:
            raise RequestError(
                f"{len(documents)} documents, {sum(len(tokens) >= shortest for tokens in documents)} of {shortest} or more tokens: skip trigrams "
                "are found in one half and tested in the other; give 4 or more of that length"
            )
        self.config = config
        order = self.generator("halves").permutation(len(documents))
        self.first = [documents[number] for number in np.sort(order[::2])]
        self.second = [documents[number] for number in np.sort(order[1::2])]
        counts = np.bincount(np.concatenate(self.first), minlength=len(texts))
        self.matched = MatchedTokens(counts, [token_class(text) for text in texts])
        self.index = OccurrenceIndex(self.second)
        self._proposed: Counts | None = None

    def generator(self, purpose: str, index: int = 0) -> np.random.Generator:
        """Randomness of its own for each purpose."""
        return np.random.default_rng(derived_seed(self.config.random.seed, purpose, index))

    @property
    def proposed(self) -> Counts:
        """All triples of the first half."""
        if self._proposed is None:
            self._proposed = count_triples(self.first, self.config.window, self.generator("first half"), least=2)
        return self._proposed

    def in_text(self) -> TextTrigrams:
        """The triples that the first half proposes and the second confirms."""
        often = self.proposed.of(self.proposed.n_abc >= _LEAST)
        candidates = often.triples[choose_candidates(often, self.config.tried, self.config.alike)]
        counts = count_triples(self.second, self.config.window, self.generator("second half"), among=candidates)
        survive = corrected(counts.p, self.config.correction) < self.config.level
        return TextTrigrams(counts.of(survive), len(candidates))

    def triggers(self, b: int, c: int) -> np.ndarray:
        """Tokens that go with C after B in the first half, too weakly to be proposed perhaps: no replacement for A."""
        here = self.proposed.of((self.proposed.triples[:, 1] == b) & (self.proposed.triples[:, 2] == c))
        return here.triples[:, 0][(here.difference > 0) & (here.p < 0.05)]

    def pool(self, trigram: tuple[int, int, int]) -> np.ndarray:
        """What may stand in for A: tokens of its class, about as frequent, that do not go with C after B."""
        a, b, c = trigram
        return self.matched.pool(a, [b, c, *self.triggers(b, c)])

    def located(self, trigram: tuple[int, int, int], difference: float, purpose: str, number: int) -> Located | None:
        """The trigram's occurrences in the second half; ``None`` where there are too few."""
        a, b, _ = trigram
        n = self.config.occurrences
        found = self.index.occurrences(a, b, self.config.window, self.generator(purpose, number), 2 * n)
        if len(found) < n:
            return None
        return Located(trigram, difference, found[::2], found[1::2])

    def random_trigram(
        self, trigram: tuple[int, int, int], taken: set[tuple[int, int, int]], number: int
    ) -> Located | None:
        """The same with A replaced by a matched token, as a control; ``None`` where no other token stands before B often enough."""
        for a in self.generator("random trigrams", number).permutation(self.pool(trigram)):
            other = (int(a), *trigram[1:])
            if other not in taken:
                located = self.located(other, 0.0, "random occurrences", number)
                if located is not None:
                    return located
        return None


def corrected(p: np.ndarray, correction: Correction) -> np.ndarray:
    """p corrected for their number."""
    if not len(p):
        return p
    return holm(p) if correction == "holm" else false_discovery_control(p)


def p_above_zero(effects: Float[Tensor, " document"]) -> float:
    """One-sided p of Student's t-test that the mean over documents is above zero; 1 where nothing varies or fewer than two are there."""
    n = len(effects)
    deviation = float(effects.double().std()) if n > 1 else 0.0
    if n < 2 or deviation == 0:
        return 1.0
    return float(t.sf(float(effects.double().mean()) / (deviation / n**0.5), n - 1))


def standard_error(values: Float[Tensor, document * rest]) -> Float[Tensor, "*rest"]:
    """Standard error of the mean over documents; not a number for one document."""
    if len(values) < 2:
        return torch.full(values.shape[1:], float("nan"))
    return values.std(dim=0) / len(values) ** 0.5
