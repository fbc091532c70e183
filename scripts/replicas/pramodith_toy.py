"""Pramodith's five features in two dimensions, in his own settings: which are represented, and what "all" would need.

    python scripts/replicas/pramodith_toy.py --out pramodith.json --picture pramodith.html

Inputs are *normal* times a mask, so half of all values are negative, which a ReLU cannot output. AdamW, cosine decay, 10,000
steps of 1,024 inputs, importance 0.9^i, seed 42 and its stream of random numbers. The control has the inputs of Elhage et al.
2022, uniform in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from replica import PRAMODITH, Heatmap, Row, draw, report, share, spread
from torch import Tensor, nn

from mi_superposition.toy.geometry import angles, feature_norms, gram, represented

FEATURES, HIDDEN, BATCH, RATE, RATIO, SPARSITIES = 5, 2, 1024, 1e-3, 0.9, (0.5, 0.9)
# Directions nearer than this, in degrees, are one (ours).
SAME = 10.0
# The two weight matrices that the source prints: linear without sparsity, ReLU with sparsity 0.5.
LINEAR = [[0.26402, 0.96451], [0.96451, -0.26402], [-8.6666e-4, -9.6285e-4], [-2.1106e-3, 2.7462e-3], [-8.1111e-4, 6.3841e-4]]  # fmt: skip
RELU = [[-0.6713, -0.7695], [0.7633, -0.6665], [0.1703, -0.1484], [-0.1165, -0.1336], [0.0969, -0.0838]]

Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Trained:
    """Instances of the autoencoder x̂ = act(W^T W x + b)."""

    W: Float[Tensor, "instance hidden feature"]
    b: Float[Tensor, "instance feature"]
    loss: Float[Tensor, " instance"]


def trained(instances: int, sparsity: float, *, relu: bool, steps: int, values: Draw = torch.randn) -> Trained:
    """Train from the global random state, as the source does; ``values`` draws what an input is where it is not masked."""
    W = nn.Parameter(torch.stack([nn.init.xavier_normal_(torch.empty(FEATURES, HIDDEN)) for _ in range(instances)]))
    b = nn.Parameter(torch.zeros(instances, 1, FEATURES))
    importance = RATIO ** torch.arange(FEATURES)
    optimizer = torch.optim.AdamW([W, b], lr=RATE)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    losses = torch.zeros(instances)
    for step in range(steps):
        x = values(instances, BATCH, FEATURES)
        x = x * (torch.rand(instances, BATCH, FEATURES) > sparsity)
        guess = x @ W @ W.transpose(1, 2) + b
        loss = (importance * ((torch.relu(guess) if relu else guess) - x) ** 2).sum(dim=2).mean(dim=1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        decay.step()
        if step >= steps * 9 // 10:
            losses += loss.detach() / (steps - steps * 9 // 10)
    return Trained(W.detach().transpose(1, 2), b.detach()[:, 0], losses)


def signed_interference(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """The signed sum of each feature's products with the others."""
    return (products := gram(W)).sum(dim=-1) - products.diagonal(dim1=-2, dim2=-1)


def described(models: Trained) -> dict[str, list[Any]]:
    """Of each instance: directions, norms, biases, angles in degrees, products and signed interference."""
    parts = {"W": models.W.transpose(1, 2), "norms": feature_norms(models.W), "bias": models.b, "angles": angles(models.W),
             "products": gram(models.W), "signed_interference": signed_interference(models.W), "loss": models.loss}  # fmt: skip
    return {name: part.tolist() for name, part in parts.items()}


def nearest_angles(W: Float[Tensor, "instance hidden feature"], *, axes: bool) -> Float[Tensor, " instance"]:
    """The smallest angle of any two features' directions, degrees, or of their axes: opposite directions are one axis."""
    between = angles(W)
    between = torch.minimum(between, 180 - between) if axes else between
    return (between + 180 * torch.eye(FEATURES)).amin(dim=(1, 2))


def told(values: Tensor) -> str:
    """Numbers in a row."""
    return " ".join(f"{value:.2f}" for value in values.tolist())


def probabilities(n: int = 2_000_000) -> tuple[float, float]:
    """By drawing: that three features of probability 0.05 are all present, and that one of two of probability 0.1 is."""
    generator = torch.Generator().manual_seed(0)
    three, two = torch.rand(n, 3, generator=generator) < 0.05, torch.rand(n, 2, generator=generator) < 0.1
    return float(three.all(dim=1).double().mean()), float(two.any(dim=1).double().mean())


def main(
    steps: int = 10_000, instances: int = 24, seed: int = 42, out: Path | None = None, picture: Path | None = None
) -> None:
    """Train, compare.

    Args:
        steps: Optimizer steps; the source's are 10,000.
        instances: ReLU models at each sparsity, besides the source's one.
        seed: The source's is 42.
        out: JSON file of all numbers.
        picture: HTML file of norms, products, biases and signed interference of the source's two ReLU models.
    """
    torch.manual_seed(seed)
    # The source makes one model and one input to try them before it trains.
    nn.init.xavier_normal_(torch.empty(FEATURES, HIDDEN))
    torch.rand(1, FEATURES)
    linear = trained(1, 0.0, relu=False, steps=steps)
    one = {sparsity: trained(1, sparsity, relu=True, steps=steps) for sparsity in SPARSITIES}
    many = {sparsity: trained(instances, sparsity, relu=True, steps=steps) for sparsity in SPARSITIES}
    uniform = {s: trained(instances, s, relu=True, steps=steps, values=torch.rand) for s in SPARSITIES}
    printed, away = torch.tensor(RELU).T, float((linear.W[0].T - torch.tensor(LINEAR)).abs().max())
    norms = feature_norms(many[0.5].W).mean(dim=0)
    nearest = float((norms - feature_norms(printed)).abs().max())
    rows = [
        Row("linear, no sparsity: W, largest difference", 0.0, away, None, "confirmed" if away < 1e-4 else "not confirmed", f"angle of features 0 and 1 {float(angles(linear.W[0])[0, 1]):.2f}°, {float(represented(linear.W[0])):.0f} represented"),
        Row("ReLU, sparsity 0.5: norms of the features", told(feature_norms(printed)), told(norms), f"uniform inputs {told(feature_norms(uniform[0.5].W).mean(dim=0))}", "confirmed" if nearest < 0.05 else "not confirmed", f"means; its W itself is not the next of the stream: norms {told(feature_norms(one[0.5].W[0]))}"),
    ]  # fmt: skip
    for sparsity in SPARSITIES:
        counts, usual = represented(many[sparsity].W), represented(uniform[sparsity].W)
        everywhere, control = int((counts == FEATURES).sum()), int((usual == FEATURES).sum())
        apart, same = (
            nearest_angles(models.W, axes=sparsity == 0.5) > SAME for models in (many[sparsity], uniform[sparsity])
        )
        wanted = float(represented(printed)) if sparsity == 0.5 else None
        rows += [
            Row(f"sparsity {sparsity}: features with a norm above ½", wanted, spread(counts.tolist()), f"uniform inputs {spread(usual.tolist())}", "confirmed" if wanted == float(counts.mean()) else "ours"),
            Row(f"sparsity {sparsity}: all five are represented", "all", share(everywhere, instances), f"uniform inputs {share(control, instances)}", "confirmed" if everywhere == instances else "refuted"),
            Row("sparsity 0.5: some features share an axis" if wanted else "sparsity 0.9: all features have directions of their own", "yes", share(int((~apart if wanted else apart).sum()), instances), f"uniform inputs {share(int((~same if wanted else same).sum()), instances)}", "confirmed" if bool((~apart if wanted else apart).all()) else "refuted", f"within {SAME:g}° of each other" + (" or of the opposite" if wanted else "")),
        ]  # fmt: skip
    own, signed, bias = signed_interference(printed), signed_interference(many[0.5].W)[:, 0] > 0, many[0.5].b[:, 0] < 0
    products, (three, either) = gram(many[0.9].W), probabilities()
    negative = int(((products[:, 2, 0] < 0) & (products[:, 2, 1] < 0)).sum())
    rows += [
        Row("sparsity 0.5: feature 0 has positive interference", f"{float(own[0]):+.3f}", share(int(signed.sum()), instances), None, "not confirmed", "a matter of chance: as often it is negative"),
        Row("sparsity 0.5: its bias is negative to offset that", "< 0", share(int(bias.sum()), instances), f"{int((bias & ~signed).sum())} of {int((~signed).sum())} where interference is negative", "refuted" if bool((bias & ~signed).any()) else "confirmed", "the bias is negative in either case"),
        Row("sparsity 0.9: feature 2 interferes negatively with 0 and 1", "yes", share(negative, instances), "25 % by chance", "not confirmed"),
        Row("0.05³, three features at once", 1.25e-4, three, None, "confirmed", "exactly 0.000125"),
        Row("1 - 0.9², one of two features", 0.19, either, None, "confirmed", "the value is right; the event it writes, the one and not the other, has 0.09"),
    ]  # fmt: skip
    settings = {"seed": seed, "steps": steps, "batch": BATCH, "learning rate": RATE, "optimizer": "AdamW, cosine", "importance": "0.9^i", "inputs": "normal × mask", "instances": instances}  # fmt: skip
    sets = {"linear": linear} | {f"relu, sparsity {s}, source's": one[s] for s in SPARSITIES}
    sets |= {f"relu, sparsity {s}": many[s] for s in SPARSITIES} | {f"uniform, sparsity {s}": uniform[s] for s in SPARSITIES}  # fmt: skip
    report("five features in two dimensions", PRAMODITH, settings, rows, {name: described(models) for name, models in sets.items()}, out)  # fmt: skip
    maps: list[Heatmap] = []
    bars: dict[str, list[float]] = {}
    for sparsity, models in one.items():
        maps.append(Heatmap(f"W^T W, sparsity {sparsity}", gram(models.W[0]).tolist(), "feature", "feature"))
        said = described(models)
        bars |= {f"{name.replace('_', ' ')}, sparsity {sparsity}": said[name][0] for name in ("norms", "bias", "signed_interference")}  # fmt: skip
    draw(picture, maps, bars)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
