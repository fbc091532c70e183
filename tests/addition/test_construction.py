"""The adder made by hand: every problem of two digits, and the problems with the least margin of six."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

from mi_superposition.addition.construction import exact_adder
from mi_superposition.addition.lookup import lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, chains_of_nines, fresh_operands, masked, with_answers
from mi_superposition.errors import RequestError
from mi_superposition.models import load_model, save_attention_only


def right(model, operands):
    logits = lookup_logits(model, one_hot_operands(operands).to(model.W_E.dtype))
    return logits.argmax(dim=-1) == answer_digits(operands)


def chains(n):
    return chains_of_nines(n, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("n_digits", [1, 2])
def test_every_problem_is_right(n_digits):
    digits = torch.tensor(list(itertools.product(range(10), repeat=2 * n_digits)))
    assert right(exact_adder(n_digits), digits).all()


@pytest.mark.slow
def test_every_problem_of_three_digits_is_right():
    model = exact_adder(3)
    for first in range(10):
        rest = torch.cartesian_prod(*[torch.arange(10)] * 5)
        assert right(model, torch.cat([torch.full((len(rest), 1), first), rest], dim=1)).all()


def test_the_longest_chains_of_nines_are_right():
    """By the transformer's own forward pass too."""
    model, operands = exact_adder(), chains(1000)
    assert right(model, operands).all()
    with torch.no_grad():
        logits = model(masked(with_answers(operands)))[:, 12:]
    assert (logits.argmax(dim=-1) == answer_digits(operands)).all()


def test_in_single_precision_only_the_longest_chains_fail(tmp_path):
    save_attention_only(exact_adder().float(), tmp_path)
    model = load_model(tmp_path, device="cpu")
    drawn = fresh_operands(20_000, part="test", generator=torch.Generator().manual_seed(0))
    assert right(model, drawn).all()
    found = right(model, chains(3000)).double().mean(dim=0)
    assert found[:4].min() == 1
    assert found[5] < 1


def test_a_column_that_is_not_read_shows():
    """The control: without the scores of one column the same problems go wrong."""
    model = exact_adder(2)
    with torch.no_grad():
        model.blocks[0].attn.W_K[:, 12, 0] = -200.0
    digits = torch.tensor(list(itertools.product(range(10), repeat=4)))
    assert right(model, digits).double().mean() < 0.8


def test_the_lemma():
    """The logits' differences in exact numbers: the closed form, and the largest of ten at every F."""

    def logit(digit, f):
        return sum(((f - j) * (f - j - 5) * (f - j - 10) for j in range(1, digit + 1)), Fraction(0))

    for step in range(1, 40 * 5):
        f = Fraction(step, 10) + Fraction(1, 1000)
        logits = [logit(digit, f) for digit in range(10)]
        for s, t in itertools.combinations(range(10), 2):
            n, c = t - s, f - 5 - Fraction(s + t + 1, 2)
            assert logits[t] - logits[s] == n * c * (c * c - Fraction(101 - n * n, 4))
        assert logits.index(max(logits)) == int(f) % 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(n_heads=18), "n_heads = 18: the construction for 6 digits needs 19 or more"),
        (dict(d_head=1), "d_head = 1"),
        (dict(d_model=40), "d_model = 40: the construction for 6 digits needs 41 or more"),
        (dict(n_digits=10, n_heads=99), "n_digits = 10"),
    ],
)
def test_what_is_too_small_is_refused(changes, message):
    with pytest.raises(RequestError, match=message):
        exact_adder(**changes)
