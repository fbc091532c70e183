"""Tokens like a given one: of the same class and about as frequent. What a token is replaced by, and what random trigrams are made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Tokens of the same class nearest in frequency, from which a replacement is drawn.
POOL = 16


def token_class(text: str) -> str:
    """Where in a text a token can stand: a word's first or a later piece, with or without a capital; digits; anything else."""
    bare = text.strip()
    if not bare:
        return "space"
    if bare.isdigit():
        return "digits"
    if not bare[0].isalpha():
        return "other"
    place = "start" if text[0].isspace() else "piece"
    return f"{place}, {'capital' if bare[0].isupper() else 'small'}"


@dataclass(frozen=True)
class MatchedTokens:
    """What each token may be replaced by. ``counts``: how often each token occurs; ``classes``: its class."""

    counts: np.ndarray
    classes: Sequence[str]

    def pool(self, token: int, excluded: Collection[int] = ()) -> np.ndarray:
        """The ``POOL`` tokens of the token's class whose frequency is nearest in ratio, without itself and those excluded; fewer if there
        are no more.
        """
        known = self._by_class[self.classes[token]]
        distance = np.abs(np.log(self.counts[known]) - np.log(max(self.counts[token], 1)))
        allowed = ~np.isin(known, [token, *excluded])
        known, distance = known[allowed], distance[allowed]
        return known[np.argsort(distance, kind="stable")[:POOL]]

    @cached_property
    def _by_class(self) -> dict[str, np.ndarray]:
        classes, seen = np.array(self.classes), self.counts > 0
        return {name: np.flatnonzero(seen & (classes == name)) for name in dict.fromkeys(self.classes)}
