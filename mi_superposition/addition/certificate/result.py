"""What a certificate says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.results import Result


@dataclass(frozen=True)
class Sampled:
    """The model itself, in float32, on problems drawn at random: shares right by digit and of whole sums.

    ``other_answers``: of how many of these problems some answer digit is another one than in exact arithmetic (as far as float64 shows).
    """

    n_problems: int
    by_digit: Float[Tensor, " digit"]
    whole_sums: float
    other_answers: int


@dataclass(frozen=True)
class Curve:
    """How the bounds grew: shares proven right and proven wrong of every answer digit after so many seconds and boxes. The seconds are NaN for
    a search that ended by its number of boxes, whose result is the same on every machine.
    """

    seconds: Float[Tensor, " moment"]
    boxes: Int[Tensor, " moment"]
    right: Float[Tensor, "moment digit"]
    wrong: Float[Tensor, "moment digit"]

    @property
    def timed(self) -> bool:
        """Whether it has seconds."""
        return bool(self.seconds.isfinite().all())


@dataclass(frozen=True, repr=False)
class Certificate(Result):
    """Proven bounds on the share of all problems whose answer digit is right, for every digit, and for whole sums.

    ``right`` and ``wrong`` are shares of all ``10**(2 n_digits)`` problems. ``cells`` are shares proven right and proven wrong by the sums of two
    columns: the digit's own (of the last digit, the one below it), then the next below (0 where there is none).
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.addition.certify:figure"

    model: str
    n_digits: int
    without_heads: list[int]
    right: Float[Tensor, " digit"]
    wrong: Float[Tensor, " digit"]
    cells: Float[Tensor, "digit own_sum sum_below proven"]
    boxes: Int[Tensor, " digit"]
    curve: Curve
    sampled: Sampled

    @property
    def lower(self) -> Float[Tensor, " digit"]:
        """At least this share of all problems has the digit right."""
        return self.right

    @property
    def upper(self) -> Float[Tensor, " digit"]:
        """At most this share of all problems has the digit right."""
        return 1 - self.wrong

    @property
    def sums(self) -> tuple[float, float]:
        """At least, and at most, this share of all sums is right as a whole: the digits' errors at worst never coincide, and at best always."""
        return max(0.0, 1 - float((1 - self.lower).sum())), float(self.upper.min())

    @property
    def holds(self) -> bool:
        """Whether the sampled accuracies are between the bounds, up to four standard errors of the sample."""
        share = torch.stack([self.lower, self.upper]).clamp(0, 1)
        low, high = share - torch.tensor([4.0, -4.0])[:, None] * (share * (1 - share) / self.sampled.n_problems).sqrt()
        margin = 1 / self.sampled.n_problems
        return bool(((self.sampled.by_digit >= low - margin) & (self.sampled.by_digit <= high + margin)).all())

    def summary(self) -> str:
        """The bounds in a line, beside what sampling shows."""
        least, most = self.sums
        gap = self.upper - self.lower
        heads = f" without heads {', '.join(map(str, self.without_heads))}" if self.without_heads else ""
        return (
            f"{self.model}{heads}: of all {10 ** (2 * self.n_digits):,} sums at least {100 * least:.2f} and at most {100 * most:.2f} % are right, proven "
            f"({100 * self.sampled.whole_sums:.2f} % of {self.sampled.n_problems:,} drawn at random); of single digits all but "
            f"{100 * float(gap.min()):.3f} to {100 * float(gap.max()):.3f} % are proven right or wrong"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per answer digit, the ones first: bounds and the sampled accuracy as shares."""
        columns = {
            "at_least": self.lower,
            "at_most": self.upper,
            "gap": self.upper - self.lower,
            "sampled": self.sampled.by_digit,
            "boxes": self.boxes,
        }
        return pd.DataFrame({name: values.tolist() for name, values in columns.items()}).rename_axis("digit")

    def metrics(self) -> dict[str, Any]:
        """All numbers, flat; lists run over the answer digits, ones first."""
        least, most = self.sums
        return {
            "at_least": self.lower.tolist(),
            "at_most": self.upper.tolist(),
            "sums_at_least": least,
            "sums_at_most": most,
            "sampled": self.sampled.by_digit.tolist(),
            "sampled_sums": self.sampled.whole_sums,
            "sampled_problems": self.sampled.n_problems,
            "other_answers_in_float32": self.sampled.other_answers,
            "boxes": self.boxes.tolist(),
        } | ({"search_seconds": float(self.curve.seconds[-1])} if self.curve.timed else {})
