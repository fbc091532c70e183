"""What each answer digit reads: the best tables over column sums, and over the digits themselves, against the model's own answers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.train import answer_logits

_BATCH = 10_000
SUMS, PAIRS, ANSWERS = 19, 100, 10
# Columns that a table reads at most: its own and so many below. A table over digits has 100 cells a column, so it stops earlier.
MOST_BELOW, MOST_BELOW_APART = 4, 2


@dataclass(frozen=True)
class TableFidelity:
    """Share of problems on which the best table gives the model's answer, right or wrong, and the table's size in bits.

    Row: answer digit, ones first. Column ``L``: the table reads the digit's own column and ``L`` below it. ``sums``: it reads a + b of each
    column; ``apart``: it reads a and b. Not a number where there are no so many columns. ``same_sums``: share of
    problems whose answer stays when all digits are drawn anew with the same column sums; no function of the sums alone agrees with the
    model on more than ``(1 + same_sums) / 2`` of them.
    """

    sums: Float[Tensor, "digit below"]
    sums_bits: Float[Tensor, "digit below"]
    apart: Float[Tensor, "digit below_apart"]
    apart_bits: Float[Tensor, "digit below_apart"]
    same_sums: Float[Tensor, " digit"]


@torch.no_grad()
def model_answers(
    model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"]
) -> Int[Tensor, "problem digit"]:
    """The digits that the model answers, ones first."""
    return torch.cat([answer_logits(model, batch).argmax(dim=-1).cpu() for batch in operands.split(_BATCH)])


def column_sums(operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem digit"]:
    """a + b of every column; 0 for the last answer digit, which has no column."""
    n_digits = operands.shape[1] // 2
    return torch.nn.functional.pad(operands[:, :n_digits] + operands[:, n_digits:], (0, 1))


def columns_read(digit: int, n_digits: int, below: int) -> list[int] | None:
    """The digit's own column and so many below, the highest first; ``None`` where there are not so many. The last answer digit has no
    column of its own and begins one lower."""
    top = min(digit, n_digits - 1)
    return list(range(top, top - below - 1, -1)) if below <= top else None


def same_column_sums(
    operands: Int[Tensor, "problem operand_digit"], generator: torch.Generator
) -> Int[Tensor, "problem operand_digit"]:
    """Digits drawn anew, uniformly among those with the same sum in every column."""
    n_digits = operands.shape[1] // 2
    sums = operands[:, :n_digits] + operands[:, n_digits:]
    least, most = (sums - 9).clamp_min(0), sums.clamp_max(9)
    a = least + (torch.rand(sums.shape, generator=generator) * (most - least + 1)).long()
    return torch.cat([a, sums - a], dim=1)


def table_fidelity(
    model: HookedTransformer,
    fit_on: Int[Tensor, "problem operand_digit"],
    fitted: Int[Tensor, "problem digit"],
    measure_on: Int[Tensor, "other operand_digit"],
    asked: Int[Tensor, "other digit"],
    generator: torch.Generator,
) -> TableFidelity:
    """Tables fitted on one set of problems and measured on another, ``fitted`` and ``asked`` the model's answers to them. A cell without
    a problem answers as the table of one column less."""
    n_answers = fitted.shape[1]
    found: dict[str, Tensor] = {}
    for name, most, size, cells in (
        ("sums", MOST_BELOW, SUMS, column_sums),
        ("apart", MOST_BELOW_APART, PAIRS, _pairs),
    ):
        read_fit, read = cells(fit_on), cells(measure_on)
        share = torch.full((n_answers, most + 1), math.nan)
        bits = share.clone()
        for digit in range(n_answers):
            guess = None
            for below in range(most + 1):
                columns = columns_read(digit, n_answers - 1, below)
                if columns is None:
                    break
                table, seen = best_table(_key(read_fit, columns, size), fitted[:, digit], size ** len(columns))
                at = _key(read, columns, size)
                guess = table[at] if guess is None else torch.where(seen[at], table[at], guess)
                share[digit, below] = (guess == asked[:, digit]).double().mean()
                bits[digit, below] = size ** len(columns) * math.log2(ANSWERS)
        found |= {name: share, f"{name}_bits": bits}
    again = model_answers(model, same_column_sums(measure_on, generator))
    return TableFidelity(**found, same_sums=(again == asked).double().mean(dim=0).float())


def best_table(
    key: Int[Tensor, " problem"], answers: Int[Tensor, " problem"], n_cells: int
) -> tuple[Int[Tensor, " cell"], Tensor]:
    """The most frequent answer of every cell, and which cells have a problem."""
    counts = torch.bincount(key * ANSWERS + answers, minlength=n_cells * ANSWERS).view(n_cells, ANSWERS)
    return counts.argmax(dim=1), counts.sum(dim=1) > 0


def _key(cells: Int[Tensor, "problem column"], columns: list[int], size: int) -> Int[Tensor, " problem"]:
    key = torch.zeros(len(cells), dtype=torch.long)
    for column in columns:
        key = key * size + cells[:, column]
    return key


def _pairs(operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem column"]:
    n_digits = operands.shape[1] // 2
    return 10 * operands[:, :n_digits] + operands[:, n_digits:]
