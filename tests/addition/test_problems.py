import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_superposition.addition.problems import (
    HELD_OUT_MODULUS,
    answer_digits,
    column_carries,
    decode,
    encode,
    fresh_operands,
    from_text,
    masked,
    n_problems,
    nines_below,
    sample_operands,
    to_text,
    with_answers,
    with_nines,
)
from mi_superposition.errors import RequestError

PUBLISHED = ["4321008765002196000", "4444445555559999990", "5444445555550000001", "9006982803141909031"]


@st.composite
def problems(draw):
    n_digits = draw(st.integers(1, 9))
    number = st.integers(0, 10**n_digits - 1)
    return n_digits, draw(number), draw(number)


@given(problems())
def test_encoding_agrees_with_python_integers(problem):
    n_digits, a, b = problem
    tokens = encode([a], [b], n_digits)
    [text] = to_text(tokens)
    written = f"{a:0{n_digits}d}"[::-1] + f"{b:0{n_digits}d}"[::-1] + f"{a + b:0{n_digits + 1}d}"[::-1]
    assert text == written
    assert decode(tokens) == [(a, b, a + b)]
    assert torch.equal(from_text([text]), tokens)


@given(problems())
def test_carries_agree_with_python_integers(problem):
    n_digits, a, b = problem
    carries = column_carries(encode([a], [b], n_digits)[:, : 2 * n_digits])[0].tolist()
    assert carries == [(a % 10**k + b % 10**k) // 10**k for k in range(n_digits + 1)]


@given(problems())
def test_a_nine_hands_its_carry_on(problem):
    """A digit's carry is that of the column under its run of nines, and the run is as long as it can be."""
    n_digits, a, b = problem
    operands = encode([a], [b], n_digits)[:, : 2 * n_digits]
    carries, nines = column_carries(operands)[0].tolist(), nines_below(operands)[0].tolist()
    sums = [a // 10**k % 10 + b // 10**k % 10 for k in range(n_digits)]
    for digit, run in enumerate(nines):
        assert carries[digit] == carries[digit - run]
        assert sums[digit - run : digit] == [9] * run
        assert digit == run or sums[digit - run - 1] != 9


def test_extremes():
    assert decode(encode([0, 999_999], [0, 999_999])) == [(0, 0, 0), (999_999, 999_999, 1_999_998)]


def test_published_examples():
    tokens = from_text(PUBLISHED)
    assert torch.equal(with_answers(tokens[:, :12]), tokens)
    assert [(a + b, c) for a, b, c in decode(tokens)] == [(c, c) for _, _, c in decode(tokens)]
    assert encode([1234], [5678]).equal(tokens[:1])


def test_masking_hides_the_answer_and_nothing_else():
    tokens = encode([123], [456], 3)
    assert to_text(masked(tokens)) == ["321654===="]
    assert decode(masked(tokens)) == [(123, 456, None)]


def test_a_wrong_answer_decodes_to_the_wrong_number():
    tokens = encode([1], [1], 1)
    tokens[0, 2] = 3
    assert decode(tokens) == [(1, 1, 3)]


@pytest.mark.parametrize("n_digits", [1, 2, 6, 9])
def test_training_and_test_problems_are_disjoint_and_distinct(n_digits):
    wanted = min(1000, n_problems(n_digits, "test"))
    indices = {}
    for part in ("train", "test"):
        n = min(1000, n_problems(n_digits, part)) if part == "train" else wanted
        operands = sample_operands(n, n_digits=n_digits, part=part, generator=torch.Generator().manual_seed(3))
        indices[part] = {a * 10**n_digits + b for a, b, _ in decode(with_answers(operands))}
        assert len(indices[part]) == n
        assert {index % HELD_OUT_MODULUS == 0 for index in indices[part]} == {part == "test"}
    assert not indices["train"] & indices["test"]


def test_the_parts_make_up_the_whole_space():
    everything = set()
    for part in ("train", "test"):
        operands = sample_operands(
            n_problems(2, part), n_digits=2, part=part, generator=torch.Generator().manual_seed(0)
        )
        everything |= {(a, b) for a, b, _ in decode(with_answers(operands))}
    assert everything == {(a, b) for a in range(100) for b in range(100)}


def test_fresh_problems_are_uniform_over_digits():
    operands = fresh_operands(50_000, part="train", generator=torch.Generator().manual_seed(0))
    counts = torch.stack([torch.bincount(column, minlength=10) for column in operands.T]).double()
    chi_squared = ((counts - 5000) ** 2 / 5000).sum(dim=1)
    # 99.99 % quantile of chi-squared with 9 degrees of freedom is 33.7.
    assert chi_squared.max() < 33.7


@pytest.mark.parametrize("n_digits", [1, 2, 6, 9])
def test_problems_with_nines_are_of_the_training_part(n_digits):
    generator = torch.Generator().manual_seed(0)
    drawn = fresh_operands(20_000, n_digits=n_digits, part="train", generator=generator)
    made = with_nines(drawn, generator=generator)
    assert all((a * 10**n_digits + b) % HELD_OUT_MODULUS for a, b, _ in decode(with_answers(made)))
    # The first number is as it was; a column of the second is as it was, or makes nine: one half, and a tenth of the others.
    assert torch.equal(made[:, :n_digits], drawn[:, :n_digits])
    nine = made[:, :n_digits] + made[:, n_digits:] == 9
    assert bool((nine | (made[:, n_digits:] == drawn[:, n_digits:])).all())
    assert float(nine.double().mean()) == pytest.approx(0.55, abs=0.02)


def test_sampling_does_not_list_the_space():
    operands = sample_operands(10, n_digits=9, part="train", generator=torch.Generator().manual_seed(0))
    assert operands.shape == (10, 18)
    assert answer_digits(operands).shape == (10, 10)


@pytest.mark.parametrize(
    ("request_", "quoted"),
    [
        (lambda: encode([1_000_000], [0]), "1000000"),
        (lambda: encode([-1], [0]), "-1"),
        (lambda: encode([1, 2], [0]), "2 first numbers"),
        (lambda: from_text(["12x4"]), "'x'"),
        (lambda: from_text(["12345"]), "5 tokens"),
        (lambda: decode(torch.tensor([[11, 0, 1, 1]])), "11"),
        (lambda: sample_operands(3, n_digits=1, part="test", generator=torch.Generator()), "n = 3"),
        (lambda: n_problems(10), "n_digits = 10"),
    ],
)
def test_wrong_requests_quote_the_value(request_, quoted):
    with pytest.raises(RequestError, match=quoted):
        request_()
