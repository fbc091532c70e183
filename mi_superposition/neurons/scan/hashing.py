"""Random numbers by hashing: the same for a token or a unit wherever and whenever it is read."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def salts(seed: int, hook: str, n: int) -> NDArray[np.uint64]:
    """A random number for each of the ``n`` units of a hook."""
    start = np.frombuffer(hashlib.sha256(f"{seed}|{hook}".encode()).digest()[:8], np.uint64)[0]
    with np.errstate(over="ignore"):
        return mixed(start + np.arange(n, dtype=np.uint64))


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random-looking bits for each number. Source: Steele, Lea & Flood 2014, SplitMix64."""
    with np.errstate(over="ignore"):
        bits = numbers + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))
