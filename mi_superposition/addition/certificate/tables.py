"""The tables of an addition model, each entry rounded once from its exact value.

The weights are binary fractions, so keys, queries and values are computed exactly, in whole numbers; only the exponential is not
rational, and it is taken with forty digits. See ``addition.lookup`` for the form, docs/certificate.md for its use.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.certificate.layout import Tables
from mi_superposition.addition.lookup import check_lookup_form
from mi_superposition.addition.problems import EQUALS_TOKEN, answer_places, places
from mi_superposition.errors import RequestError

# Exponents below this give weights that a float64 cannot hold.
_LEAST_EXPONENT = Decimal(-745)
_EXACT = Context(prec=40, Emin=-(10**6), Emax=10**6)
# A box has at most this many problems, which float64 must count one by one.
MOST_DIGITS = 7


class _Exact:
    """Whole numbers times a power of two: ``numbers * 2**-places``, entry by entry exact."""

    def __init__(self, numbers: NDArray[Any], places: int):
        self.numbers, self.places = numbers, places

    @classmethod
    def of(cls, tensor: Tensor) -> _Exact:
        ratios = [float(value).as_integer_ratio() for value in tensor.detach().double().flatten().tolist()]
        places = max((denominator.bit_length() - 1 for _, denominator in ratios), default=0)
        numbers = np.empty(len(ratios), dtype=object)
        numbers[:] = [numerator * (2**places // denominator) for numerator, denominator in ratios]
        return cls(numbers.reshape(tuple(tensor.shape)), places)

    def __add__(self, other: _Exact) -> _Exact:
        places = max(self.places, other.places)
        return _Exact(self.numbers * 2 ** (places - self.places) + other.numbers * 2 ** (places - other.places), places)

    def __matmul__(self, other: _Exact) -> _Exact:
        return _Exact(self.numbers.dot(other.numbers), self.places + other.places)

    def __getitem__(self, index: Any) -> _Exact:
        return _Exact(self.numbers[index], self.places)

    def rounded(self) -> NDArray[np.float64]:
        """The nearest float64 of each. Raises ``RequestError`` where there is none."""
        try:
            # Division of whole numbers is rounded correctly.
            return np.vectorize(lambda number: number / 2**self.places, otypes=[float])(self.numbers)
        except OverflowError as error:
            raise RequestError("the model's weights are so large that its logits are no float64 numbers") from error


def certificate_tables(model: HookedTransformer, n_digits: int, heads: Sequence[int] | None = None) -> list[Tables]:
    """Tables of every answer digit, ones first, for the model with only ``heads`` (default: all), the others' outputs being zero.

    Raises ``RequestError`` for a model that is no table (``check_lookup_form``), or has more digits than can be counted.
    """
    check_lookup_form(model, n_digits)
    if n_digits > MOST_DIGITS:
        raise RequestError(f"n_digits = {n_digits}: problems of at most {MOST_DIGITS} digits can be counted")
    cfg = model.cfg
    for name in ("attn_scores_soft_cap", "output_logits_soft_cap"):
        if getattr(cfg, name, -1.0) > 0:
            raise RequestError(f"{name} = {getattr(cfg, name)!r}: a model is a table only without")
    if not 10 <= cfg.d_vocab_out <= 60:
        raise RequestError(f"d_vocab_out = {cfg.d_vocab_out}: 10 to 60 answers can be told apart")
    kept = list(range(cfg.n_heads)) if heads is None else list(heads)
    attn = model.blocks[0].attn
    place = places(model, n_digits)
    operands, queries = place[: 2 * n_digits], answer_places(model, n_digits)
    equals = sorted(queries.tolist())

    def flat(weight: Tensor, bias: Tensor) -> tuple[_Exact, _Exact]:
        return _Exact.of(rearrange(weight[kept], "head model dim -> model (head dim)")), _Exact.of(bias[kept].flatten())

    embedded, positions = _Exact.of(model.W_E), _Exact.of(model.W_pos)
    # Keys: every operand position with every digit, then the '=' positions in the order of reading.
    rows = [positions[int(p)] + embedded[k] for p in operands for k in range(10)]
    equal_rows = [positions[p] + embedded[EQUALS_TOKEN] for p in equals]
    inputs = _stacked([*rows, *equal_rows])
    query_weight, query_bias = flat(attn.W_Q, attn.b_Q)
    key_weight, key_bias = flat(attn.W_K, attn.b_K)
    value_weight, value_bias = flat(attn.W_V, attn.b_V)
    keys = inputs @ key_weight + key_bias
    values = inputs @ value_weight + value_bias
    unembed = _Exact.of(model.W_U)
    n_heads, d_head, n_keys = len(kept), cfg.d_head, len(rows)
    logits = [
        (values[:, h * d_head : (h + 1) * d_head] @ (_Exact.of(attn.W_O[head]) @ unembed)).rounded()
        for h, head in enumerate(kept)
    ]
    # [key, class, head]
    value = np.stack(logits, axis=-1) if kept else np.zeros((inputs.numbers.shape[0], cfg.d_vocab_out, 0))
    found = []
    for query in queries.tolist():
        at = equals.index(query)
        seen = at + 1
        own = equal_rows[at]
        asked = _stacked([own]) @ query_weight + query_bias
        scores = np.empty((n_keys + seen, n_heads), dtype=object)
        for h in range(n_heads):
            part = slice(h * d_head, (h + 1) * d_head)
            product = keys[: n_keys + seen, part] @ asked[0, part]
            scores[:, h] = _weights(product, float(cfg.attn_scale))
        weight = scores.astype(np.float64)
        direct = _stacked([own + _Exact.of(attn.b_O)]) @ unembed + _Exact.of(model.b_U)
        found.append(_tables(weight, value[: n_keys + seen], direct.rounded()[0], n_digits))
    return found


def _stacked(rows: Sequence[_Exact]) -> _Exact:
    places = max(row.places for row in rows)
    return _Exact(np.stack([row.numbers * 2 ** (places - row.places) for row in rows]), places)


def _weights(scores: _Exact, scale: float) -> list[float]:
    """``exp((score - largest score) / scale)``, rounded to float64; zero where it is smaller than any float64."""
    largest = max(scores.numbers)
    divisor = _EXACT.multiply(_EXACT.power(Decimal(2), scores.places), Decimal(scale))
    exponents = [_EXACT.divide(Decimal(int(number - largest)), divisor) for number in scores.numbers]
    return [float(_EXACT.exp(exponent)) if exponent > _LEAST_EXPONENT else 0.0 for exponent in exponents]


def _tables(
    weight: NDArray[np.float64], value: NDArray[np.float64], base: NDArray[np.float64], n_digits: int
) -> Tables:
    n_keys = 20 * n_digits
    shape = (2 * n_digits, 10)
    operand_weight = np.ascontiguousarray(weight[:n_keys].reshape(*shape, -1))
    operand_value = np.ascontiguousarray(value[:n_keys].reshape(*shape, *value.shape[1:]))
    numerator = operand_weight[:, :, None] * operand_value
    quiet = operand_weight.argmin(axis=1)
    equals_value = np.ascontiguousarray(value[n_keys:])
    return Tables(
        weight=operand_weight,
        value=operand_value,
        numerator=numerator,
        weight_equals=weight[n_keys:].sum(axis=0),
        numerator_equals=(weight[n_keys:, None] * equals_value).sum(axis=0),
        value_equals=equals_value,
        base=base,
        largest=np.abs(value).max(axis=(0, 1)),
        weight_low=operand_weight.min(axis=1),
        weight_high=operand_weight.max(axis=1),
        weight_mean=operand_weight.mean(axis=1),
        numerator_mean=numerator.mean(axis=1),
        quiet=quiet,
        numerator_quiet=np.ascontiguousarray(np.take_along_axis(numerator, quiet[:, None, None], axis=1)[:, 0]),
    )


def table_logits(operands: torch.Tensor, tables: Tables) -> NDArray[np.float64]:
    """Logits ``[problem, class]`` of one answer digit in float64, from digits ``[problem, position]``.

    Not a number where all weights of a head are too small for a float64; the bounds do not use this function.
    """
    digits = operands.numpy()
    denominator = np.repeat(tables.weight_equals[None], len(digits), axis=0)
    numerator = np.repeat(tables.numerator_equals[None], len(digits), axis=0)
    for p in range(digits.shape[1]):
        denominator += tables.weight[p, digits[:, p]]
        numerator += tables.numerator[p, digits[:, p]]
    with np.errstate(divide="ignore", invalid="ignore"):
        return tables.base + (numerator / denominator[:, None]).sum(axis=-1)
