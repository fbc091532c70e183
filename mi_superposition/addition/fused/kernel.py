"""The arithmetic of one training step, compiled.

Notation as in ``lookup.py``: positions p, symbols x (digits, and 10 for ``=``), queries q, heads h, head dimensions i. The
table has a row for each (p, x) and then one for each ``=`` position; its columns are (q, 0, h), the weight w, and
(q, 1 + i, h), the weight times the value.

*Forward.* Keys and values are linear in W_E[x] + W_pos[p], so they are made for 31 inputs (six digits) and not for 127
pairs, and the score of a pair is the sum of two scores. A problem's sums are the rows of its digits added up: nothing is
multiplied by zero. Then z = n / d, the logits, and their softmax P.

*Backward.* With g = P - (1 at the right digit), dL/dz = g M^T for the matrix M from heads to logits, dn = dL/dz / d,
dd = -sum_i dn_i z_i, added to the rows of the problem's digits. What is left happens once a step and not for each
problem. For the table T and its gradient G, as T_0 = w = exp(s + constant) and T_i = w v_i,

    dL/ds = w (G_0 + sum_i G_i v_i) = sum_c G_c T_c,        dL/dv_i = sum_q w G_i,

and the gradients of scores and values go back through linear maps. Every problem has one digit at the first position, so
the ten rows there sum to the gradient of the constant rows. b_K adds the same to all scores of a query: it is left out,
and its gradient is zero.

*Query by query.* Each column of the table, and each row of logits, belongs to one query. So queries are run one after the
other: the columns of one stay in the cache, and threads that share out queries have nothing to add up, whose order could
change the result.

*The weights of answer digits* (``digit_focus``) depend on the losses of the whole batch. Gradients of unweighted losses are
summed, by query, and weighted at the end: one pass over the problems and nothing kept of them.
"""

from __future__ import annotations

import math

import numpy as np

from mi_superposition.addition.fused.arithmetic import (
    ONE,
    SUMS_IN_ANY_ORDER,
    ZERO,
    add_product,
    add_product_transposed,
    add_transposed_product,
    exponential,
)
from mi_superposition.addition.lookup import LEAST_DENOMINATOR
from mi_superposition.addition.problems import D_VOCAB, D_VOCAB_OUT, EQUALS_TOKEN
from mi_superposition.neurons.compiled import compiled

# Weights are scaled so that the largest of each head and query is 2^58, as in `lookup.py`, where it says why a denominator
# must then stay above exp(-70). A query with a wider spread gets double precision, whose exponents reach further.
_TOP_POWER, _NARROW = 58, np.float32(LEAST_DENOMINATOR - 58 * math.log(2))
_WIDE_TOP, _WIDE_LEAST, _WIDE = 600.0, -700.0, np.float32(-1200.0)
# Problems taken at a time: what is kept of them stays in the nearest cache.
_BLOCK = 32


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def prepare(weights, scale, shared):
    """Fill ``shared``. ``scale`` is what queries are divided by."""
    n_queries = len(shared.queries)
    first = len(weights.inputs) - n_queries
    queries, keys = shared.queries.reshape(n_queries, -1), shared.keys.reshape(len(weights.inputs), -1)
    values, to_logits = shared.values.reshape(len(weights.inputs), -1), shared.to_logits.reshape(D_VOCAB_OUT, -1)
    keys[:] = ZERO
    # Every key has one position, and so the bias once.
    values[:D_VOCAB] = ZERO
    values[D_VOCAB:] = weights.value_bias
    to_logits[:] = ZERO
    for q in range(n_queries):
        shared.at_queries[q] = weights.inputs[EQUALS_TOKEN] + weights.inputs[first + q]
        queries[q] = weights.query_bias
        shared.direct[q] = weights.unembed_bias
    add_product(shared.at_queries, weights.query, queries)
    queries /= scale
    add_product(weights.inputs, weights.key, keys)
    add_product(weights.inputs, weights.value, values)
    add_product_transposed(weights.unembed, weights.out, to_logits)
    add_product_transposed(shared.at_queries + weights.out_bias, weights.unembed, shared.direct)


@compiled(error_model="numpy")
def run_queries(operands, first, every, shared, parts):
    """Forward and backward of the answer digits ``first``, ``first + every``, ...: fill their ``parts``."""
    n_inputs, _, n_heads = shared.keys.shape
    scores, exponents = np.empty((n_inputs, n_heads), np.float32), np.empty((9 * n_inputs, n_heads), np.float32)
    for q in range(first, len(shared.queries), every):
        n_rows = 10 * operands.shape[1] + q + 1
        least = _fill_exponents(q, shared, scores, exponents)
        parts.too_wide[q] = least <= _WIDE
        if least <= _NARROW and not parts.too_wide[q]:
            weights = np.exp(exponents[:n_rows].astype(np.float64) + _WIDE_TOP)
            for row in range(n_rows):
                for h in range(n_heads):
                    if exponents[row, h] < _WIDE_LEAST - _WIDE_TOP:
                        weights[row, h] = 0.0
            _run_query(q, operands, shared, weights, scores, parts)
        elif not parts.too_wide[q]:
            exponential(exponents[:n_rows], _TOP_POWER)
            _run_query(q, operands, shared, exponents[:n_rows], scores, parts)


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _fill_exponents(q, shared, scores, exponents):
    """Scores of a query's rows less the largest of each head; the least that the largest of some problem's may be (NaN is not seen).

    Whatever the problem, it has the ``=`` rows and, at each position, at least the least of ten.
    """
    queries, keys = shared.queries, shared.keys
    n_inputs, d_head, n_heads = keys.shape
    scores[:] = ZERO
    for row in range(n_inputs):
        for i in range(d_head):
            for h in range(n_heads):
                scores[row, h] += queries[q, i, h] * keys[row, i, h]
    n_operands = n_inputs - D_VOCAB - len(queries)
    first_equals, most, least = D_VOCAB + n_operands, np.empty(n_heads, np.float32), ZERO
    for h in range(n_heads):
        smallest = largest = scores[0, h]
        for x in range(1, 10):
            smallest, largest = min(smallest, scores[x, h]), max(largest, scores[x, h])
        highest = scores[D_VOCAB, h]
        for p in range(D_VOCAB + 1, first_equals):
            highest = max(highest, scores[p, h])
        highest_equals = scores[first_equals, h]
        for p in range(first_equals + 1, first_equals + q + 1):
            highest_equals = max(highest_equals, scores[p, h])
        highest_equals += scores[EQUALS_TOKEN, h]
        most[h] = max(highest + largest, highest_equals)
        least = min(least, max(highest + smallest, highest_equals) - most[h])
    for p in range(n_operands):
        for x in range(10):
            for h in range(n_heads):
                # Rounding must not take one above zero.
                exponents[10 * p + x, h] = min(scores[D_VOCAB + p, h] + scores[x, h] - most[h], ZERO)
    for k in range(q + 1):
        for h in range(n_heads):
            exponent = scores[first_equals + k, h] + scores[EQUALS_TOKEN, h] - most[h]
            exponents[10 * n_operands + k, h] = min(exponent, ZERO)
    return least


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _run_query(q, operands, shared, weights, scores, parts):
    """Forward and backward of one answer digit, in the precision of ``weights`` as far as these come in."""
    n_problems, n_operands = operands.shape
    _, d_head, n_heads = shared.queries.shape
    n_columns, width, precision = (1 + d_head) * n_heads, d_head * n_heads, weights.dtype
    rows, constant = np.empty((len(weights), 1 + d_head, n_heads), precision), np.zeros((1, n_columns), precision)
    grad_rows = np.zeros_like(rows)
    flat_rows, flat_grad = rows.reshape(-1, n_columns), grad_rows.reshape(-1, n_columns)
    to_logits, grad_to_logits = shared.to_logits.reshape(-1, width), parts.to_logits[q].reshape(-1, width)
    grad_to_logits[:] = ZERO
    parts.direct[q] = ZERO
    parts.loss[q] = 0.0
    for p in range(n_operands):
        for x in range(10):
            _fill_row(weights, shared.values, D_VOCAB + p, x, 10 * p + x, rows)
    for row in range(10 * n_operands, len(rows)):
        _fill_row(weights, shared.values, D_VOCAB + row - 9 * n_operands, EQUALS_TOKEN, row, rows)
        constant[0] += flat_rows[row]
    for start in range(0, n_problems, _BLOCK):
        n = min(_BLOCK, n_problems - start)
        chosen, right = np.empty((n, n_operands), np.int64), np.empty(n, np.int64)
        sums, inverse = np.empty((n, 1 + d_head, n_heads), precision), np.empty((n, n_heads), precision)
        z, grad_z = np.empty((n, d_head, n_heads), np.float32), np.zeros((n, d_head, n_heads), np.float32)
        flat_sums, flat_z, logits = sums.reshape(n, -1), z.reshape(n, -1), np.empty((n, D_VOCAB_OUT), np.float32)
        _read(operands, start, q, chosen, right)
        gather(flat_rows, constant, chosen, flat_sums)
        _divide(sums, inverse, z)
        logits[:] = shared.direct[q]
        add_product_transposed(flat_z, to_logits, logits)
        parts.loss[q] += _loss(logits, right)
        for problem in range(n):
            for digit in range(D_VOCAB_OUT):
                parts.direct[q, digit] += logits[problem, digit]
        add_product(logits, to_logits, grad_z.reshape(n, -1))
        add_transposed_product(logits, flat_z, grad_to_logits)
        _undivide(grad_z, inverse, z, sums)
        scatter(flat_sums, chosen, flat_grad)
    _through_rows(q, shared, n_operands, rows, grad_rows, scores, parts)


@compiled(error_model="numpy", fastmath={"contract"})
def _fill_row(weights, values, position, symbol, row, rows):
    """The weights, then weights times values."""
    for h in range(weights.shape[1]):
        rows[row, 0, h] = weights[row, h]
    for i in range(values.shape[1]):
        for h in range(weights.shape[1]):
            rows[row, 1 + i, h] = weights[row, h] * (values[position, i, h] + values[symbol, i, h])


@compiled(error_model="numpy")
def _read(operands, start, q, chosen, right):
    """The rows of the table that problems choose, and one digit of their sums."""
    n_operands = operands.shape[1]
    n_digits = n_operands // 2
    for problem in range(len(chosen)):
        for p in range(n_operands):
            chosen[problem, p] = 10 * p + operands[start + problem, p]
        total = 0
        for column in range(min(q + 1, n_digits)):
            carry = 1 if total > 9 else 0
            total = operands[start + problem, column] + operands[start + problem, n_digits + column] + carry
        if q == n_digits:
            total = 1 if total > 9 else 0
        right[problem] = total % 10


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def gather(rows, constant, chosen, sums):
    """Each problem's rows added up, four at a time. There is an even number of them."""
    n = chosen.shape[1]
    for problem in range(len(chosen)):
        a, b = chosen[problem, 0], chosen[problem, 1]
        for c in range(sums.shape[1]):
            sums[problem, c] = constant[0, c] + (rows[a, c] + rows[b, c])
        for p in range(2, n - 2, 4):
            a, b, d, e = chosen[problem, p], chosen[problem, p + 1], chosen[problem, p + 2], chosen[problem, p + 3]
            for c in range(sums.shape[1]):
                sums[problem, c] += (rows[a, c] + rows[b, c]) + (rows[d, c] + rows[e, c])
        if n % 4 == 0:
            a, b = chosen[problem, n - 2], chosen[problem, n - 1]
            for c in range(sums.shape[1]):
                sums[problem, c] += rows[a, c] + rows[b, c]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def scatter(grad_sums, chosen, grad_rows):
    """Each problem's gradient, added to its rows, two at a time."""
    for problem in range(len(chosen)):
        for p in range(0, chosen.shape[1], 2):
            a, b = chosen[problem, p], chosen[problem, p + 1]
            for c in range(grad_sums.shape[1]):
                grad_rows[a, c] += grad_sums[problem, c]
                grad_rows[b, c] += grad_sums[problem, c]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _divide(sums, inverse, z):
    """z = n / d, and 1 / d."""
    n_problems, d_head, n_heads = z.shape
    for problem in range(n_problems):
        for h in range(n_heads):
            inverse[problem, h] = ONE / sums[problem, 0, h]
        for i in range(d_head):
            for h in range(n_heads):
                z[problem, i, h] = sums[problem, 1 + i, h] * inverse[problem, h]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _undivide(grad_z, inverse, z, grad_sums):
    """From the gradient of z = n / d to those of d and n."""
    n_problems, d_head, n_heads = z.shape
    for problem in range(n_problems):
        for h in range(n_heads):
            grad_sums[problem, 0, h] = ZERO
        for i in range(d_head):
            for h in range(n_heads):
                gradient = grad_z[problem, i, h] * inverse[problem, h]
                grad_sums[problem, 1 + i, h] = gradient
                grad_sums[problem, 0, h] -= gradient * z[problem, i, h]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _loss(logits, right):
    """Cross-entropy, summed over problems; its gradient takes the place of the logits."""
    loss = 0.0
    for problem in range(len(logits)):
        most = logits[problem, 0]
        for digit in range(1, D_VOCAB_OUT):
            most = max(most, logits[problem, digit])
        for digit in range(D_VOCAB_OUT):
            logits[problem, digit] -= most
        loss -= logits[problem, right[problem]]
    exponential(logits.reshape(1, -1), 0)
    for problem in range(len(logits)):
        total = ZERO
        for digit in range(D_VOCAB_OUT):
            total += logits[problem, digit]
        loss += np.log(total)
        inverse = ONE / total
        for digit in range(D_VOCAB_OUT):
            logits[problem, digit] *= inverse
        logits[problem, right[problem]] -= ONE
    return loss


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _through_rows(q, shared, n_operands, rows, grad_rows, scores, parts):
    """From the gradient of one query's columns of the table to those of its query, keys and values."""
    keys, values = parts.keys[q], parts.values[q]
    n_inputs, d_head, n_heads = keys.shape
    scores[:] = ZERO
    values[:] = ZERO
    # Of the constant: every problem has one of the first position's ten rows.
    first = 10 * n_operands
    for row in range(first, len(grad_rows)):
        grad_rows[row] = grad_rows[:10].sum(axis=0)
    for p in range(n_operands):
        for x in range(10):
            _through_row(rows, grad_rows, 10 * p + x, D_VOCAB + p, x, scores, values)
    for k in range(q + 1):
        _through_row(rows, grad_rows, first + k, D_VOCAB + n_operands + k, EQUALS_TOKEN, scores, values)
    parts.queries[q] = ZERO
    for row in range(n_inputs):
        for i in range(d_head):
            for h in range(n_heads):
                keys[row, i, h] = scores[row, h] * shared.queries[q, i, h]
                parts.queries[q, i, h] += scores[row, h] * shared.keys[row, i, h]


@compiled(error_model="numpy", fastmath=SUMS_IN_ANY_ORDER)
def _through_row(rows, grad_rows, row, position, symbol, scores, values):
    """Add what one row gives to the gradients of its position and its symbol."""
    for h in range(scores.shape[1]):
        score = grad_rows[row, 0, h] * rows[row, 0, h]
        scores[position, h] += score
        scores[symbol, h] += score
    for i in range(values.shape[1]):
        for h in range(scores.shape[1]):
            score = grad_rows[row, 1 + i, h] * rows[row, 1 + i, h]
            scores[position, h] += score
            scores[symbol, h] += score
            value = grad_rows[row, 1 + i, h] * rows[row, 0, h]
            values[position, i, h] += value
            values[symbol, i, h] += value
