"""The end of a step, compiled: gradients of the weights, and AdamW."""

from __future__ import annotations

import numpy as np

from mi_superposition.addition.fused.arithmetic import (
    SUMS_IN_ANY_ORDER,
    add_product,
    add_product_transposed,
    add_transposed_product,
)
from mi_superposition.addition.problems import D_VOCAB, EQUALS_TOKEN
from mi_superposition.neurons.compiled import compiled

_ZERO = np.float32(0)


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _weighted(parts, weight):
    """The sum of the queries' parts, weighted: ``[row, d_head * head]``."""
    flat = parts.reshape(parts.shape[0], parts.shape[1], -1)
    total = np.zeros(flat.shape[1:], np.float32)
    for q in range(flat.shape[0]):
        for row in range(flat.shape[1]):
            for c in range(flat.shape[2]):
                total[row, c] += weight[q] * flat[q, row, c]
    return total


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def finish(weights, scale, shared, parts, digit_focus, n_problems, grad):
    """Weight the answer digits, add to ``grad``, which is zero, the gradients of ``weights``, and return the loss.

    ``L = sum_q w_q L_q / sum_q w_q`` with ``L_q`` the mean loss of digit q and ``w_q = L_q^digit_focus``, through which no
    gradient goes. ``scale`` is what queries were divided by.
    """
    n_queries, width = len(shared.queries), weights.query.shape[1]
    by_digit = parts.loss / n_problems
    share = by_digit**digit_focus
    share /= share.sum()
    own = (share / n_problems).astype(np.float32)
    keys, values = _weighted(parts.keys, own), _weighted(parts.values, own)
    to_logits, queries, direct = (
        _weighted(parts.to_logits, own),
        np.empty((n_queries, width), np.float32),
        np.empty_like(shared.direct),
    )
    for q in range(n_queries):
        queries[q] = own[q] / scale * parts.queries[q].reshape(-1)
        direct[q] = own[q] * parts.direct[q]
    add_transposed_product(shared.at_queries, queries, grad.query)
    add_transposed_product(weights.inputs, keys, grad.key)
    add_transposed_product(weights.inputs, values, grad.value)
    add_product_transposed(keys, weights.key, grad.inputs)
    add_product_transposed(values, weights.value, grad.inputs)
    add_transposed_product(to_logits, weights.unembed, grad.out)
    add_product(to_logits, weights.out, grad.unembed)
    add_transposed_product(direct, shared.at_queries + weights.out_bias, grad.unembed)
    stream = np.zeros_like(shared.at_queries)
    add_product(direct, weights.unembed, stream)
    for row in range(D_VOCAB, len(values)):
        grad.value_bias[:] += values[row]
    for q in range(n_queries):
        grad.query_bias[:] += queries[q]
        grad.unembed_bias[:] += direct[q]
        grad.out_bias[:] += stream[q]
    add_product_transposed(queries, weights.query, stream)
    for q in range(n_queries):
        grad.inputs[EQUALS_TOKEN] += stream[q]
        grad.inputs[len(keys) - n_queries + q] += stream[q]
    return (share * by_digit).sum()


@compiled(error_model="numpy", fastmath={"contract"})
def adamw(weight, grad, mean, square, beta1, beta2, rate, decay, eps, done):
    """One update of AdamW (Loshchilov and Hutter 2019) in torch's order of operations; ``done`` counts it."""
    one = np.float64(1)
    kept = np.float32(one - rate * decay)
    new1, old2, new2 = np.float32(one - beta1), np.float32(beta2), np.float32(one - beta2)
    step = np.float32(rate / (one - beta1**done))
    inverse, small = np.float32(one / np.sqrt(one - beta2**done)), np.float32(eps)
    for j in range(len(weight)):
        g = grad[j]
        mean[j] += (g - mean[j]) * new1
        square[j] = square[j] * old2 + g * g * new2
        weight[j] = weight[j] * kept - step * mean[j] / (np.sqrt(square[j]) * inverse + small)
