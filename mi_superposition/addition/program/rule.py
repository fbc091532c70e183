"""A short program that answers as the model does: column sums, a carry by thresholds on a weighted sum, and listed exceptions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.addition.program.tables import ANSWERS, SUMS, best_table, column_sums

# Columns below the digit that its carry may read, and problems that the weights are found on.
_BELOW, _FITTED_ON = 5, 100_000
# The column directly below has this weight; all weights are whole numbers.
_UNIT = 1000
# Nats that one more in the column below starts with.
_STEEP = 20.0
# An exception reads the digit's column and so many below; it is listed if it mends this many problems of the fit.
_EXCEPTION_BELOW, _LEAST_MENDED = 2, 3


@dataclass(frozen=True)
class DigitRule:
    """How one answer digit is found. ``weights``: of the columns below, the nearest first, for every digit of a and of b
    (``[column, 2, 10]``). ``thresholds``: of each own column sum. ``exceptions``: column sums, own first, then the answer."""

    weights: Int[Tensor, "column operand value"]
    thresholds: Int[Tensor, " sum"]
    exceptions: Int[Tensor, "exception column_and_answer"]


@dataclass(frozen=True)
class Program:
    """One rule for each answer digit, ones first. ``apart``: weights are of digits, and differ between a and b; else of column sums."""

    rules: tuple[DigitRule, ...]
    apart: bool

    @property
    def bits(self) -> float:
        """Description length: 16 bits a number of a rule; log2(19) a column and log2(10) an answer of an exception."""
        total = 0.0
        for rule in self.rules:
            n_weights = rule.weights.numel() if self.apart else rule.weights.shape[0]
            columns = rule.exceptions.shape[1] - 1
            total += 16 * (n_weights + rule.thresholds.numel())
            total += len(rule.exceptions) * (columns * math.log2(SUMS) + math.log2(ANSWERS))
        return total

    def shortened(self, exceptions: int) -> Program:
        """The same program with no more than so many exceptions a digit, those that mend most."""
        rules = [DigitRule(one.weights, one.thresholds, one.exceptions[:exceptions]) for one in self.rules]
        return Program(tuple(rules), self.apart)

    def answers(self, operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem digit"]:
        """What the program answers, all problems at once."""
        sums = column_sums(operands)
        found = []
        for digit, rule in enumerate(self.rules):
            own = sums[:, digit]
            answer = (own + (_score(operands, digit, rule.weights) >= rule.thresholds[own]).long()) % 10
            if len(rule.exceptions):
                key = _cell(sums, digit)
                table = torch.full((SUMS ** (rule.exceptions.shape[1] - 1),), -1)
                place = torch.zeros(len(rule.exceptions), dtype=torch.long)
                for column in rule.exceptions[:, :-1].unbind(dim=1):
                    place = place * SUMS + column
                table[place] = rule.exceptions[:, -1]
                answer = torch.where(table[key] >= 0, table[key], answer)
            found.append(answer)
        return torch.stack(found, dim=1)

    def text(self) -> str:
        """The program as Python: ``add(a, b)`` takes and gives digits, ones first."""
        lines = ["WEIGHTS = ["]
        for rule in self.rules:
            lines.append(f"    {rule.weights.tolist() if self.apart else rule.weights[:, 0, 1].tolist()},")
        lines += ["]", "THRESHOLDS = ["]
        lines += [f"    {rule.thresholds.tolist()}," for rule in self.rules]
        lines += ["]", "EXCEPTIONS = ["]
        for rule in self.rules:
            cells = ", ".join(f"{tuple(row[:-1])}: {row[-1]}" for row in rule.exceptions.tolist())
            lines.append(f"    {{{cells}}},")
        weighted = "weights[0][a[k]] + weights[1][b[k]]" if self.apart else "weights * (a[k] + b[k])"
        lines += [
            "]",
            "",
            "",
            "def add(a, b):",
            "    sums = [x + y for x, y in zip(a, b)] + [0]",
            "    answer = []",
            "    for q in range(len(sums)):",
            "        below = range(q - 1, -1, -1)",
            f"        score = sum({weighted} for weights, k in zip(WEIGHTS[q], below))",
            "        carry = score >= THRESHOLDS[q][sums[q]]",
            f"        seen = tuple(sums[max(q - {_EXCEPTION_BELOW}, 0) : q + 1][::-1])",
            "        answer.append(EXCEPTIONS[q].get(seen, (sums[q] + carry) % 10))",
            "    return answer",
            "",
        ]
        return "\n".join(lines)


def fit_program(
    operands: Int[Tensor, "problem operand_digit"],
    answers: Int[Tensor, "problem digit"],
    *,
    apart: bool = False,
    exceptions: int = 0,
) -> Program:
    """The program that agrees best with these answers.

    The answer digit less the column sum is read as the carry. Weights are those of a logistic regression of that carry on the
    columns below; each threshold is then the best for its column sum, exactly; at most ``exceptions`` cells of three column sums a digit are
    listed, those that mend most.
    """
    sums = column_sums(operands)
    rules = []
    for digit in range(answers.shape[1]):
        carry = (answers[:, digit] - sums[:, digit]) % 10
        n_sums = SUMS if digit < answers.shape[1] - 1 else 1
        weights = _weights(operands, sums, digit, carry, apart, n_sums)
        thresholds = _thresholds(_score(operands, digit, weights), sums[:, digit], carry, n_sums)
        rule = DigitRule(weights, thresholds, torch.zeros(0, 2, dtype=torch.long))
        rules.append(DigitRule(weights, thresholds, _exceptions(operands, sums, answers, digit, rule, exceptions)))
    return Program(tuple(rules), apart)


def _score(operands: Tensor, digit: int, weights: Tensor) -> Int[Tensor, " problem"]:
    n_digits = operands.shape[1] // 2
    score = torch.zeros(len(operands), dtype=torch.long)
    for weight, column in zip(weights, range(digit - 1, -1, -1), strict=False):
        score += weight[0][operands[:, column]] + weight[1][operands[:, n_digits + column]]
    return score


def _weights(
    operands: Tensor, sums: Tensor, digit: int, carry: Tensor, apart: bool, n_sums: int
) -> Int[Tensor, "column 2 10"]:
    """The schoolbook's weights, each column's a tenth of the one above, or those that logistic regression makes of them, whichever
    gives more problems the model's carry."""
    columns = list(range(digit - 1, max(digit - 1 - _BELOW, -1), -1))
    if not columns:
        return torch.zeros(0, 2, 10, dtype=torch.long)
    # Elsewhere the column below decides alone.
    near = ((sums[:, digit - 1] - 9).abs() <= 1) & (carry <= 1)
    read = near.nonzero()[:_FITTED_ON, 0]
    n_digits = operands.shape[1] // 2
    a, b = operands[read][:, columns], operands[read][:, [n_digits + column for column in columns]]
    own, target = sums[read, digit], (carry[read] == 1).float()
    offset = torch.zeros(n_sums, requires_grad=True)
    school = torch.tensor([0.1**place for place in range(len(columns))])
    values = torch.arange(10) - 4.5
    start = school[:, None, None] * values.expand(len(columns), 2, 10) if apart else school
    weight = (_STEEP * start).clone().requires_grad_()
    place = torch.arange(len(columns))

    def score() -> Tensor:
        if apart:
            return (weight[place, 0, a] + weight[place, 1, b]).sum(dim=1) + offset[own]
        return ((a + b - 9) * weight).sum(dim=1) + offset[own]

    optimizer = torch.optim.LBFGS([weight, offset], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(score(), target) + 1e-7 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = weight.detach()
    candidates = []
    for one in (_STEEP * start, found):
        slope = one[0].diff(dim=-1).mean() if apart else one[0]
        whole = (one / slope.abs().clamp_min(1e-9) * _UNIT).nan_to_num().clamp(-(10**9), 10**9)
        whole = (
            (whole - whole[..., :1]).round() if apart else whole.round()[:, None, None] * torch.arange(10).expand(2, 10)
        )
        candidates.append(whole.long())
    return max(candidates, key=lambda one: _agreeing(_score(operands, digit, one), sums[:, digit], carry, n_sums))


def _agreeing(score: Tensor, own: Tensor, carry: Tensor, n_sums: int) -> int:
    said = score >= _thresholds(score, own, carry, n_sums)[own]
    return int((said.long() == carry).sum())


def _thresholds(score: Tensor, own: Tensor, carry: Tensor, n_sums: int) -> Int[Tensor, " sum"]:
    """For each own column sum the threshold that gives most problems the model's carry."""
    highest = int(score.max()) + 1
    thresholds = torch.full((n_sums,), highest, dtype=torch.long)
    for value in own.unique().tolist():
        here = own == value
        order = score[here].argsort()
        ranked, is_one, is_zero = score[here][order], carry[here][order] == 1, carry[here][order] == 0
        # Agreement if the first i problems get no carry and the others one.
        none = torch.cat([torch.zeros(1, dtype=torch.long), is_zero.long().cumsum(0)])
        one = is_one.sum() - torch.cat([torch.zeros(1, dtype=torch.long), is_one.long().cumsum(0)])
        # A threshold cannot part equal scores.
        allowed = torch.ones(len(ranked) + 1, dtype=torch.bool)
        allowed[1:-1] = ranked[1:] > ranked[:-1]
        cut = int((none + one).masked_fill(~allowed, -1).argmax())
        if cut < len(ranked):
            below = int(ranked[cut - 1]) if cut else int(ranked[0]) - 1
            thresholds[value] = -((-(below + int(ranked[cut]))) // 2) if cut else below
    return thresholds


def _cell(sums: Tensor, digit: int) -> Int[Tensor, " problem"]:
    key = torch.zeros(len(sums), dtype=torch.long)
    for column in range(digit, max(digit - _EXCEPTION_BELOW, 0) - 1, -1):
        key = key * SUMS + sums[:, column]
    return key


def _exceptions(
    operands: Tensor, sums: Tensor, answers: Tensor, digit: int, rule: DigitRule, most: int
) -> Int[Tensor, "exception column_and_answer"]:
    width = min(digit, _EXCEPTION_BELOW) + 1
    if most == 0:
        return torch.zeros(0, width + 1, dtype=torch.long)
    own = sums[:, digit]
    said = (own + (_score(operands, digit, rule.weights) >= rule.thresholds[own]).long()) % 10
    key = _cell(sums, digit)
    table, _ = best_table(key, answers[:, digit], SUMS**width)
    better = (table[key] == answers[:, digit]).long() - (said == answers[:, digit]).long()
    mended = torch.zeros(SUMS**width, dtype=torch.long).index_add_(0, key, better)
    best = mended.argsort(descending=True)[:most]
    best = best[mended[best] >= _LEAST_MENDED]
    columns = [best // SUMS ** (width - 1 - place) % SUMS for place in range(width)]
    return torch.stack([*columns, table[best]], dim=1)


def agreement(said: Int[Tensor, "problem digit"], answers: Int[Tensor, "problem digit"]) -> Float[Tensor, " digit"]:
    """Share of problems with the same answer, for each digit."""
    return (said == answers).double().mean(dim=0).float()
