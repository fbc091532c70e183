"""The head-ablation study of the addition model: which heads add which digits, next to what chance would give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.lookup import check_lookup_form
from mi_superposition.addition.problems import (
    answer_digits,
    answer_places,
    answer_positions,
    as_read,
    fresh_operands,
    masked,
    with_answers,
)
from mi_superposition.errors import RequestError
from mi_superposition.heads import head_logits, head_outputs, keep_only, leave_out
from mi_superposition.heads.ablation import logits_and_head_changes
from mi_superposition.heads.config import AblateConfig, Replacement
from mi_superposition.heads.sets import other_sets
from mi_superposition.parts import SeedPart
from mi_superposition.results import Result
from mi_superposition.training import seeded_generator


@dataclass(frozen=True, repr=False)
class AblationMaps(Result):
    """Logits (nats) at the first answer position for the 100 one-digit problems a + b, other digits 0.

    Conditions in order: ``all`` heads, ``none``, each head kept alone (``only 0`` …), each left out
    (``without 0`` …). ``correct`` is the right digit's logit, ``by_digit`` every digit's. ``accuracy`` is over
    random whole problems, for each answer digit.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.addition:ablation_accuracy"

    conditions: list[str]
    correct: Float[Tensor, "condition a b"]
    by_digit: Float[Tensor, "condition digit_out a b"]
    accuracy: Float[Tensor, "condition digit"]

    def of(self, condition: str) -> int:
        """Row of a condition by name."""
        return self.conditions.index(condition)

    def summary(self) -> str:
        """Accuracy with all heads and with none."""
        every, none = (float(self.accuracy[self.of(name)].mean()) for name in ("all", "none"))
        return f"{len(self.conditions)} sets of heads: {100 * every:.1f} % of digits correct with all, {100 * none:.1f} % with none"

    def to_frame(self) -> pd.DataFrame:
        """One row per condition: accuracy of each answer digit, ones first."""
        n_digits = self.accuracy.shape[1]
        frame = pd.DataFrame(self.accuracy.tolist(), columns=[f"digit_{digit}" for digit in range(n_digits)])
        return frame.set_axis(self.conditions).rename_axis("kept")


@dataclass(frozen=True)
class CircuitCounts:
    """For each one-digit problem, how many heads push the right digit's logit up and how many down.

    A head's push is its own contribution to the right logit minus its mean contribution to all ten, in nats: what a
    softmax can see of it. ``push`` keeps the amounts.
    """

    push: Float[Tensor, "head a b"]
    n_up: Int[Tensor, "a b"]
    n_down: Int[Tensor, "a b"]


@dataclass(frozen=True, repr=False)
class HeadSets(Result):
    """For each answer digit, a small set of heads that keeps most of its accuracy, against the other sets of that size.

    Sets are found by greedy backward elimination on one sample of problems (not proven smallest) and all accuracies
    are measured on another. ``accuracy_of_others`` has for each digit that of other sets of the same size, all of them different:
    every one where there are few, else random ones; none where the set has no heads or all.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.figures.addition:head_set_accuracy"

    heads: Bool[Tensor, "digit head"]
    size: Int[Tensor, " digit"]
    accuracy: Float[Tensor, " digit"]
    accuracy_of_all: Float[Tensor, " digit"]
    accuracy_of_others: tuple[Float[Tensor, " _"], ...]

    @property
    def n_others(self) -> list[int]:
        """Other sets that each digit's is compared with, all of them different."""
        return [len(others) for others in self.accuracy_of_others]

    @property
    def enumerated(self) -> list[bool]:
        """Whether these are all other sets of that size."""
        n_heads = self.heads.shape[1]
        return [
            compared == math.comb(n_heads, size) - 1
            for compared, size in zip(self.n_others, self.size.tolist(), strict=True)
        ]

    @property
    def less_accurate(self) -> list[int]:
        """How many of the other sets are less accurate than the chosen one."""
        pairs = zip(self.accuracy_of_others, self.accuracy, strict=True)
        return [int((others < accuracy).sum()) for others, accuracy in pairs]

    @property
    def as_accurate(self) -> list[int]:
        """How many of the other sets are exactly as accurate."""
        pairs = zip(self.accuracy_of_others, self.accuracy, strict=True)
        return [int((others == accuracy).sum()) for others, accuracy in pairs]

    @property
    def percentile(self) -> Float[Tensor, " digit"]:
        """Share of the other sets that are less accurate; not a number where there is no other set."""
        return torch.tensor(self.less_accurate).double() / torch.tensor(self.n_others)

    @property
    def mean_of_others(self) -> Float[Tensor, " digit"]:
        """Mean accuracy of the other sets; the chosen set's own where there is no other."""
        return self._of_others(torch.mean)

    @property
    def best_of_others(self) -> Float[Tensor, " digit"]:
        """Highest accuracy of the other sets; the chosen set's own where there is no other."""
        return self._of_others(torch.amax)

    def _of_others(self, statistic: Callable[[Tensor], Tensor]) -> Float[Tensor, " digit"]:
        pairs = zip(self.accuracy_of_others, self.accuracy, strict=True)
        return torch.stack([statistic(others) if len(others) else own for others, own in pairs])

    def summary(self) -> str:
        """Mean size and accuracy beside other sets."""
        return (
            f"{float(self.size.float().mean()):.1f} of {self.heads.shape[1]} heads per digit keep {100 * float(self.accuracy.mean()):.1f} % "
            f"accuracy ({100 * float(self.mean_of_others.mean()):.1f} % for other sets of the same sizes)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per answer digit, ones first."""
        columns = {
            "heads": self.size.tolist(),
            "accuracy": self.accuracy.tolist(),
            "accuracy_all_heads": self.accuracy_of_all.tolist(),
            "other_sets": self.n_others,
            "other_sets_are_all": self.enumerated,
            "other_sets_mean": self.mean_of_others.tolist(),
            "other_sets_best": self.best_of_others.tolist(),
            "other_sets_less_accurate": self.less_accurate,
            "other_sets_as_accurate": self.as_accurate,
            "percentile": (100 * self.percentile).tolist(),
        }
        return pd.DataFrame(columns).rename_axis("digit")


def one_digit_operands(n_digits: int) -> Int[Tensor, "problem operand_digit"]:
    """The 100 problems a + b with single digits, ``a`` slowest; every other digit is 0."""
    operands = torch.zeros(100, 2 * n_digits, dtype=torch.long)
    operands[:, 0] = torch.arange(10).repeat_interleave(10)
    operands[:, n_digits] = torch.arange(10).repeat(10)
    return operands


def digits_of(model: HookedTransformer) -> int:
    """Digits of the problems a model reads, from its context. Raises ``RequestError`` for another kind of model."""
    n_digits, remainder = divmod(model.cfg.n_ctx - 1, 3)
    if remainder or model.cfg.d_vocab != 12 or model.cfg.d_vocab_out != 10:
        raise RequestError(
            f"n_ctx = {model.cfg.n_ctx}, d_vocab = {model.cfg.d_vocab}, d_vocab_out = {model.cfg.d_vocab_out}: "
            "not an addition model (3 n + 1, 12 and 10)"
        )
    check_lookup_form(model, n_digits)
    return n_digits


def ablation_conditions(n_heads: int) -> tuple[list[str], Bool[Tensor, "condition head"]]:
    """Names and masks of the study's conditions, in the order of ``AblationMaps``."""
    everything = torch.ones(1, n_heads, dtype=torch.bool)
    names = ["all", "none", *(f"only {h}" for h in range(n_heads)), *(f"without {h}" for h in range(n_heads))]
    return names, torch.cat([everything, ~everything, keep_only(n_heads), leave_out(n_heads)])


def ablation_maps(
    model: HookedTransformer,
    *,
    replace_with: Replacement = AblateConfig.replace_with,
    n_problems: int = AblateConfig.n_problems,
    seed: int = SeedPart.seed,
) -> AblationMaps:
    """The maps and accuracies of every head kept alone and left out.

    In the maps too, what replaces a head's output comes from random whole problems, ``n_problems`` of them, and not from the hundred
    that are shown, which are alike in all digits but the first: its mean over them, or its output on one of them for each shown.
    """
    n_digits = digits_of(model)
    names, keep = ablation_conditions(model.cfg.n_heads)
    operands = one_digit_operands(n_digits)
    drawn = _random_operands(n_problems, n_digits, seed)
    logits = _shown_logits(model, operands, drawn, keep, replace_with)
    right = answer_digits(operands)[:, 0]
    correct = logits.gather(2, right.expand(len(keep), -1)[..., None])[..., 0]
    problems = _HeadSum(model, drawn, replace_with, seed)
    return AblationMaps(
        names,
        rearrange(correct, "condition (a b) -> condition a b", a=10),
        rearrange(logits, "condition (a b) digit -> condition digit a b", a=10),
        torch.stack([problems.accuracy(digit, keep) for digit in range(n_digits + 1)], dim=1),
    )


@torch.no_grad()
def _shown_logits(
    model: HookedTransformer,
    shown: Int[Tensor, "shown operand_digit"],
    drawn: Int[Tensor, "problem operand_digit"],
    keep: Bool[Tensor, "condition head"],
    replace_with: Replacement,
) -> Float[Tensor, "condition shown d_vocab_out"]:
    """Logits of the ones digit of the shown problems under each set of kept heads; replacements come from the drawn ones."""
    first = int(answer_places(model, shown.shape[1] // 2)[0])

    def tokens(operands: Tensor) -> Tensor:
        return as_read(model, masked(with_answers(operands))).to(model.W_E.device)

    def z_of(operands: Tensor) -> Tensor:
        return head_outputs(model, tokens(operands))[:, first : first + 1]

    z = z_of(shown)
    if replace_with == "zero":
        change = -z
    elif replace_with == "mean":
        change = z_of(drawn).mean(dim=0, keepdim=True) - z
    else:
        donors = torch.arange(len(shown)) % len(drawn)
        change = z_of(drawn[donors]) - z
    ablated = (~keep).to(z) @ head_logits(model, change)[:, :, 0].flatten(1)
    return (ablated.view(len(keep), len(shown), -1) + model(tokens(shown))[:, first]).cpu()


@torch.no_grad()
def circuit_counts(model: HookedTransformer) -> CircuitCounts:
    """How many heads push each of the 100 right answers up and down at the first answer position."""
    n_digits = digits_of(model)
    operands = one_digit_operands(n_digits)
    first = int(answer_places(model, n_digits)[0])
    z = head_outputs(model, as_read(model, masked(with_answers(operands))).to(model.W_E.device))
    contribution = head_logits(model, z[:, first : first + 1])[:, :, 0].cpu()
    right = answer_digits(operands)[:, 0]
    push = contribution.gather(2, right.expand(model.cfg.n_heads, -1)[..., None])[..., 0] - contribution.mean(dim=2)
    push = rearrange(push, "head (a b) -> head a b", a=10)
    return CircuitCounts(push, (push > 0).sum(dim=0), (push < 0).sum(dim=0))


@torch.no_grad()
def smallest_head_sets(
    model: HookedTransformer,
    *,
    share: float = 0.95,
    replace_with: Replacement = AblateConfig.replace_with,
    n_random: int = AblateConfig.random_sets,
    n_problems: int = AblateConfig.n_problems,
    seed: int = SeedPart.seed,
) -> HeadSets:
    """Greedy backward elimination for each answer digit: drop the head whose going costs least accuracy (cross-entropy
    decides ties), and again, while accuracy stays at ``share`` of that of all heads.

    Each set is compared with ``n_random`` random other sets of its size, no two of them alike, or with every other set where there are no
    more than that. Raises ``RequestError`` for a ``share`` outside (0, 1].
    """
    if not 0 < share <= 1:
        raise RequestError(f"share = {share}: must be above 0 and at most 1")
    n_digits, n_heads = digits_of(model), model.cfg.n_heads
    chosen_on = _HeadSum(model, _random_operands(n_problems, n_digits, seed, "choose"), replace_with, seed)
    measured_on = _HeadSum(model, _random_operands(n_problems, n_digits, seed, "measure"), replace_with, seed)
    generator = seeded_generator(seed, "random-head-sets")
    everything = torch.ones(1, n_heads, dtype=torch.bool)
    sets, of_all, of_set, of_others = [], [], [], []
    for digit in range(n_digits + 1):
        keep = _eliminate(chosen_on, digit, share)
        # In one call: two equal sets would else differ in last bits.
        together = torch.cat([keep[None], everything, other_sets(keep, n_random, generator)])
        accuracy = measured_on.accuracy(digit, together)
        sets.append(keep)
        of_set.append(accuracy[0])
        of_all.append(accuracy[1])
        of_others.append(accuracy[2:].clone())
    heads = torch.stack(sets)
    return HeadSets(
        heads=heads,
        size=heads.sum(dim=1),
        accuracy=torch.stack(of_set),
        accuracy_of_all=torch.stack(of_all),
        accuracy_of_others=tuple(of_others),
    )


@dataclass(frozen=True)
class HeadEffects:
    """How much heads move the right answer over the 100 one-digit problems (root mean square, nats).

    What counts is what a softmax sees and what depends on the problem: logits less their mean over the ten digits, and
    for each digit less its mean over the problems. ``of_all``: all heads against none. ``of_one``: leaving one head
    out, mean over heads. ``share`` is the second over the first: 1 / sqrt(n_heads) for heads that push independently,
    more where heads work against each other.
    """

    of_all: float
    of_one: float

    @property
    def share(self) -> float:
        """One head's effect in units of all heads' joint effect, dimensionless."""
        return self.of_one / self.of_all


def head_effects(maps: AblationMaps) -> HeadEffects:
    """Effects of leaving out one head and of all heads together."""
    seen = maps.by_digit - maps.by_digit.mean(dim=1, keepdim=True)
    seen = seen - seen.mean(dim=(2, 3), keepdim=True)
    digit = torch.arange(10)
    right = (digit[:, None] + digit) % 10
    on_right = seen[:, right, digit[:, None], digit]
    without = torch.tensor([name.startswith("without") for name in maps.conditions])
    everything, none = on_right[maps.of("all")], on_right[maps.of("none")]
    return HeadEffects(
        of_all=float((everything - none).square().mean().sqrt()),
        of_one=float((everything - on_right[without]).square().mean(dim=(1, 2)).sqrt().mean()),
    )


class _HeadSum:
    """Logits at the answer positions, split into what ablating each head adds: conditions are sums, not passes."""

    def __init__(self, model: HookedTransformer, operands: Tensor, replace_with: Replacement, seed: int):
        tokens = as_read(model, masked(with_answers(operands))).to(model.W_E.device)
        n_digits = digits_of(model)
        at = answer_positions(n_digits)
        whole, change = logits_and_head_changes(model, tokens, replace_with, seed, at)
        ones_first = answer_places(model, n_digits) - at.start
        self.whole, self.change = whole.cpu()[:, ones_first], change.cpu()[:, :, ones_first]
        self.right = answer_digits(operands)

    def logits(self, digit: int, keep: Bool[Tensor, "set head"]) -> Float[Tensor, "set problem value"]:
        """Logits of one answer digit when only the heads of each set speak."""
        change = self.change[:, :, digit]
        ablated = (~keep).to(change) @ change.flatten(1)
        return ablated.view(len(keep), *change.shape[1:]) + self.whole[:, digit]

    def accuracy(self, digit: int, keep: Bool[Tensor, "set head"]) -> Float[Tensor, " set"]:
        """Share of problems whose digit comes out right, for each set."""
        return torch.cat(
            [(self.logits(digit, some).argmax(2) == self.right[:, digit]).float().mean(1) for some in keep.split(64)]
        )

    def loss(self, digit: int, keep: Bool[Tensor, "set head"]) -> Float[Tensor, " set"]:
        """Mean cross-entropy (nats) of one answer digit, for each set."""
        logits = rearrange(self.logits(digit, keep), "set problem value -> set value problem")
        right = self.right[:, digit].expand(len(keep), -1)
        return F.cross_entropy(logits, right, reduction="none").mean(dim=1)


def _eliminate(heads: _HeadSum, digit: int, share: float) -> Bool[Tensor, " head"]:
    n_heads = heads.change.shape[0]
    keep = torch.ones(n_heads, dtype=torch.bool)
    enough = share * float(heads.accuracy(digit, keep[None]))
    while keep.sum() > 0:
        present = keep.nonzero()[:, 0]
        candidates = keep.repeat(len(present), 1)
        candidates[torch.arange(len(present)), present] = False
        accuracy = heads.accuracy(digit, candidates)
        if accuracy.max() < enough:
            return keep
        best = accuracy == accuracy.max()
        keep = candidates[int(heads.loss(digit, candidates).masked_fill(~best, torch.inf).argmin())]
    return keep


def _random_operands(n: int, n_digits: int, seed: int, purpose: str = "ablation") -> Tensor:
    return fresh_operands(n, n_digits=n_digits, part="test", generator=seeded_generator(seed, purpose))
