"""Lists of numbers as letters, which ``assets/packing.js`` reads."""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

_ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
# A number is two letters, a step between the smallest and the largest; the last is for unknown ones.
_STEPS = 64 * 64 - 2
_UNKNOWN = 64 * 64 - 1


def packed_values(values: Float[NDArray[np.floating], " value"], low: float, high: float) -> str:
    """Numbers in two letters each, as steps between ``low`` and ``high``; NaN for unknown ones."""
    scale = _STEPS / ((high - low) or 1.0)
    with np.errstate(invalid="ignore"):
        steps = np.where(np.isnan(values), _UNKNOWN, np.rint((values - low) * scale).clip(0, _STEPS))
    steps = steps.astype(np.int64)
    return np.stack((_ALPHABET[steps // 64], _ALPHABET[steps % 64]), axis=1).tobytes().decode("ascii")


@functools.lru_cache(maxsize=2**16)
def packed_length(token: str) -> str:
    """The length of a token in characters: one letter, or ~ and two for a long one."""
    length = len(token)
    long = "" if length < 64 else f"~{chr(_ALPHABET[length // 64])}"
    return long + chr(_ALPHABET[length % 64])
