"""Addition problems as token sequences.

One problem is ``a`` (n digits), ``b`` (n digits), ``a + b`` (n + 1 digits), all least significant digit
first and without separators: 19 tokens for six digits. Tokens 0-9 are the digits, 10 is ``=`` and 11 is
``^`` (in the vocabulary of Thaman et al., in no sequence of ours). Format: their notebooks to
"Experiments in Superposition" (Alignment Jam 10).

A model of other people's may have the digits of each number the other way round, as people write them (``DigitOrder``): problems are kept
ones first, and turned round where such a model reads and answers them.

A problem is named by its *index* ``a * 10**n + b``. Every index that is a multiple of ``HELD_OUT_MODULUS``
is held out: training sets never contain one and test sets contain nothing else, whatever the seeds, so the
two are disjoint by construction without either being listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.errors import RequestError
from mi_superposition.parts import DigitOrder

EQUALS_TOKEN = 10
D_VOCAB = 12
D_VOCAB_OUT = 10
SYMBOLS = "0123456789=^"
HELD_OUT_MODULUS = 97
# Of a model's configuration, where it is not the usual one.
_ORDER = "digit_order"
MAX_DIGITS = 9  # 10**(2 * 9) still fits an int64 index

Part = Literal["train", "test"]


def check_n_digits(n_digits: int) -> None:
    """Raise ``RequestError`` unless ``1 <= n_digits <= 9`` (an index must fit 64 bits)."""
    if not 1 <= n_digits <= MAX_DIGITS:
        raise RequestError(f"n_digits = {n_digits}: a problem has 1 to {MAX_DIGITS} digits")


def n_positions(n_digits: int) -> int:
    """Length of one sequence in tokens: ``3 n + 1``."""
    return 3 * n_digits + 1


def answer_positions(n_digits: int) -> slice:
    """Positions that hold the answer digits, least significant first: 12 to 18 for six digits."""
    return slice(2 * n_digits, n_positions(n_digits))


def n_problems(n_digits: int, part: Part | None = None) -> int:
    """How many problems there are: all ``10**(2 n)``, or those open to training, or the held-out ones."""
    check_n_digits(n_digits)
    total = 10 ** (2 * n_digits)
    held_out = -(-total // HELD_OUT_MODULUS)
    return {None: total, "test": held_out, "train": total - held_out}[part]


def _index_in_part(rank: Int[Tensor, " problem"], part: Part) -> Int[Tensor, " problem"]:
    """The ``rank``-th index of a part: multiples of the modulus, or the numbers between them."""
    if part == "test":
        return rank * HELD_OUT_MODULUS
    return rank + rank // (HELD_OUT_MODULUS - 1) + 1


def _operands(index: Int[Tensor, " problem"], n_digits: int) -> Int[Tensor, "problem operand_digit"]:
    """Digits of ``a`` then of ``b``, least significant first, from problem indices."""
    powers = 10 ** torch.arange(n_digits)
    a, b = index // 10**n_digits, index % 10**n_digits
    return torch.cat([a[:, None] // powers % 10, b[:, None] // powers % 10], dim=1)


def column_carries(operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem digit"]:
    """Carry (0 or 1) *into* each of the n + 1 answer digits; the first is always 0."""
    n_digits = operands.shape[1] // 2
    column_sums = operands[:, :n_digits] + operands[:, n_digits:]
    carries = [torch.zeros_like(column_sums[:, 0])]
    for column in range(n_digits):
        carries.append((column_sums[:, column] + carries[-1]) // 10)
    return torch.stack(carries, dim=1)


def nines_below(operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem digit"]:
    """For each answer digit, how many columns directly below it sum to exactly 9.

    Such a column hands on the carry it gets, so the digit's carry is decided that many columns further down.
    """
    n_digits = operands.shape[1] // 2
    nine = operands[:, :n_digits] + operands[:, n_digits:] == 9
    runs = [torch.zeros_like(operands[:, 0])]
    for column in range(n_digits):
        runs.append(torch.where(nine[:, column], runs[-1] + 1, 0))
    return torch.stack(runs, dim=1)


def answer_digits(operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem digit"]:
    """The n + 1 digits of ``a + b``, least significant first."""
    n_digits = operands.shape[1] // 2
    column_sums = operands[:, :n_digits] + operands[:, n_digits:]
    return (torch.nn.functional.pad(column_sums, (0, 1)) + column_carries(operands)) % 10


def reads_in_order(model: HookedTransformer, order: DigitOrder) -> HookedTransformer:
    """The same model, of which is now known in what order its numbers stand; untrained copies of it know too."""
    setattr(model.cfg, _ORDER, order)
    return model


def places(model: HookedTransformer, n_digits: int) -> Int[Tensor, " pos"]:
    """For each token of a problem written ones first, the position at which the model has it. The inverse is the same."""
    numbers = torch.arange(n_positions(n_digits)).split([n_digits, n_digits, n_digits + 1])
    turned = getattr(model.cfg, _ORDER, "ones first") == "ones last"
    return torch.cat([number.flip(0) if turned else number for number in numbers])


def as_read(model: HookedTransformer, tokens: Int[Tensor, "problem pos"]) -> Int[Tensor, "problem pos"]:
    """Problems written ones first, as the model reads them."""
    return tokens[:, places(model, _n_digits_of(tokens)).to(tokens.device)]


def answer_places(model: HookedTransformer, n_digits: int) -> Int[Tensor, " digit"]:
    """The position of each answer digit, ones first, in what the model reads."""
    return places(model, n_digits)[answer_positions(n_digits)]


def with_answers(operands: Int[Tensor, "problem operand_digit"]) -> Int[Tensor, "problem pos"]:
    """Whole sequences, answer digits included."""
    return torch.cat([operands, answer_digits(operands)], dim=1)


def masked(tokens: Int[Tensor, "problem pos"]) -> Int[Tensor, "problem pos"]:
    """The same problems with ``=`` in place of every answer digit, as the model of the study sees them."""
    tokens = tokens.clone()
    tokens[:, answer_positions(_n_digits_of(tokens))] = EQUALS_TOKEN
    return tokens


def sample_operands(
    n: int, *, n_digits: int = AdditionConfig.n_digits, part: Part, generator: torch.Generator
) -> Int[Tensor, "problem operand_digit"]:
    """``n`` distinct problems drawn uniformly from a part, in random order, without listing the space.

    Raises ``RequestError`` when the part has fewer than ``n`` problems.
    """
    available = n_problems(n_digits, part)
    if not 1 <= n <= available:
        raise RequestError(f"n = {n} {part} problems of {n_digits} digits: there are {available}, ask for 1 to so many")
    if available <= 4 * n:
        rank = torch.randperm(available, generator=generator)[:n]
    else:
        # Rejection: at most a quarter of the space is taken, so few rounds are needed. `unique` sorts, hence
        # the shuffle before the surplus is cut off.
        rank = torch.empty(0, dtype=torch.long)
        while len(rank) < n:
            drawn = torch.randint(available, (n + n // 8 + 8,), generator=generator)
            rank = torch.unique(torch.cat([rank, drawn]))
        rank = rank[torch.randperm(len(rank), generator=generator)][:n]
    return _operands(_index_in_part(rank, part), n_digits)


def fresh_operands(
    n: int, *, n_digits: int = AdditionConfig.n_digits, part: Part, generator: torch.Generator
) -> Int[Tensor, "problem operand_digit"]:
    """``n`` problems drawn uniformly *with* replacement from a part: the cheap stream for endless training."""
    rank = torch.randint(n_problems(n_digits, part), (n,), generator=generator)
    return _operands(_index_in_part(rank, part), n_digits)


def chains_of_nines(
    n: int, *, n_digits: int = AdditionConfig.n_digits, generator: torch.Generator
) -> Int[Tensor, "problem operand_digit"]:
    """``n`` problems whose columns sum to 9, but for one drawn at random, which sums to 8, 9 or 10: the carry is decided there, however
    far below.
    """
    a = torch.randint(0, 10, (n, n_digits), generator=generator)
    column = torch.randint(0, n_digits, (n, 1), generator=generator)
    change = torch.randint(-1, 2, (n, 1), generator=generator)
    return torch.cat([a, (9 - a).scatter_add(1, column, change).clamp(0, 9)], dim=1)


def with_nines(
    operands: Int[Tensor, "problem operand_digit"], *, generator: torch.Generator
) -> Int[Tensor, "problem operand_digit"]:
    """Training problems with each column made to sum to 9 with a probability of one half, so that carries pass through chains of all
    lengths. What would become a test problem stays as it is.
    """
    n_digits = operands.shape[1] // 2
    a, b = operands.split(n_digits, dim=1)
    nine = torch.rand(a.shape, generator=generator) < 0.5
    changed = torch.cat([a, torch.where(nine, 9 - a, b)], dim=1)
    powers = 10 ** torch.arange(n_digits)
    index = (changed * torch.cat([powers * 10**n_digits, powers])).sum(dim=1)
    return torch.where((index % HELD_OUT_MODULUS == 0)[:, None], operands, changed)


def encode(a: Sequence[int], b: Sequence[int], n_digits: int = AdditionConfig.n_digits) -> Int[Tensor, "problem pos"]:
    """Tokens of the problems ``a[i] + b[i]``, answers included.

    Raises ``RequestError`` for a number that is negative or has more than ``n_digits`` digits.
    """
    check_n_digits(n_digits)
    for number in (*a, *b):
        if not 0 <= number < 10**n_digits:
            raise RequestError(f"{number} is not a number of at most {n_digits} digits (0 to {10**n_digits - 1})")
    if len(a) != len(b):
        raise RequestError(f"{len(a)} first numbers and {len(b)} second numbers: give as many of each")
    index = torch.tensor([x * 10**n_digits + y for x, y in zip(a, b, strict=True)], dtype=torch.long)
    return with_answers(_operands(index, n_digits))


def encode_sums(
    a: Sequence[int], b: Sequence[int], n_digits: int = AdditionConfig.n_digits
) -> Int[Tensor, "problem pos"]:
    """Tokens of a + b as a model reads them to add: both numbers, ones first, and '=' where the answer goes.

    Raises as ``encode``.
    """
    return masked(encode(a, b, n_digits))


def decode(tokens: Int[Tensor, "problem pos"]) -> list[tuple[int, int, int | None]]:
    """``(a, b, a + b as written)`` for each sequence; the sum is ``None`` where any answer digit is not a digit.

    The written sum is read from the tokens, not computed: a wrong answer decodes to the wrong number.
    """
    n_digits = _n_digits_of(tokens)
    decoded = []
    for row in tokens.tolist():
        a, b, answer = row[:n_digits], row[n_digits : 2 * n_digits], row[2 * n_digits :]
        if max(a + b) > 9 or min(row) < 0:
            raise RequestError(f"tokens {row}: positions 0 to {2 * n_digits - 1} must hold digits 0-9")
        decoded.append((_number(a), _number(b), _number(answer) if max(answer) <= 9 else None))
    return decoded


def to_text(tokens: Int[Tensor, "problem pos"]) -> list[str]:
    """Sequences as strings over ``0123456789=^``, one character a token."""
    return ["".join(SYMBOLS[token] for token in row) for row in tokens.tolist()]


def from_text(texts: Sequence[str]) -> Int[Tensor, "problem pos"]:
    """Inverse of ``to_text``. Raises ``RequestError`` for another character or an impossible length."""
    for text in texts:
        if strange := set(text) - set(SYMBOLS):
            raise RequestError(f"{text!r} has {sorted(strange)}: only {SYMBOLS!r} stand in a problem")
        if len(text) != len(texts[0]):
            raise RequestError(f"{text!r} has {len(text)} tokens, the first has {len(texts[0])}: lengths must agree")
    tokens = torch.tensor([[SYMBOLS.index(symbol) for symbol in text] for text in texts], dtype=torch.long)
    _n_digits_of(tokens)
    return tokens


def _number(digits: list[int]) -> int:
    return sum(digit * 10**place for place, digit in enumerate(digits))


def _n_digits_of(tokens: Int[Tensor, "problem pos"]) -> int:
    n_digits, remainder = divmod(tokens.shape[-1] - 1, 3)
    if remainder or n_digits < 1:
        raise RequestError(f"{tokens.shape[-1]} tokens: a problem of n digits has 3 n + 1 (19 for six digits)")
    return n_digits
