"""An addition model made by hand: one attention layer can add exactly.

The answer digit at place q is floor(F_q) mod 10, where F_q = sum_{k <= q} s_k 10^(k - q) of the column sums s_k holds all
carries. Three heads for each answer digit are enough, and one for the last.

*Heads.* A head's weight is a product of a factor of the position and one of the digit. With 10^(k - q) for the columns
k <= q and nothing elsewhere, and U the sum of these factors over both numbers: even weights over digits and values x give
z = F / U. Weights x + c with values 1 / (x + c) give z = U / (F + c U); weights c - x with values 1 / (c - x), c > 9, give
z = U / (c U - F). So a head gives any 1 / (F + alpha) whose pole lies outside of what F can be, exactly.

*Logits.* Let g(y) = y (y - 5) (y - 10) and L_t(F) = sum_{j = 1}^{t} g(F - j). For s < t, with N = t - s and
c = F - 5 - (s + t + 1) / 2,

    L_t - L_s = N c (c^2 - (101 - N^2) / 4).

For F in (n, n + 1), n = t or t + 10, each of these has the sign that makes L_t the largest of the ten: with N from 1 to 9,
(N - 1) (N - 10) <= 0 and (N - 1) (N + 10) >= 0 place c between the roots that matter. At whole F two are equal, so F is
taken half of its smallest step higher. A common positive factor changes no order: L_t / ((F + alpha) (omega - F)) is a
sum of 1, F, 1 / (F + alpha) and 1 / (omega - F), by partial fractions.

In double precision margins are far above rounding; float32 cannot hold the last of them. Ours.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.polynomial import Polynomial
from transformer_lens import HookedTransformer

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.problems import D_VOCAB, D_VOCAB_OUT, EQUALS_TOKEN, check_n_digits, n_positions
from mi_superposition.errors import RequestError
from mi_superposition.models import build_attention_only_model

# A key that is not attended to has a score lower by so much: a weight of 1e-87.
_NOWHERE = 200.0
# Constants of the two rational heads: weights x + 1 and 10 - x.
_BELOW, _ABOVE = 1.0, 10.0


def exact_adder(
    n_digits: int = AdditionConfig.n_digits,
    n_heads: int = AdditionConfig.n_heads,
    d_head: int = AdditionConfig.d_head,
    d_model: int = AdditionConfig.d_model,
) -> HookedTransformer:
    """A model in double precision that adds every pair of numbers of ``n_digits`` digits right.

    Raises ``RequestError`` where there are fewer than ``3 n_digits + 1`` heads, two dimensions a head, or one dimension of the
    residual stream for each symbol, position and logit.
    """
    check_n_digits(n_digits)
    wanted = {"n_heads": 3 * n_digits + 1, "d_head": 2, "d_model": D_VOCAB + n_positions(n_digits) + D_VOCAB_OUT}
    given = {"n_heads": n_heads, "d_head": d_head, "d_model": d_model}
    for name, least in wanted.items():
        if given[name] < least:
            raise RequestError(f"{name} = {given[name]}: the construction for {n_digits} digits needs {least} or more")
    model = build_attention_only_model(
        n_layers=1, **given, n_ctx=n_positions(n_digits), d_vocab=D_VOCAB, d_vocab_out=D_VOCAB_OUT, seed=0
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        # A dimension for each symbol, each position, each logit.
        stream = torch.eye(d_model, dtype=torch.double)
        model.embed.W_E.copy_(stream[:D_VOCAB])
        model.pos_embed.W_pos.copy_(stream[D_VOCAB : D_VOCAB + n_positions(n_digits)])
        model.unembed.W_U[-D_VOCAB_OUT:] = torch.eye(D_VOCAB_OUT, dtype=torch.double)
        head = 0
        for place in range(n_digits + 1):
            for sign, coefficients in _logits(model, place, n_digits):
                _set_head(model, head, place, n_digits, sign)
                model.blocks[0].attn.W_O[head, 0, -D_VOCAB_OUT:] = torch.from_numpy(coefficients)
                head += 1
    return model


def _total(place: int, n_digits: int) -> float:
    """U: the sum of the factors of all positions."""
    return 2 * sum(10.0 ** (column - place) for column in range(min(place + 1, n_digits)))


def _logits(model: HookedTransformer, place: int, n_digits: int) -> list[tuple[int, np.ndarray]]:
    """Which heads (0: linear, 1: pole below, -1: pole above) an answer digit has and what each adds to the ten logits.

    Sets the constant part, which is no head's.
    """
    constant, total = np.zeros(D_VOCAB_OUT), _total(place, n_digits)
    half = 0.5 * 10.0**-place
    if place == n_digits:
        # The last digit is 0 or 1: the logit of 1 is F - 1.
        constant[1], constant[2:] = half - 1, -10.0
        heads = [(0, total * np.eye(D_VOCAB_OUT)[1])]
    else:
        alpha, omega = _BELOW * total, _ABOVE * total
        positive = Polynomial([alpha, 1]) * Polynomial([omega, -1])
        logit, logits = Polynomial([0.0]), []
        for digit in range(D_VOCAB_OUT):
            if digit:
                shifted = Polynomial([half - digit, 1])
                logit = logit + shifted * (shifted - 5) * (shifted - 10)
            logits.append(logit)
        mean = sum(logits, Polynomial([0.0])) / D_VOCAB_OUT
        linear, below, above = (np.zeros(D_VOCAB_OUT) for _ in range(3))
        for digit, polynomial in enumerate(logits):
            numerator = polynomial - mean
            whole = (numerator // positive).convert()
            constant[digit] = whole.coef[0]
            linear[digit] = whole.coef[1] if len(whole.coef) > 1 else 0.0
            below[digit] = numerator(-alpha) / (omega + alpha)
            above[digit] = numerator(omega) / (omega + alpha)
        heads = [(0, total * linear), (1, below / total), (-1, above / total)]
    model.pos_embed.W_pos[2 * n_digits + place, -D_VOCAB_OUT:] = torch.from_numpy(constant)
    return heads


def _set_head(model: HookedTransformer, head: int, place: int, n_digits: int, sign: int) -> None:
    """A head that reads the columns up to ``place`` from its answer position, and at all others sees ``=``, whose value is zero.

    The first dimension of its keys holds the scores for its own query, the second those for the others.
    """
    attn, digits = model.blocks[0].attn, torch.arange(10, dtype=torch.double)
    query, key, value = (weight[head] for weight in (attn.W_Q, attn.W_K, attn.W_V))
    query[EQUALS_TOKEN, 1] = query[D_VOCAB + 2 * n_digits + place, 0] = math.sqrt(model.cfg.d_head)
    query[D_VOCAB + 2 * n_digits + place, 1] = -math.sqrt(model.cfg.d_head)
    last = min(place, n_digits - 1)
    for column in range(n_digits):
        score = (column - last) * math.log(10) if column <= last else -_NOWHERE
        key[D_VOCAB + column, 0] = key[D_VOCAB + n_digits + column, 0] = score
    key[EQUALS_TOKEN, 0], key[EQUALS_TOKEN, 1] = -_NOWHERE, _NOWHERE
    if sign == 0:
        value[:10, 0] = digits
        return
    weight = digits + _BELOW if sign > 0 else _ABOVE - digits
    key[:10, 0], value[:10, 0] = weight.log(), 1 / weight
