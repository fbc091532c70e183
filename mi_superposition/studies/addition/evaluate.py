"""Which digits an addition model gets right on fresh problems, and where it fails, next to its untrained copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.ablation import digits_of
from mi_superposition.addition.config import AdditionEvaluateConfig
from mi_superposition.addition.problems import (
    answer_digits,
    answer_places,
    as_read,
    column_carries,
    encode_sums,
    fresh_operands,
    masked,
    nines_below,
    places,
    to_text,
    with_answers,
)
from mi_superposition.addition.train import AdditionAccuracy, evaluate_addition, load_addition_model, right_answers
from mi_superposition.heads.patterns import attention_pattern
from mi_superposition.models import load_snapshots, local_model_folder, model_record, untrained_copy
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.room import check_memory
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.training import seeded_generator

COMMAND = "addition evaluate"
RESULT = "evaluation.safetensors"
# The sum whose attention is shown; of a model of fewer digits its last ones.
EXAMPLE = (277_386, 145_278)
# Each snapshot is measured on so many of the problems.
_SNAPSHOT_PROBLEMS = 10_000
_ATTENTION_PROBLEMS = 500
# Errors are grouped by the number of columns of sum 9 directly below; the last group has so many or more.
_MOST_NINES = 3


@dataclass(frozen=True)
class CarryErrors:
    """Errors of every answer digit but the ones, by the number of columns of sum 9 directly below (3: three or more).

    ``guess``: the error of a predictor that knows everything but the carry and names the more frequent case. ``counts``: digits in
    each group.
    """

    error: Float[Tensor, " nines"]
    guess: Float[Tensor, " nines"]
    counts: Int[Tensor, " nines"]


@dataclass(frozen=True)
class ExampleAttention:
    """Attention from the answer positions while adding one sum, and how much of it goes to the answer digit's own column."""

    operands: tuple[int, int]
    text: str
    pattern: Float[Tensor, "head query key"]
    own_column: float
    own_column_untrained: float
    n_sums: int


@dataclass(frozen=True, repr=False)
class AdditionEvaluation(Result):
    """Accuracy on fresh problems of the model, its untrained copy and the best constant guess (each digit's most frequent value)."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.addition.evaluate:figure"

    config: AdditionEvaluateConfig
    accuracy: AdditionAccuracy
    untrained: AdditionAccuracy
    chance: Float[Tensor, " digit"]
    carries: CarryErrors
    snapshot_epochs: list[int]
    snapshot_accuracy: Float[Tensor, "snapshot digit"]
    attention: ExampleAttention

    def summary(self) -> str:
        """Accuracy beside its controls."""
        return (
            f"{self.config.model.name}: {100 * self.accuracy.per_digit:.2f} % of digits and {100 * self.accuracy.whole_sum:.2f} % of sums "
            f"correct on {self.accuracy.n_problems:,} fresh problems ({100 * float(self.chance.mean()):.1f} % of digits for the best "
            f"constant guess, {100 * self.untrained.per_digit:.1f} % untrained)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per answer digit, the ones first."""
        columns = {
            "accuracy": self.accuracy.by_digit,
            "untrained": self.untrained.by_digit,
            "best_constant_guess": self.chance,
        }
        return pd.DataFrame({name: values.tolist() for name, values in columns.items()}).rename_axis("digit")

    def metrics(self) -> dict[str, Any]:
        """All numbers, flat; lists run over the answer digits, ones first, or over columns of sum 9 below."""
        return {
            "accuracy": self.accuracy.per_digit,
            "sum_accuracy": self.accuracy.whole_sum,
            "accuracy_by_digit": self.accuracy.by_digit.tolist(),
            "accuracy_untrained": self.untrained.per_digit,
            "accuracy_best_constant_guess": float(self.chance.mean()),
            "error_by_nines_below": self.carries.error.tolist(),
            "error_by_nines_below_all_known_but_the_carry": self.carries.guess.tolist(),
            "attention_to_own_column": self.attention.own_column,
            "attention_to_own_column_untrained": self.attention.own_column_untrained,
            "n_problems": self.accuracy.n_problems,
        }


def measure(config: AdditionEvaluateConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder. Raises as ``load_addition_model`` and ``open_run`` do."""
    model = load_addition_model(config.model.name, config.model.digit_order)
    n_digits = digits_of(model)
    # Problems, their sums and what is right of them, by the model and by its untrained copy (``tests/robustness/test_room.py`` measures it).
    check_memory(config.n_problems * n_digits * 9 * 8, f"n_problems = {config.n_problems:,}")
    inputs = {"model": model_record(config.model.name, model)}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        progress.stage("accuracy")
        fresh = fresh_operands(
            config.n_problems, n_digits=n_digits, part="test", generator=seeded_generator(config.random.seed, "report")
        )
        untrained = untrained_copy(model, seed=config.random.seed)
        result = AdditionEvaluation(
            config=config,
            accuracy=evaluate_addition(model, fresh),
            untrained=evaluate_addition(untrained, fresh),
            chance=best_constant_guess(fresh),
            carries=carry_errors(model, fresh),
            **_over_training(load_snapshots(local_model_folder(config.model.name)), fresh[:_SNAPSHOT_PROBLEMS]),
            attention=_example_attention(model, untrained, config.random.seed),
        )
        write_record(out / RESULT, result)
        run.finish(result.metrics())
    return Outcome(out, finished_already=False)


def load(folder: Path) -> AdditionEvaluation:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, AdditionEvaluation)


def best_constant_guess(operands: Int[Tensor, "problem operand_digit"]) -> Float[Tensor, " digit"]:
    """Accuracy of always naming the most frequent value, for each answer digit."""
    right = answer_digits(operands)
    return torch.stack([torch.bincount(digit).max() / len(digit) for digit in right.unbind(dim=1)])


def carry_errors(model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"]) -> CarryErrors:
    """Errors by how far down the carry is decided. Digit 0 has nothing below it."""
    nines = nines_below(operands).clamp_max(_MOST_NINES)
    groups = [nines[:, 1:] == length for length in range(_MOST_NINES + 1)]
    # Short numbers have no such long rows of nines.
    groups = [group for group in groups if bool(group.any())]
    carry = column_carries(operands)[:, 1:].double()
    wrong = ~right_answers(model, operands)[:, 1:]
    return CarryErrors(
        error=torch.stack([wrong[group].double().mean() for group in groups]),
        guess=torch.stack([torch.minimum(carry[group].mean(), 1 - carry[group].mean()) for group in groups]),
        counts=torch.stack([group.sum() for group in groups]),
    )


def _over_training(snapshots: Sequence[tuple[int, HookedTransformer]], operands: Tensor) -> dict[str, Any]:
    by_digit = [evaluate_addition(model, operands).by_digit for _, model in snapshots]
    n_digits = operands.shape[1] // 2 + 1
    return {
        "snapshot_epochs": [epoch for epoch, _ in snapshots],
        "snapshot_accuracy": torch.stack(by_digit).float() if by_digit else torch.zeros(0, n_digits),
    }


def _example_attention(model: HookedTransformer, untrained: HookedTransformer, seed: int) -> ExampleAttention:
    n_digits = digits_of(model)
    a, b = (number % 10**n_digits for number in EXAMPLE)
    tokens = as_read(model, encode_sums([a], [b], n_digits))
    operands = fresh_operands(
        _ATTENTION_PROBLEMS, n_digits=n_digits, part="test", generator=seeded_generator(seed, "attention")
    )
    many = as_read(model, masked(with_answers(operands)))
    return ExampleAttention(
        operands=(a, b),
        text=to_text(tokens)[0],
        pattern=attention_pattern(model, tokens)[0][:, answer_places(model, n_digits)],
        own_column=_own_column(model, many),
        own_column_untrained=_own_column(untrained, many),
        n_sums=len(many),
    )


def _own_column(model: HookedTransformer, tokens: Int[Tensor, "problem pos"]) -> float:
    """Mean fraction of attention that answer digits give to the two digits of their own column."""
    n_digits = digits_of(model)
    pattern, place = attention_pattern(model, tokens), places(model, n_digits)
    columns = [(place[2 * n_digits + q], place[[q, n_digits + q]]) for q in range(n_digits)]
    return float(torch.stack([pattern[..., answer, own].sum(dim=-1) for answer, own in columns]).mean())
