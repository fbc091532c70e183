"""Lists of numbers as letters, and data packed into a script, which ``assets/packing.js`` reads."""

from __future__ import annotations

import base64
import functools
import json
import zlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

_ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
# A number is two letters, a step between the smallest and the largest; the last is for unknown ones.
_STEPS = 64 * 64 - 2
_UNKNOWN = 64 * 64 - 1
# Of deflate: the next levels take half as long again for 3 % less.
_LEVEL = 4


def packed_values(values: Float[NDArray[np.floating], " value"], low: float, high: float, *, coarser: int = 1) -> str:
    """Numbers in two letters each, as one of 4,094 steps between ``low`` and ``high``; NaN for unknown ones. ``coarser``: the number of
    steps taken as one, which says less and can be packed smaller.
    """
    scale = _STEPS / ((high - low) or 1.0)
    with np.errstate(invalid="ignore"):
        steps = np.rint((values - low) * (scale / coarser)) * coarser
        steps = np.where(np.isnan(values), _UNKNOWN, steps.clip(0, _STEPS))
    return packed_numbers(steps.astype(np.int64), 2)


def packed_numbers(numbers: Int[NDArray[np.integer], " number"], letters: int) -> str:
    """Whole numbers from 0 in so many letters each."""
    digits = [_ALPHABET[numbers // 64**place % 64] for place in reversed(range(letters))]
    return np.stack(digits, axis=1).tobytes().decode("ascii")


def packed_script(function: str, value: Any) -> str:
    """A script that calls a function with what ``unpacked`` makes ``value`` of: its JSON, deflated, in letters."""
    content = json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()
    return f'{function}("{base64.b64encode(zlib.compress(content, _LEVEL)).decode()}");\n'


@functools.lru_cache(maxsize=2**16)
def packed_length(token: str) -> str:
    """The length of a token in characters: one letter, or ~ and two for a long one."""
    length = len(token)
    long = "" if length < 64 else f"~{chr(_ALPHABET[length // 64])}"
    return long + chr(_ALPHABET[length % 64])
