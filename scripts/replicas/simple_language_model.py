"""Stringer's simple language model: its correlation matrix, reproduced, and that of a thousand other seeds.

    python scripts/replicas/simple_language_model.py --out simple.json --picture simple.html

The network is not trained and its five "concepts" are drawn at random, so the matrix is one of random numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from jaxtyping import Float
from replica import STRINGER, Heatmap, Row, draw, percentile, report
from torch import Tensor, nn

WORDS, D_EMBEDDING, D_HIDDEN, TOKENS, CONCEPTS = 1000, 50, 20, 100, 5
# The upper triangle that the source prints, row by row: the hidden layer's mean and five concepts.
PRINTED = (
    (0.2627, -0.0627, 0.0544, 0.1577, -0.2853),
    (0.0604, -0.0051, 0.5944, 0.3043),
    (0.0394, 0.1046, -0.1701),
    (-0.2142, 0.0359),
    (-0.1420,),
)


class Drawn(NamedTuple):
    """What one seed gives: hidden activations of 100 words, five concepts, and the correlations of the two."""

    hidden: Float[Tensor, "token hidden"]
    concepts: Float[Tensor, "concept hidden"]
    correlation: Float[Tensor, "row row"]


@torch.no_grad()
def drawn(seed: int) -> Drawn:
    """Every random number in the source's order: three layers, the words, the concepts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding, linear = nn.Embedding(WORDS, D_EMBEDDING), nn.Linear(D_EMBEDDING, D_HIDDEN)
        nn.Linear(D_HIDDEN, WORDS)
        hidden = torch.relu(linear(embedding(torch.randint(0, WORDS, (TOKENS,)))))
        concepts = torch.rand(CONCEPTS, D_HIDDEN)
    rows = torch.cat([hidden.mean(dim=0, keepdim=True), concepts])
    return Drawn(hidden, concepts, torch.corrcoef(rows))


def refusal() -> str:
    """What torch says to the source's second version, which names a dimension."""
    options = {"dim": 0}
    try:
        torch.corrcoef(torch.rand(CONCEPTS, D_HIDDEN), **options)
    except TypeError as error:
        return str(error).splitlines()[0]
    return "nothing"


def main(seed: int = 42, seeds: int = 1000, out: Path | None = None, picture: Path | None = None) -> None:
    """Compare.

    Args:
        seed: The source's is 42.
        seeds: Other seeds, from 0 up.
        out: JSON file of all numbers.
        picture: HTML file of both heat maps.
    """
    mine = drawn(seed)
    above = torch.triu_indices(CONCEPTS + 1, CONCEPTS + 1, offset=1).unbind()
    printed = torch.tensor([value for row in PRINTED for value in row])
    values = mine.correlation[above]
    difference = float((values - printed).abs().max())
    others = torch.stack([drawn(other).correlation[above] for other in range(seeds + 1) if other != seed][:seeds]).abs()
    said, magnitude, largest = refusal(), float(values.abs().mean()), float(values.abs().max())
    # The first five of the upper triangle are the model's, the rest those of concepts with each other.
    model, means = float(values[:CONCEPTS].abs().mean()), others.mean(dim=1).tolist()
    chance = f"{float(others.mean()):.4f} (this one larger than {percentile(magnitude, means):.0f} %)"
    chance_largest = f"{float(others.amax(dim=1).median()):.4f} (larger than {percentile(largest, others.amax(dim=1).tolist()):.0f} %)"
    models = others[:, :CONCEPTS].mean(dim=1).tolist()
    chance_model = f"{sum(models) / len(models):.4f} (larger than {percentile(model, models):.0f} %)"
    nothing = f"{seeds} other seeds give as much: the network is untrained and the concepts are random numbers"
    rows = [
        Row("6 × 6 correlations, largest difference", 0.0, difference, None, "confirmed" if difference <= 5e-5 else "not confirmed"),
        Row("mean |r| of the 15 pairs", float(printed.abs().mean()), magnitude, chance, "confirmed"),
        Row("mean |r| of the hidden layer with the concepts: they share neurons", float(printed[:CONCEPTS].abs().mean()), model, chance_model, "refuted", nothing),
        Row("largest |r|, of two concepts", float(printed.abs().max()), largest, chance_largest, "confirmed", "none of it is the model's"),
        Row("second version, corrcoef(…, dim=0), gives the same matrix", "the same", "TypeError" if said != "nothing" else said, None, "refuted" if said != "nothing" else "confirmed", said),
    ]  # fmt: skip
    settings = {"seed": seed, "other seeds": seeds, "words": WORDS, "embedding": D_EMBEDDING, "hidden": D_HIDDEN, "tokens": TOKENS, "concepts": CONCEPTS}  # fmt: skip
    details = {
        "correlation_matrix": mine.correlation.tolist(),
        "hidden_activations_by_token": mine.hidden.tolist(),
        "concept_activations": mine.concepts.tolist(),
        "mean_magnitude_of_other_seeds": means,
        "largest_difference_from_source": difference,
    }
    report("simple language model", STRINGER, settings, rows, details, out)
    activations = Heatmap("Hidden activations", mine.hidden.T.tolist(), "token", "neuron")
    draw(picture, [activations, Heatmap("Concepts: random numbers", mine.concepts.tolist(), "neuron", "concept")])


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
