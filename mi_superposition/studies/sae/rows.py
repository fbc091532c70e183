"""Lines of an evaluation's table: an autoencoder, or what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AUTOENCODER, PCA, LARGEST, RANDOM = "autoencoder", "principal components", "largest dimensions", "random dictionary"
PROJECTED = "training activations, largest projections"
FOREIGN, SHUFFLED = "autoencoder of a shuffled model", "autoencoder of a shuffled model, on that model"
# By orthogonal matching pursuit, and the autoencoder on the same tokens where these are not all.
PURSUED_ACTIVATIONS, PURSUED_RANDOM = "training activations, matching pursuit", "random directions, matching pursuit"
PURSUED_DECODER, SAME_TOKENS = "autoencoder's directions, matching pursuit", "autoencoder, tokens of matching pursuit"
PURSUED = (PURSUED_ACTIVATIONS, PURSUED_RANDOM, PURSUED_DECODER)
# What needs no autoencoder, of this model or another.
UNTRAINED = (PCA, LARGEST, RANDOM, PROJECTED, PURSUED_ACTIVATIONS, PURSUED_RANDOM)
# What they are called where they are shown, in the order of the table; the keys are those of ``metrics.json``.
KINDS = {
    AUTOENCODER: "autoencoder",
    PCA: "principal components",
    LARGEST: "largest dimensions",
    RANDOM: "random dictionary",
    PROJECTED: "training activations as a dictionary",
    SAME_TOKENS: "autoencoder, on the tokens of the next three rows",
    PURSUED_ACTIVATIONS: "training activations, by matching pursuit",
    PURSUED_RANDOM: "random directions, by matching pursuit",
    PURSUED_DECODER: "the autoencoder's directions, by matching pursuit",
    FOREIGN: "SAE of a weight-shuffled model",
    SHUFFLED: "the same, evaluated on its own model",
}
# Multiply-adds with which the features of a token are found.
COST = "encoding_multiply_adds"
# Numbers of the table: heading, and how they are written.
COLUMNS = {
    "l0": ("L0", ".1f"),
    "explained_variance": ("explained variance", ".3f"),
    "cosine": ("cosine", ".3f"),
    "relative_bias": ("norm ratio", ".3f"),
    "ce": ("cross-entropy", ".3f"),
    "recovered": ("loss recovered", ".3f"),
    "kl": ("KL", ".3f"),
    "dead": ("dead features", ","),
    "dense": ("dense features", ","),
    COST: ("multiply-adds", ","),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: which autoencoder it belongs to, of which kind it is, and its numbers."""

    sae: str
    kind: str
    hook: str
    numbers: dict[str, float | int]


@dataclass(frozen=True)
class Strongest:
    """The untrained dictionary that explains most with as many features per token, and the autoencoder on the same tokens."""

    kind: str
    numbers: Mapping[str, float | int]
    autoencoder: Mapping[str, float | int]

    @property
    def cost(self) -> float | None:
        """How many times as many multiply-adds it takes to find the features of a token; ``None`` where it is not known."""
        if COST not in self.numbers or not self.autoencoder.get(COST):
            return None
        return self.numbers[COST] / self.autoencoder[COST]


def strongest(numbers: Mapping[str, Mapping[str, float | int]]) -> Strongest:
    """Of the numbers of an autoencoder and of all that it is compared with, by kind."""
    explained = {
        kind: one["explained_variance"]
        for kind, one in numbers.items()
        if kind in UNTRAINED and "explained_variance" in one
    }
    # Where nothing varies none explains more than another.
    kind = max(explained, key=lambda name: explained[name], default=PCA)
    own = numbers.get(SAME_TOKENS, numbers[AUTOENCODER]) if kind in PURSUED else numbers[AUTOENCODER]
    return Strongest(kind, numbers[kind], own)


def cell(numbers: Mapping[str, float | int], name: str) -> str:
    """A number as the table has it; a dash where there is none."""
    return format(numbers[name], COLUMNS[name][1]) if name in numbers else "–"


def cells(numbers: Mapping[str, float | int]) -> list[str]:
    """A line of the table."""
    return [cell(numbers, name) for name in COLUMNS]


def losses_without(rows: Sequence[Row]) -> list[str]:
    """For each hook a sentence with the cross-entropies that do not depend on the autoencoder."""
    own = {row.hook: row.numbers for row in rows if row.kind == AUTOENCODER}
    return [
        f"{hook}, cross-entropy in nats per token: model {numbers['ce_clean']:.3f}, mean ablation {numbers['ce_mean']:.3f}, "
        f"zero ablation {numbers['ce_zero']:.3f}"
        for hook, numbers in own.items()
        if "ce_clean" in numbers
    ]
