"""How the compiled step has weights, what follows from them, and their gradients. Heads come last, so that loops run over them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float32]


class Weights(NamedTuple):
    """The model's parameters, or their gradients; all are parts of one array.

    ``inputs``: W_E, then W_pos, ``[12 + position, d_model]``. ``query``, ``key``, ``value``: ``[d_model, d_head * head]``;
    ``query_bias``, ``key_bias``, ``value_bias``: ``[d_head * head]``. ``out``: ``[d_head * head, d_model]``; ``out_bias``: ``[d_model]``.
    ``unembed``: ``[digit, d_model]``; ``unembed_bias``: ``[digit]``.
    """

    inputs: _Array
    query: _Array
    key: _Array
    value: _Array
    out: _Array
    query_bias: _Array
    key_bias: _Array
    value_bias: _Array
    out_bias: _Array
    unembed: _Array
    unembed_bias: _Array


class Shared(NamedTuple):
    """What the weights say of all problems and all queries.

    ``at_queries``: the residual stream at the ``=`` positions, ``[query, d_model]``. ``queries``: ``[query, d_head, head]``,
    divided by their scale; ``keys``, ``values``: of the inputs, ``[12 + position, d_head, head]``. ``to_logits``: ``[digit,
    d_head, head]``; ``direct``: logits without heads, ``[query, digit]``.
    """

    at_queries: _Array
    queries: _Array
    keys: _Array
    values: _Array
    to_logits: _Array
    direct: _Array


class Parts(NamedTuple):
    """What each query adds to the gradients of ``Shared``, of its own loss summed over problems; all begin with ``[query]``.

    ``too_wide``: whether its scores are, and nothing was done.
    """

    queries: _Array
    keys: _Array
    values: _Array
    to_logits: _Array
    direct: _Array
    loss: NDArray[np.float64]
    too_wide: NDArray[np.bool_]
