"""The addition model as a table: the same parameters and gradients as the transformer, a fraction of the work.

In masked mode every query stands at an answer position and holds ``=``, so queries do not depend on the
problem; keys and values depend on (position, digit) only. With one attention layer and no normalisation, a
head's output at query q is therefore a ratio of two sums of table entries,

    z[q, h] = sum_k w[q, h, k, x_k] v[h, k, x_k] / sum_k w[q, h, k, x_k],    w = exp(score),

over the operand positions k with their digits x_k plus the constant ``=`` positions up to q, and the logits are
linear in z. One product of the one-hot digits with the table gives all the sums. Derivation: ours; the
observation that the model is exactly a table is checked against ``HookedTransformer`` in the tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.problems import EQUALS_TOKEN, n_positions
from mi_superposition.errors import RequestError

# Weights are scaled so that the largest of each head and query is exp(40). Float32 keeps exp(-87) to exp(88), so
# weights under exp(-86) are dropped (subnormal numbers would also be slow) and a denominator must stay above
# exp(-70), where what was dropped is below its last bit. A head and query with a wider spread gets a softmax for
# each problem.
_TOP_SCORE, LEAST_DENOMINATOR, _LEAST_WEIGHT = 40.0, -70.0, 4.5e-38


def check_lookup_form(model: HookedTransformer, n_digits: int) -> None:
    """Raise ``RequestError`` unless the model is one attention-only layer that can read ``n_digits`` problems."""
    cfg = model.cfg
    for name, value, wanted in [
        ("n_layers", cfg.n_layers, 1),
        ("attn_only", cfg.attn_only, True),
        ("normalization_type", cfg.normalization_type, None),
        ("attention_dir", cfg.attention_dir, "causal"),
        ("positional_embedding_type", cfg.positional_embedding_type, "standard"),
    ]:
        if value != wanted:
            raise RequestError(f"{name} = {value!r}: a model is a table only with {name} = {wanted!r}")
    if cfg.d_vocab <= EQUALS_TOKEN or cfg.n_ctx < n_positions(n_digits):
        raise RequestError(
            f"d_vocab = {cfg.d_vocab}, n_ctx = {cfg.n_ctx}: problems of {n_digits} digits need "
            f"d_vocab > {EQUALS_TOKEN} and n_ctx >= {n_positions(n_digits)}"
        )


class _RatioOfSums(torch.autograd.Function):
    """``z = numerator / denominator`` where both are ``one_hot @ table + constant``.

    Columns of the table are (query, 1 + d_head, head): the denominator first, then one numerator for each head
    dimension. Written out because autograd would allocate and fill five more arrays of the size of the batch.
    """

    @staticmethod
    def forward(ctx, one_hot: Tensor, table: Tensor, constant: Tensor, columns: tuple[int, int, int]) -> Tensor:
        sums = torch.addmm(constant, one_hot, table)
        by_query = sums.view(-1, *columns)
        inverse = by_query[:, :, :1].reciprocal()
        z = by_query[:, :, 1:] * inverse
        ctx.save_for_backward(one_hot, inverse, z)
        ctx.columns = columns
        return z

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[None, Tensor, Tensor, None]:
        one_hot, inverse, z = ctx.saved_tensors
        grad_sums = z.new_empty(z.shape[0], *ctx.columns)
        grad_numerator = grad_sums[:, :, 1:]
        torch.mul(grad_outputs[0], inverse, out=grad_numerator)
        # d(n / d) / dd = -z / d
        grad_sums[:, :, 0] = -(grad_numerator * z).sum(dim=2)
        flat = grad_sums.view(z.shape[0], -1)
        return None, one_hot.t() @ flat, flat.sum(dim=0), None


def one_hot_operands(operands: Int[Tensor, "problem operand_digit"]) -> Float[Tensor, "problem position_digit"]:
    """Operand digits as float one-hot rows of ``operand_digit * 10`` columns."""
    one_hot = operands.new_zeros(*operands.shape, 10, dtype=torch.float32)
    return one_hot.scatter_(2, operands[:, :, None], 1.0).flatten(1)


def _score_and_value_tables(
    model: HookedTransformer, n_digits: int
) -> tuple[Float[Tensor, "key query head"], Float[Tensor, "key d_head head"]]:
    """Attention scores and values of every possible key: (position, digit) pairs, then the ``=`` positions."""
    attn, cfg = model.blocks[0].attn, model.cfg
    n_operands, n_queries = 2 * n_digits, n_digits + 1
    digit_inputs = model.W_pos[:n_operands, None] + model.W_E[None, :10]
    query_inputs = _query_inputs(model, n_digits)
    key_inputs = torch.cat([digit_inputs.flatten(0, 1), query_inputs])

    def project(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = rearrange(weight, "head d_model d_head -> d_model (d_head head)")
        return torch.addmm(bias.t().flatten(), inputs, weight).view(-1, cfg.d_head, cfg.n_heads)

    query = project(query_inputs, attn.W_Q, attn.b_Q) / cfg.attn_scale
    key = project(key_inputs, attn.W_K, attn.b_K)
    value = project(key_inputs, attn.W_V, attn.b_V)
    # A product and a sum rather than einsum, which would run one tiny matrix product a head.
    scores = (key[:, None] * query).sum(dim=2)
    later = torch.ones(n_queries, n_queries, dtype=torch.bool, device=scores.device).tril(-1)
    future = torch.cat([later.new_zeros(n_operands * 10, n_queries), later])
    return scores.masked_fill(future[:, :, None], float("-inf")), value


def lookup_logits(
    model: HookedTransformer, one_hot: Float[Tensor, "problem position_digit"]
) -> Float[Tensor, "problem digit d_vocab_out"]:
    """Logits of the answer digits, equal to the model's at the answer positions of the masked sequences.

    ``one_hot`` is ``one_hot_operands(operands)``. Storage is (d_vocab_out, problem, digit), so that
    ``rearrange(logits, "problem digit value -> value (problem digit)")`` costs nothing and a cross-entropy over
    the ten values runs along contiguous memory. Raises ``RequestError`` for a model that is no table.
    """
    n_keys = one_hot.shape[1]
    n_digits, n_queries = n_keys // 20, n_keys // 20 + 1
    check_lookup_form(model, n_digits)
    attn, cfg = model.blocks[0].attn, model.cfg
    scores, value = _score_and_value_tables(model, n_digits)
    shift, too_wide = _shift(scores.detach(), n_keys)
    query, head = too_wide.nonzero(as_tuple=True)
    if len(query):
        # A stand-in that cannot divide by zero; no gradient comes back through it.
        weight = scores.masked_fill(too_wide, 0.0).add(shift.masked_fill(too_wide, 0.0)).exp()
    else:
        weight = (scores + shift).exp()
    weight = F.threshold(weight, _LEAST_WEIGHT, 0.0)[:, :, None]
    table = torch.cat([weight, weight * value[:, None]], dim=2).flatten(1)
    operand_rows, equals_rows = table.split([n_keys, n_queries])
    columns = (n_queries, 1 + cfg.d_head, cfg.n_heads)
    z = _RatioOfSums.apply(one_hot, operand_rows, equals_rows.sum(dim=0), columns)
    if len(query):
        exact = _softmax_for_each_problem(scores[:, query, head], value[:, :, head], one_hot)
        dimension = torch.arange(cfg.d_head, device=z.device)[:, None]
        column = (query * cfg.d_head + dimension) * cfg.n_heads + head
        z = z.flatten(1).index_copy(1, column.flatten(), exact.flatten(1))
    to_logits = rearrange(attn.W_O, "head d_head d_model -> (d_head head) d_model") @ model.W_U
    from_heads = to_logits.t() @ z.reshape(-1, cfg.n_heads * cfg.d_head).t()
    direct = torch.addmm(model.b_U, _query_inputs(model, n_digits) + attn.b_O, model.W_U)
    logits = rearrange(from_heads, "value (problem digit) -> value problem digit", digit=n_queries)
    logits = logits + rearrange(direct, "digit value -> value 1 digit")
    return rearrange(logits, "value problem digit -> problem digit value")


def _shift(
    scores: Float[Tensor, "key query head"], n_operand_keys: int
) -> tuple[Float[Tensor, "query head"], Bool[Tensor, "query head"]]:
    """What to add to the scores before ``exp``, and where some problem's denominator would not fit a float32.

    Whatever the problem, a denominator holds the ``=`` weights and, at each operand position, at least the least of
    its ten weights.
    """
    shift = _TOP_SCORE - scores.amax(dim=0)
    least_of_position = scores[:n_operand_keys].unflatten(0, (-1, 10)).amin(dim=1)
    always_there = torch.cat([least_of_position, scores[n_operand_keys:]]).amax(dim=0)
    return shift, always_there + shift <= LEAST_DENOMINATOR


def _query_inputs(model: HookedTransformer, n_digits: int) -> Float[Tensor, "query d_model"]:
    """Residual stream of the answer positions: ``=`` everywhere, so the same for every problem."""
    return model.W_E[EQUALS_TOKEN] + model.W_pos[2 * n_digits : n_positions(n_digits)]


def _softmax_for_each_problem(
    scores: Float[Tensor, "key pair"],
    value: Float[Tensor, "key d_head pair"],
    one_hot: Float[Tensor, "problem position_digit"],
) -> Float[Tensor, "problem d_head pair"]:
    """The same ratio for some (query, head) pairs, shifted for each problem: slower, right for scores of any spread."""
    n_problems, n_keys = one_hot.shape
    operand_rows = one_hot.nonzero()[:, 1].view(n_problems, -1)
    equals_rows = torch.arange(n_keys, scores.shape[0], device=scores.device).expand(n_problems, -1)
    rows = torch.cat([operand_rows, equals_rows], dim=1)
    return torch.einsum("pki,pkdi->pdi", scores[rows].softmax(dim=1), value[rows])
