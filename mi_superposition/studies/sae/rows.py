"""Lines of an evaluation's table: an autoencoder, or what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AUTOENCODER, PCA, LARGEST, RANDOM = "autoencoder", "principal components", "largest dimensions", "random dictionary"
FOREIGN, SHUFFLED = "autoencoder of a shuffled model", "autoencoder of a shuffled model, on that model"
# What they are called where they are shown, in the order of the table; the keys are those of ``metrics.json``.
KINDS = {
    AUTOENCODER: "autoencoder",
    PCA: "principal components",
    LARGEST: "largest dimensions",
    RANDOM: "random dictionary",
    FOREIGN: "SAE of a weight-shuffled model",
    SHUFFLED: "the same, evaluated on its own model",
}
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
}


@dataclass(frozen=True)
class Row:
    """One line of the table: which autoencoder it belongs to, of which kind it is, and its numbers."""

    sae: str
    kind: str
    hook: str
    numbers: dict[str, float | int]


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
