"""Tables, programs and roles of heads: against brute force, against the emitted text, and on answers whose program is known."""

from __future__ import annotations

import itertools

import pytest
import torch

from mi_superposition.addition.problems import answer_digits, fresh_operands
from mi_superposition.addition.program.roles import check_steps, head_roles, participation_ratio, permuted_heads
from mi_superposition.addition.program.rule import agreement, fit_program
from mi_superposition.addition.program.tables import (
    best_table,
    column_sums,
    columns_read,
    model_answers,
    same_column_sums,
    table_fidelity,
)
from mi_superposition.models import untrained_copy


def problems(n: int, seed: int, n_digits: int = 3) -> torch.Tensor:
    return fresh_operands(n, n_digits=n_digits, part="test", generator=torch.Generator().manual_seed(seed))


def short_sighted(operands: torch.Tensor) -> torch.Tensor:
    """Answers of an adder that sees one column below only: no carry passes through a nine."""
    sums = column_sums(operands)
    carry = torch.nn.functional.pad((sums[:, :-1] >= 10).long(), (1, 0))
    return (sums + carry) % 10


def run(text: str, operands: torch.Tensor) -> torch.Tensor:
    names: dict = {}
    exec(compile(text, "program", "exec"), names)
    half = operands.shape[1] // 2
    return torch.tensor([names["add"](row[:half], row[half:]) for row in operands.tolist()])


def test_columns_below():
    assert columns_read(3, 6, 2) == [3, 2, 1]
    assert columns_read(6, 6, 1) == [5, 4]
    assert columns_read(1, 6, 2) is None


def test_the_best_table_is_that_of_counting():
    key, answers = torch.randint(4, (200,)), torch.randint(10, (200,))
    table, seen = best_table(key, answers, 5)
    for cell in range(4):
        here = answers[key == cell].tolist()
        assert here.count(int(table[cell])) == max(here.count(value) for value in range(10))
    assert seen.tolist() == [True] * 4 + [False]


def test_redrawn_digits_keep_their_sums_and_are_uniform():
    operands = torch.tensor([[7, 3]]).repeat(30_000, 1)
    drawn = same_column_sums(operands, torch.Generator().manual_seed(0))
    assert (drawn.sum(dim=1) == 10).all()
    share = torch.bincount(drawn[:, 0], minlength=10) / len(drawn)
    assert share[0] == 0
    assert (share[1:] - 1 / 9).abs().max() < 0.01


@pytest.mark.parametrize("apart", [False, True])
def test_an_adder_is_found_again(apart):
    """The program of right answers is right on problems it was not found on, and the one that sees one column is told from it."""
    fit_on, other = problems(60_000, 0), problems(4_000, 1)
    for adder in (answer_digits, short_sighted):
        program = fit_program(fit_on, adder(fit_on), apart=apart)
        assert float(agreement(program.answers(other), adder(other)).min()) > 0.998
    assert float((short_sighted(other) == answer_digits(other)).all(dim=1).double().mean()) < 0.95


@pytest.mark.parametrize(("apart", "exceptions"), [(False, 0), (False, 7), (True, 7)])
def test_the_text_says_what_the_program_says(apart, exceptions):
    fit_on, other = problems(20_000, 2), problems(300, 3)
    answers = answer_digits(fit_on)
    # A habit that no threshold can express.
    sums = column_sums(fit_on)
    habit = (sums[:, 1] == 4) & (sums[:, 0] == 6)
    answers[habit, 1] = 7
    program = fit_program(fit_on, answers, apart=apart, exceptions=exceptions)
    assert torch.equal(run(program.text(), other), program.answers(other))
    listed = [row for row in program.rules[1].exceptions.tolist() if row[:2] == [4, 6]]
    assert listed == ([[4, 6, 7]] if exceptions else [])
    assert program.shortened(0).bits <= program.bits
    said = run(program.text(), torch.tensor([[6, 4, 0, 0, 0, 0]]))
    assert int(said[0, 1]) == (7 if exceptions else 4)


def test_every_small_sum_by_its_text():
    operands = torch.tensor(list(itertools.product(range(10), repeat=4)))
    program = fit_program(operands, answer_digits(operands))
    assert torch.equal(run(program.text(), operands), answer_digits(operands))


def test_participation_ratio():
    assert participation_ratio(torch.tensor([1.0, 1.0, 1.0, 0.0])) == pytest.approx(3)
    assert participation_ratio(torch.tensor([0.0, 5.0])) == pytest.approx(1)


def test_tables_of_a_model(tiny_model):
    n_digits = (tiny_model.cfg.n_ctx - 1) // 3
    fit_on, other = problems(3_000, 4, n_digits), problems(500, 5, n_digits)
    fitted, asked = model_answers(tiny_model, fit_on), model_answers(tiny_model, other)
    found = table_fidelity(tiny_model, fit_on, fitted, other, asked, torch.Generator().manual_seed(0))
    assert found.sums.shape == (n_digits + 1, 5)
    assert found.sums[0].isnan().tolist() == [False, True, True, True, True]
    known = found.sums[~found.sums.isnan()]
    assert ((known >= 0) & (known <= 1)).all()
    assert found.sums_bits[1, 1] == pytest.approx(19**2 * 3.3219, rel=1e-4)


def test_roles_and_steps(tiny_model):
    n_digits, n_heads = (tiny_model.cfg.n_ctx - 1) // 3, tiny_model.cfg.n_heads
    operands = problems(800, 6, n_digits)
    roles = head_roles(tiny_model, operands)
    assert roles.by_column_sum.shape == (n_digits + 1, n_heads)
    for share in (roles.by_column_sum, roles.by_carry, roles.by_digits, roles.stand_in):
        assert ((share > -1e-4) & (share < 1 + 1e-4)).all()
    # The carry into the ones is always the same.
    assert float(roles.by_carry[0].max()) < 1e-9
    # Groups of pairs are finer than groups of their sums; chance is taken off both.
    assert (roles.by_digits - roles.by_column_sum > -0.05).all()
    assert (roles.stand_in_by != torch.arange(n_heads)).all()
    steps = check_steps(
        tiny_model, roles, operands, n_members=1, n_random=5, generator=torch.Generator().manual_seed(0)
    )
    assert steps.accuracy.shape == (n_digits + 1, n_digits + 1)
    assert (steps.random_least <= steps.random_mean + 1e-6).all()
    alike, same, _ = permuted_heads(tiny_model, torch.Generator().manual_seed(0))
    assert 0 <= alike <= 1
    assert 0 <= same <= 1


def test_a_copied_head_is_a_stand_in(tiny_model):
    """Two heads with the same queries, keys and values explain each other; an untrained third does not."""
    model = untrained_copy(tiny_model, seed=3)
    attention = model.blocks[0].attn
    with torch.no_grad():
        for weight in (attention.W_Q, attention.W_K, attention.W_V, attention.b_Q, attention.b_K, attention.b_V):
            weight[1] = weight[0]
    roles = head_roles(model, problems(500, 7, (model.cfg.n_ctx - 1) // 3))
    assert roles.stand_in_by[:2].tolist() == [1, 0]
    assert roles.stand_in[:2].min() > 0.999
