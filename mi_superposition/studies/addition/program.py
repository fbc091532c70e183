"""The program that an addition model has learnt, how far it agrees with the model, and what each head does for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.addition.ablation import digits_of
from mi_superposition.addition.config import AdditionProgramConfig
from mi_superposition.addition.problems import answer_digits, fresh_operands
from mi_superposition.addition.program.roles import HeadRoles, StepCheck, check_steps, head_roles, permuted_heads
from mi_superposition.addition.program.rule import Program, agreement, fit_program
from mi_superposition.addition.program.tables import TableFidelity, model_answers, table_fidelity
from mi_superposition.addition.train import load_addition_model
from mi_superposition.errors import RequestError
from mi_superposition.files import write_file
from mi_superposition.models import model_record, untrained_copy
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.room import check_memory
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record
from mi_superposition.training import seeded_generator

COMMAND = "addition program"
RESULT = "program.safetensors"
PROGRAM = "program.py"
# Problems for the roles of heads: every head's output at every answer digit is kept.
_ROLE_PROBLEMS = 20_000
# Exceptions a digit of the programs on the curve, beside the number asked for.
_EXCEPTIONS = (0, 10, 40, 160, 640)


@dataclass(frozen=True)
class ProgramFidelity:
    """One program: its description length, and the share of problems on which it answers as the model does."""

    apart: bool
    exceptions: int
    bits: float
    n_lines: int
    n_characters: int
    by_digit: Float[Tensor, " digit"]
    whole_sum: float


@dataclass(frozen=True)
class Shuffled:
    """Likeness of circuits with the heads of every circuit in another order, and circuits per head then."""

    circuits_alike: float
    circuits_of_one_sum: float
    circuits_per_head: float


@dataclass(frozen=True, repr=False)
class AdditionProgram(Result):
    """Tables, programs and roles of heads. ``text``: the program with column sums and the number of exceptions asked for.

    ``truth``: share of the model's answers that are right, for each digit: what the schoolbook's program, with all carries, would reach."""

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.addition.program:figure"

    config: AdditionProgramConfig
    tables: TableFidelity
    programs: list[ProgramFidelity]
    text: str
    truth: Float[Tensor, " digit"]
    truth_whole_sum: float
    roles: HeadRoles
    untrained: HeadRoles
    shuffled: Shuffled
    steps: StepCheck

    @property
    def printed(self) -> ProgramFidelity:
        """The program that ``text`` holds."""
        return next(one for one in self.programs if not one.apart and one.exceptions == self.config.exceptions)

    @property
    def closest(self) -> ProgramFidelity:
        """The program that answers most sums as the model does."""
        return max(self.programs, key=lambda one: one.whole_sum)

    def summary(self) -> str:
        """Agreement of the printed program, beside the schoolbook's."""
        return (
            f"a program of {self.printed.n_lines} lines answers {100 * float(self.printed.by_digit.mean()):.2f} % of digits and "
            f"{100 * self.printed.whole_sum:.2f} % of sums as {self.config.model.name} does (right answers to all: "
            f"{100 * float(self.truth.mean()):.2f} % and {100 * self.truth_whole_sum:.2f} %)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a program, the shortest first."""
        rows = [
            {
                "weights_of": "digits" if one.apart else "column sums",
                "exceptions_per_digit": one.exceptions,
                "bits": one.bits,
                "characters": one.n_characters,
                "digits_as_model": float(one.by_digit.mean()),
                "sums_as_model": one.whole_sum,
            }
            for one in sorted(self.programs, key=lambda one: one.bits)
        ]
        return pd.DataFrame(rows)

    def metrics(self) -> dict[str, Any]:
        """The main numbers, flat."""
        return {
            "digits_as_model": float(self.printed.by_digit.mean()),
            "sums_as_model": self.printed.whole_sum,
            "digits_as_model_right_answers": float(self.truth.mean()),
            "sums_as_model_right_answers": self.truth_whole_sum,
            "program_lines": self.printed.n_lines,
            "program_bits": self.printed.bits,
            "closest_program_sums_as_model": self.closest.whole_sum,
            "closest_program_bits": self.closest.bits,
            "same_answer_with_same_column_sums": self.tables.same_sums.tolist(),
            "circuit_rank": self.roles.circuit_rank,
            "circuit_rank_untrained": self.untrained.circuit_rank,
            "output_rank": self.roles.output_rank,
            "output_rank_untrained": self.untrained.output_rank,
            "heads_per_circuit": self.roles.heads_per_circuit,
            "heads_per_circuit_untrained": self.untrained.heads_per_circuit,
            "circuits_per_head": self.roles.circuits_per_head,
            "circuits_per_head_permuted": self.shuffled.circuits_per_head,
            "circuits_alike": self.roles.circuits_alike,
            "circuits_alike_permuted": self.shuffled.circuits_alike,
            "circuits_of_one_sum_alike": self.roles.circuits_of_one_sum,
            "circuits_of_one_sum_alike_permuted": self.shuffled.circuits_of_one_sum,
            "digits_per_head": self.roles.digits_per_head,
            "digits_per_head_untrained": self.untrained.digits_per_head,
            "explained_by_stand_in": float(self.roles.stand_in.mean()),
            "explained_by_stand_in_untrained": float(self.untrained.stand_in.mean()),
        }


def measure(config: AdditionProgramConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder, the program as ``program.py`` beside the numbers. Raises as ``load_addition_model`` and
    ``open_run`` do, and ``RequestError`` for more ``members`` than heads."""
    model = load_addition_model(config.model.name, config.model.digit_order)
    if config.members >= model.cfg.n_heads:
        raise RequestError(f"members = {config.members}: the model has {model.cfg.n_heads} heads, leave at least one")
    n_digits = digits_of(model)
    # Whatever is asked for, the tables over digits and what all heads give; problems and their answers
    # (``tests/robustness/test_room.py`` measures it).
    n_bytes = 3 * 2**29 + (config.n_fit + config.n_problems) * n_digits * 4 * 8
    check_memory(n_bytes, f"n_fit = {config.n_fit:,}")
    inputs = {"model": model_record(config.model.name, model)}
    seed = config.random.seed
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)

        def drawn(n: int, purpose: str) -> Int[Tensor, "problem operand_digit"]:
            return fresh_operands(n, n_digits=n_digits, part="test", generator=seeded_generator(seed, purpose))

        fit_on, measure_on = drawn(config.n_fit, "program-fit"), drawn(config.n_problems, "program")
        progress.stage("tables")
        fitted, asked = model_answers(model, fit_on), model_answers(model, measure_on)
        tables = table_fidelity(model, fit_on, fitted, measure_on, asked, seeded_generator(seed, "same-sums"))
        progress.stage("programs")
        programs, text = _programs(config, fit_on, fitted, measure_on, asked)
        progress.stage("heads")
        few = measure_on[:_ROLE_PROBLEMS]
        fresh = untrained_copy(model, seed=seed)
        roles = head_roles(model, few)
        steps = check_steps(
            model,
            roles,
            fit_on[:_ROLE_PROBLEMS],
            n_members=config.members,
            n_random=config.random_sets,
            generator=seeded_generator(seed, "random-steps"),
        )
        right = _right(measure_on, asked)
        result = AdditionProgram(
            config=config,
            tables=tables,
            programs=programs,
            text=text,
            truth=right[0],
            truth_whole_sum=right[1],
            roles=roles,
            untrained=head_roles(fresh, few),
            shuffled=Shuffled(*permuted_heads(model, seeded_generator(seed, "permuted-heads"))),
            steps=steps,
        )
        write_file(out / PROGRAM, text.encode())
        write_record(out / RESULT, result)
        run.finish(result.metrics())
    return Outcome(out, finished_already=False)


def load(folder: Path) -> AdditionProgram:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, AdditionProgram)


def _programs(
    config: AdditionProgramConfig, fit_on: Tensor, fitted: Tensor, measure_on: Tensor, asked: Tensor
) -> tuple[list[ProgramFidelity], str]:
    found, text = [], ""
    for apart in (False, True):
        numbers = sorted({*_EXCEPTIONS, config.exceptions})
        longest = fit_program(fit_on, fitted, apart=apart, exceptions=numbers[-1])
        for exceptions in numbers:
            program = longest.shortened(exceptions)
            found.append(_fidelity(program, exceptions, measure_on, asked))
            if not apart and exceptions == config.exceptions:
                text = program.text()
    return found, text


def _fidelity(program: Program, exceptions: int, operands: Tensor, asked: Tensor) -> ProgramFidelity:
    said, text = program.answers(operands), program.text()
    return ProgramFidelity(
        apart=program.apart,
        exceptions=exceptions,
        bits=program.bits,
        n_lines=text.count("\n"),
        n_characters=len(text),
        by_digit=agreement(said, asked),
        whole_sum=float((said == asked).all(dim=1).double().mean()),
    )


def _right(operands: Tensor, asked: Tensor) -> tuple[Float[Tensor, " digit"], float]:
    right = answer_digits(operands)
    return agreement(right, asked), float((right == asked).all(dim=1).double().mean())
