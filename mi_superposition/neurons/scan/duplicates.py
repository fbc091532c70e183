"""Near-duplicates: documents that share many of their runs of five tokens.

Their Jaccard similarity is estimated by min-hashes. Source: Broder 1997, "On the resemblance and containment of documents".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Two documents are near-duplicates when the estimate of their similarity is at least this.
NEAR_DUPLICATE = 0.5
_RUN, MIN_HASHES = 5, 64
NO_SIGNATURES = np.zeros((0, MIN_HASHES), np.uint64)
_SALTS = np.random.default_rng(0).integers(0, 2**64, MIN_HASHES, dtype=np.uint64)


# Not datasketch's MinHash: tried, it is four times as slow, and its hashes, so the examples kept, changed with its version 2.
def min_hashes(tokens: list[int]) -> NDArray[np.uint64]:
    """The smallest of 64 random hashes over the document's runs of tokens."""
    numbers = np.array(tokens, np.uint64)
    run = min(_RUN, len(numbers))
    with np.errstate(over="ignore"):
        hashes = np.zeros(len(numbers) - run + 1, np.uint64)
        for offset in range(run):
            hashes = hashes * np.uint64(1_000_003) + numbers[offset : offset + len(hashes)] + np.uint64(1)
        hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (hashes[:, None] ^ _SALTS) * np.uint64(0x9E3779B97F4A7C15)
        return np.asarray((mixed ^ (mixed >> np.uint64(32))).min(axis=0))
