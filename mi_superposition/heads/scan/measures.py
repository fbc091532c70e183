"""The measures of heads: what each is called, in which unit, and what it means. Pages, tables and figures read this list."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """``name`` as a column, ``label`` as a heading with the ``unit`` (empty: a number without one), ``meaning`` in a sentence. ``permuted``
    says what the control of permuted attention is for it; empty where there is none.
    """

    name: str
    label: str
    unit: str
    meaning: str
    permuted: str = ""


_UNIFORM = "each query's attention weights permuted among its keys: the exact mean over all permutations"
MEASURES: tuple[Measure, ...] = (
    Measure("entropy", "entropy", "nats", "Entropy of a query's attention, mean over queries.", "the largest possible, of uniform attention"),
    Measure("distance", "distance", "tokens", "Tokens from the query back to the key, weighted by attention, mean over queries.", _UNIFORM),
    Measure("first", "on the first token", "", "Share of attention on the first token of the sequence (the beginning token where the model reads one).", _UNIFORM),
    Measure("itself", "on itself", "", "Share of attention on the query's own token.", _UNIFORM),
    Measure("previous", "on the previous token", "", "Share of attention on the token before the query.", _UNIFORM),
    Measure("strongest", "strongest value-weighted attention", "", "Largest value-weighted attention of a query, mean over queries: the attention times the norm of what the key adds to the head's output at full attention.", "weights permuted once among the query's keys, on the queries drawn"),
    Measure("written", "norm of what it writes", "", "Norm of what the head adds to the residual stream, root of the mean square over tokens.", _UNIFORM),
    Measure("induction", "induction score", "", "On random tokens that are repeated: attention from each repeated token to the token after its first occurrence (Olsson et al. 2022).", _UNIFORM),
    Measure("previous_token", "previous-token score", "", "On the same random tokens: attention to the token before (Olsson et al. 2022).", _UNIFORM),
    Measure("duplicate_token", "duplicate-token score", "", "On the same random tokens: attention from each repeated token to its first occurrence (Wang et al. 2022).", _UNIFORM),
    Measure("copying", "copying score", "", "Sum of the real parts of the eigenvalues of W_E W_V W_O W_U over the sum of their magnitudes: 1 if every token raises itself, −1 if it lowers itself (Elhage et al. 2021)."),
    Measure("positive", "positive eigenvalues", "", "Share of the eigenvalues of W_E W_V W_O W_U other than 0 that have a positive real part."),
    Measure("qk_rank", "QK rank", "dimensions", "Effective rank of W_Q W_K^T: exponential of the entropy of its singular values (Roy & Vetterli 2007); with rotary positions before rotation."),
    Measure("ov_rank", "OV rank", "dimensions", "Effective rank of W_V W_O, in the same way."),
    Measure("contexts", "contexts", "", "Effective number of different contexts among the examples of strongest attention (Vendi score of the residual stream that the query reads).", "examples permuted across the heads of the layer"),
)  # fmt: skip
MEASURE = {measure.name: measure for measure in MEASURES}


@dataclass(frozen=True)
class Measured:
    """One measure of every head, beside its controls: of an untrained model, and with permuted attention (``None``: has none)."""

    values: Float[Tensor, " head"]
    untrained: Float[Tensor, " head"] | None
    permuted: Float[Tensor, " head"] | None
