"""What each head does for the sum: what its output depends on, how one-digit circuits share the heads, which heads can stand in for one
another, and what breaks when the heads of one answer digit go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.ablation import circuit_counts, digits_of, one_digit_operands
from mi_superposition.addition.problems import (
    answer_digits,
    answer_places,
    as_read,
    column_carries,
    masked,
    with_answers,
)
from mi_superposition.addition.program.tables import column_sums
from mi_superposition.heads import head_outputs
from mi_superposition.heads.ablation import attention_output_weight

_BATCH = 5_000


@dataclass(frozen=True)
class HeadRoles:
    """Shares are of variance over problems, measured where the logits see it: each head's output through its output weights.

    ``by_column_sum``, ``by_carry``, ``by_digits``: share of a head's variance at an answer digit that its own column's a + b, the carry into
    it, and its own column's a and b apart explain. ``amount``: that variance (nats squared, mean over the ten logits).
    ``circuit_rank``: participation ratio of the spectrum of the 100 one-digit circuits over (head, dimension). ``heads_per_circuit``,
    ``circuits_per_head``, ``digits_per_head``: participation ratios, means; ``circuits_alike``: mean absolute correlation over heads of the pushes of two
    circuits of different sums, ``circuits_of_one_sum`` of one sum. ``output_rank``: the same of all heads' outputs over random problems, each scaled to
    variance 1.
    ``stand_in``: share of a head's variance at all answer digits that the best linear map of one other head explains.
    """

    by_column_sum: Float[Tensor, "digit head"]
    by_carry: Float[Tensor, "digit head"]
    by_digits: Float[Tensor, "digit head"]
    amount: Float[Tensor, "digit head"]
    circuit_rank: float
    output_rank: float
    heads_per_circuit: float
    circuits_per_head: float
    digits_per_head: float
    circuits_alike: float
    circuits_of_one_sum: float
    stand_in: Float[Tensor, " head"]
    stand_in_by: Int[Tensor, " head"]


@dataclass(frozen=True)
class StepCheck:
    """Accuracy of every answer digit (column) without the heads of one answer digit's carry (row), their outputs replaced by their means, beside random
    sets of as many heads: mean and least accurate. ``all_heads``: accuracy with all of them. ``swapped``: accuracy with one head replaced by the best linear map of
    its stand-in, ``removed``: by its mean."""

    heads: Int[Tensor, "digit member"]
    accuracy: Float[Tensor, "digit answer_digit"]
    random_mean: Float[Tensor, " answer_digit"]
    random_least: Float[Tensor, " answer_digit"]
    all_heads: Float[Tensor, " answer_digit"]
    swapped: Float[Tensor, " head"]
    removed: Float[Tensor, " head"]


def participation_ratio(amounts: Float[Tensor, "*batch part"]) -> Float[Tensor, "*batch"]:
    """How many equal parts would be as uneven: (sum)^2 / sum of squares; from 1 to the number of parts."""
    return amounts.sum(dim=-1).square() / amounts.square().sum(dim=-1).clamp_min(1e-30)


@torch.no_grad()
def answer_outputs(
    model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"]
) -> Float[Tensor, "problem digit head d_head"]:
    """Each head's output at the answer digits, ones first."""
    place = answer_places(model, digits_of(model))
    batches = [as_read(model, masked(with_answers(batch))) for batch in operands.split(_BATCH)]
    return torch.cat([head_outputs(model, batch.to(model.W_E.device))[:, place].cpu() for batch in batches])


@torch.no_grad()
def head_roles(model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"]) -> HeadRoles:
    """What every head's output depends on, over these problems and over the 100 one-digit sums."""
    z = answer_outputs(model, operands)
    z = z - z.mean(dim=0)
    n_digits = digits_of(model)
    to_logits = _to_logits(model)
    metric = torch.einsum("hiv,hjv->hij", to_logits, to_logits)
    amount = _energy(z, metric).mean(dim=0)
    sums, carries = column_sums(operands), column_carries(operands)
    own = operands[:, :n_digits] * 10 + operands[:, n_digits:]
    own = torch.nn.functional.pad(own, (0, 1))

    def explained(groups: Tensor) -> Tensor:
        return torch.stack([_explained(z[:, q], groups[:, q], metric) for q in range(n_digits + 1)]) / amount.clamp_min(
            1e-30
        )

    push = circuit_counts(model).push.flatten(1)
    circuits = answer_outputs(model, one_digit_operands(n_digits))[:, 0].flatten(1)
    flat = rearrange(z, "problem digit head d_head -> (problem digit) head d_head")
    share, stand_in = _stand_ins(flat, metric)
    alike, same = _alike(push)
    scaled = flat.flatten(1) / flat.flatten(1).std(dim=0).clamp_min(1e-30)
    return HeadRoles(
        by_column_sum=explained(sums),
        by_carry=explained(carries),
        by_digits=explained(own),
        amount=amount / to_logits.shape[2],
        circuit_rank=_rank(circuits),
        output_rank=_rank(scaled),
        heads_per_circuit=float(participation_ratio(push.t().square()).mean()),
        circuits_per_head=float(participation_ratio(push.square()).mean()),
        digits_per_head=float(participation_ratio(amount.t()).mean()),
        circuits_alike=alike,
        circuits_of_one_sum=same,
        stand_in=share,
        stand_in_by=stand_in,
    )


@torch.no_grad()
def permuted_heads(model: HookedTransformer, generator: torch.Generator) -> tuple[float, float, float]:
    """The control of ``circuits_alike``, ``circuits_of_one_sum`` and ``circuits_per_head``: the heads of every circuit in another random order."""
    push = circuit_counts(model).push.flatten(1)
    order = torch.rand(push.shape, generator=generator).argsort(dim=0)
    shuffled = push.gather(0, order)
    alike, same = _alike(shuffled)
    return alike, same, float(participation_ratio(shuffled.square()).mean())


@torch.no_grad()
def check_steps(
    model: HookedTransformer,
    roles: HeadRoles,
    operands: Int[Tensor, "problem operand_digit"],
    *,
    n_members: int,
    n_random: int,
    generator: torch.Generator,
) -> StepCheck:
    """Take out the ``n_members`` heads that carry most of each answer digit's carry, and random sets of as many; swap each head for its stand-in."""
    z = answer_outputs(model, operands)
    place = answer_places(model, digits_of(model))
    tokens = as_read(model, masked(with_answers(operands)))
    logits = torch.cat([model(batch.to(model.W_E.device))[:, place].cpu() for batch in tokens.split(_BATCH)])
    right = answer_digits(operands)
    to_logits = _to_logits(model)
    centred = z - z.mean(dim=0)
    carry_amount = roles.by_carry * roles.amount
    carry_amount[0] = (roles.by_column_sum * roles.amount)[0]
    heads = carry_amount.argsort(dim=1, descending=True)[:, :n_members]

    def accuracy(change: Tensor) -> Tensor:
        return ((logits + change).argmax(dim=2) == right).double().mean(dim=0).float()

    def without(members: Tensor) -> Tensor:
        return accuracy(-torch.einsum("pqhi,hiv->pqv", centred[:, :, members], to_logits[members]))

    n_heads = z.shape[2]
    sets = [torch.randperm(n_heads, generator=generator)[:n_members] for _ in range(n_random)]
    random = torch.stack([without(one) for one in sets])
    swapped, removed = [], []
    for head in range(n_heads):
        other = int(roles.stand_in_by[head])
        mine, theirs = (rearrange(centred[:, :, one], "p q i -> (p q) i") for one in (head, other))
        guess = (theirs @ torch.linalg.lstsq(theirs, mine).solution).view_as(centred[:, :, head])
        swapped.append(accuracy((guess - centred[:, :, head]) @ to_logits[head]).mean())
        removed.append(without(torch.tensor([head])).mean())
    return StepCheck(
        heads=heads,
        accuracy=torch.stack([without(one) for one in heads]),
        random_mean=random.mean(dim=0),
        random_least=random.amin(dim=0),
        all_heads=accuracy(torch.zeros(())),
        swapped=torch.stack(swapped),
        removed=torch.stack(removed),
    )


def _to_logits(model: HookedTransformer) -> Float[Tensor, "head d_head value"]:
    """From a head's output to what a softmax sees of its logits: their differences from their mean."""
    weights = (attention_output_weight(model, 0) @ model.W_U).cpu()
    return weights - weights.mean(dim=2, keepdim=True)


def _energy(z: Float[Tensor, "*batch head d"], metric: Float[Tensor, "head d d"]) -> Float[Tensor, "*batch head"]:
    return torch.einsum("...hi,hij,...hj->...h", z, metric, z)


def _explained(
    z: Float[Tensor, "problem head d"], group: Int[Tensor, " problem"], metric: Tensor
) -> Float[Tensor, " head"]:
    """Variance between groups, less what groups of nothing but chance would show."""
    n_groups = int(group.max()) + 1
    counts = torch.bincount(group, minlength=n_groups).clamp_min(1)
    means = torch.zeros(n_groups, *z.shape[1:]).index_add_(0, group, z) / counts[:, None, None]
    between = (_energy(means, metric) * counts[:, None]).sum(dim=0) / len(z)
    within = _energy(z, metric).mean(dim=0) - between
    chance = within * (len(group.unique()) - 1) / max(len(z) - len(group.unique()), 1)
    return (between - chance).clamp_min(0)


def _rank(rows: Float[Tensor, "row column"]) -> float:
    values = torch.linalg.svdvals((rows - rows.mean(dim=0)).double())
    return float(participation_ratio(values.square()))


def _alike(push: Float[Tensor, "head circuit"]) -> tuple[float, float]:
    """Mean absolute correlation over heads of two circuits: of different sums, of one sum."""
    correlation = torch.corrcoef(push.t()).abs()
    n = int(push.shape[1] ** 0.5)
    sums = (torch.arange(n)[:, None] + torch.arange(n)).flatten()
    one_sum = sums[:, None] == sums
    apart = ~torch.eye(len(sums), dtype=torch.bool)
    return float(correlation[~one_sum].mean()), float(correlation[one_sum & apart].mean())


def _stand_ins(z: Float[Tensor, "row head d"], metric: Tensor) -> tuple[Float[Tensor, " head"], Int[Tensor, " head"]]:
    """For each head the other head whose linear image explains most of it, and that share."""
    n_heads = z.shape[1]
    covariance = torch.einsum("nhi,ngj->hgij", z.double(), z.double()) / len(z)
    own = torch.stack([covariance[head, head] for head in range(n_heads)])
    inverse = torch.linalg.pinv(own)
    explained = torch.einsum("hgij,gjk,hglk->hgil", covariance, inverse, covariance)
    metric = metric.double()
    share = (
        torch.einsum("hgil,hil->hg", explained, metric)
        / torch.einsum("hil,hil->h", own, metric).clamp_min(1e-30)[:, None]
    )
    share.fill_diagonal_(-1.0)
    best = share.max(dim=1)
    return best.values.float(), best.indices
