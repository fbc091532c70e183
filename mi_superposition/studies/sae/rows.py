"""Lines of an evaluation's table: an autoencoder, or what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SAE, PCA, LARGEST, RANDOM = "autoencoder", "principal components", "largest dimensions", "random dictionary"
FOREIGN, SHUFFLED = "autoencoder of a shuffled model", "autoencoder of a shuffled model, on that model"
KINDS = {
    SAE: "The autoencoder.",
    PCA: "The directions of most variance in the text trained on: the same ones for every token.",
    LARGEST: "Of every token the dimensions furthest from their mean.",
    RANDOM: "Of every token those of random directions (as many as features) it points along most, with the coefficients of least squares.",
    FOREIGN: "Trained with the same settings on the model with the entries of every weight matrix in a random order; reads this model's activations brought to the mean and size it knows.",
    SHUFFLED: "The same one on the shuffled model itself: how well one reconstructs what a model that kept only the sizes of its weights makes of the same text.",
}
# Numbers of the table: heading, and how they are written.
COLUMNS = {
    "l0": ("L0", ".1f"),
    "explained_variance": ("explained", ".3f"),
    "cosine": ("cosine", ".3f"),
    "relative_bias": ("length", ".3f"),
    "ce": ("cross-entropy", ".3f"),
    "recovered": ("recovered", ".3f"),
    "kl": ("KL", ".3f"),
    "dead": ("dead", ","),
    "dense": ("dense", ","),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: which autoencoder it belongs to, of which kind it is, and its numbers."""

    sae: str
    kind: str
    hook: str
    numbers: dict[str, float | int]


def cells(numbers: Mapping[str, float | int]) -> list[str]:
    """The numbers as the table has them; a dash where there is none."""
    return [format(numbers[name], form) if name in numbers else "–" for name, (_, form) in COLUMNS.items()]


def losses_without(rows: list[Row]) -> list[str]:
    """For each hook a sentence with the cross-entropies that do not depend on the autoencoder."""
    own = {row.hook: row.numbers for row in rows if row.kind == SAE}
    return [
        f"{hook}, nats a token: the model itself {numbers['ce_clean']:.3f}, the mean in place of the activations "
        f"{numbers['ce_mean']:.3f}, zeros {numbers['ce_zero']:.3f}"
        for hook, numbers in own.items()
        if "ce_clean" in numbers
    ]
