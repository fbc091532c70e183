"""The toy models of Thaman et al.: what their report says of dropout, x², max, GELU, uneven sparsity and width, as numbers.

    python scripts/replicas/thaman_toy.py --out toy.json

Reads the bundled studies; trains only what these lack, the report's own network for width (weights tied, ReLU on the output alone, 32
features, 20 to 120 hidden dimensions): two minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from replica import THAMAN, Row, report, spread
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor, nn

from mi_superposition.studies.toy.dropout import DROPOUT, PROBABILITIES
from mi_superposition.studies.toy.logic import PROBABILITIES as LOGIC
from mi_superposition.toy import ToyModels, bundled_study, load_toy
from mi_superposition.toy.geometry import gram, relative_interference, shape_counts
from mi_superposition.toy.polysemanticity import features_per_neuron, permuted_within_neurons, polysemantic_share

WIDTHS, FEATURES, SPARSE = (20, 40, 60, 80, 100, 120), 32, 0.1


def models(study: Any, run: str) -> ToyModels:
    """A run that comes with the package."""
    return load_toy(bundled_study(study) / "runs" / run)


def alignment(W: Float[Tensor, "hidden feature"], draws: int = 200) -> float:
    """How far features lie along dimensions, in standard deviations of random rotations: negative along, positive away from them."""
    generator = torch.Generator().manual_seed(0)
    turns = torch.linalg.qr(torch.randn(draws, len(W), len(W), generator=generator)).Q
    turned = features_per_neuron(turns @ W).mean(dim=1)
    return float((features_per_neuron(W).mean() - turned.mean()) / turned.std())


def antipodal(W: Float[Tensor, "hidden feature"]) -> int:
    """Features in antipodal pairs, of those at least half as long as the longest: dropout makes all shorter."""
    return shape_counts(W / W.norm(dim=0).max()).get("antipodal pair", 0)


def company(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many feature"]:
    """Effective number of features of the neurons that read each feature, weighted by its squared weights."""
    squares = W.square()
    return (squares * features_per_neuron(W)[..., None]).sum(dim=-2) / squares.sum(dim=-2)


def extremes(models: ToyModels) -> tuple[list[float], list[float]]:
    """Of the best instance at each sparsity: the share of positive input weights, and the largest over their root mean square."""
    W = models.W_in.flatten(1)
    return (W > 0).double().mean(dim=1).tolist(), (W.abs().amax(dim=1) / W.square().mean(dim=1).sqrt()).tolist()


def autoencoder(width: int, steps: int, instances: int = 4) -> tuple[Tensor, float]:
    """The report's network for width: weights, and loss relative to the best constant output."""
    torch.manual_seed(width)
    W = nn.Parameter(torch.randn(instances, width, FEATURES) * (2 / (width + FEATURES)) ** 0.5)
    b = nn.Parameter(torch.zeros(instances, 1, FEATURES))
    optimizer = torch.optim.Adam([W, b], lr=5e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(steps):
        x = torch.rand(512, FEATURES) * (torch.rand(512, FEATURES) < SPARSE)
        loss = (torch.relu(x @ W.transpose(1, 2) @ W + b) - x).square().mean(dim=(1, 2))
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        decay.step()
    return W.detach(), float(loss.detach().min() / x.var(dim=0).mean())


def of_dropout() -> tuple[list[Row], dict[str, Any]]:
    """Every probability and dropout of the bundled study, best instance."""
    found: dict[str, Any] = {"probability": list(PROBABILITIES), "dropout": list(DROPOUT)}
    lowest = []
    for run in ("even", "falling"):
        W = models("dropout", run).W_in
        lowest.append(float(gram(W).diagonal(dim1=1, dim2=2).min()))
        for name, measure in (("alignment_z", alignment), ("features_in_antipodal_pairs", antipodal)):
            found[f"{run}_{name}"] = torch.tensor([measure(one) for one in W]).view(len(PROBABILITIES), -1).tolist()
    row, half = PROBABILITIES.index(0.03), DROPOUT.index(0.5)
    pairs = [found[f"{run}_features_in_antipodal_pairs"][row] for run in ("even", "falling")]
    z = {run: [values[row] for values in zip(*found[f"{run}_alignment_z"], strict=True)] for run in ("even", "falling")}  # fmt: skip
    told = {run: " ".join(f"{value:+.0f}" for value in values) for run, values in z.items()}
    phases = all(max(map(abs, z[run][:1])) < 3 < min(z[run][1:half]) and z[run][-1] < -3 for run in z)
    return [
        Row("dropout: negative weights on the diagonal of W^T W", "< 0", min(lowest), None, "refuted", "they are squared norms: smallest of all models"),
        Row("dropout suppresses antipodal pairs (sparsity 0.97): features in them", "suppressed", f"even {pairs[0]}, falling importance {pairs[1]}", "the first of each is without dropout", "confirmed" if all(some[half] < some[0] for some in pairs) else "not confirmed", f"dropout {DROPOUT}, best of ten"),
        Row("three phases (sparsity 0.97): no basis, away from dimensions, along them from 0.5", "0, +, -", f"even {told['even']}; falling {told['falling']}", "in standard deviations of random rotations", "confirmed" if phases else "not confirmed", f"dropout {DROPOUT}"),
    ], found  # fmt: skip


def main(steps: int = 3000, out: Path | None = None) -> None:
    """Measure.

    Args:
        steps: Of the networks that are trained.
        out: JSON file of all numbers.
    """
    rows, details = of_dropout()
    (positive, large), (gelu_positive, gelu_large) = (extremes(models("logic", f"square-{name}")) for name in ("relu", "gelu"))  # fmt: skip
    losses = {name: models("logic", f"max-{name}").loss_ratio.median(dim=1).values.tolist() for name in ("relu", "gelu")}  # fmt: skip
    worse = [relu > gelu for relu, gelu in zip(losses["relu"], losses["gelu"], strict=True)]
    shares = {name: polysemantic_share(models("penalties", name).weights.W_in)[0].mean().item() for name in ("relu", "gelu")}  # fmt: skip
    rows += [
        Row("x²: weights with ReLU are balanced, share of positive ones", "balanced", spread(positive), f"GELU {spread(gelu_positive)}", "confirmed" if all(0.4 < value < 0.6 for value in positive) else "not confirmed", f"sparsities {[1 - p for p in LOGIC]}"),
        Row("x²: with GELU they are more extreme, largest over root mean square", "GELU higher", f"GELU {spread(gelu_large)}", f"ReLU {spread(large)}", "confirmed" if min(gelu_large) > max(large) else "not confirmed"),
        Row("max: ReLU performs worse, median loss / constant's", "ReLU higher", f"ReLU {' '.join(f'{value:.4f}' for value in losses['relu'])}", f"GELU {' '.join(f'{value:.4f}' for value in losses['gelu'])}", "confirmed" if all(worse) else "refuted" if not any(worse) else "not confirmed", "at three sparsities, of 40 instances each"),
        Row("GELU has more superposition: polysemantic neurons, |x|, even sparsity", "GELU higher", f"GELU {shares['gelu']:.2f}", f"ReLU {shares['relu']:.2f}", "confirmed" if shares["gelu"] > shares["relu"] else "refuted"),
    ]  # fmt: skip
    # Settings are even and uneven sparsity by six penalties; the first of each has none.
    uneven = models("penalties", "relu")
    W_in, W_out = uneven.weights.W_in, uneven.weights.W_out
    half = len(W_in) // 2
    loose = permuted_within_neurons(W_in, W_out, torch.Generator().manual_seed(0))[0]
    order = {name: [float(spearmanr(range(W.shape[-1]), one).statistic) for one in company(W)] for name, W in (("uneven", W_in[half]), ("even", W_in[0]), ("shuffled", loose[half]))}  # fmt: skip
    p = float(mannwhitneyu(order["uneven"], order["even"], alternative="greater").pvalue)
    rows.append(Row("uneven sparsity: sparser features share neurons with more others (Spearman)", "positive", spread(order["uneven"]), f"even sparsity {spread(order['even'])}, shuffled {spread(order['shuffled'])}", "confirmed" if p < 0.01 else "not confirmed", f"|x| of 20 features by 10 neurons, eight instances, rank test p = {p:.3f}"))  # fmt: skip
    width = {}
    for m in WIDTHS:
        W, loss = autoencoder(m, steps)
        width[m] = {"polysemantic": float(polysemantic_share(W).mean()), "relative_interference": float(relative_interference(W).mean()), "loss_ratio": loss}  # fmt: skip
    start = float(polysemantic_share(torch.randn(4, 40, FEATURES)).mean())
    wide = [values["relative_interference"] for m, values in width.items() if m >= FEATURES]
    rows += [
        Row("width 20 to 120, 32 features: polysemantic neurons at every width", "all", " ".join(f"{values['polysemantic']:.2f}" for values in width.values()), f"untrained {start:.2f}", "confirmed" if min(values["polysemantic"] for values in width.values()) > 0 else "refuted", "its hidden layer is linear: any rotation does as well, so neurons mean nothing in it"),
        Row("the same: interference between features, relative", None, " ".join(f"{values['relative_interference']:.3f}" for values in width.values()), None, "ours", "polysemantic without superposition: from 40 dimensions on features are orthogonal" if max(wide) < 0.05 else ""),
    ]  # fmt: skip
    details |= {"width": width, "uneven_sparsity_spearman": order, "max_loss_ratio": losses, "square_positive_share": {"relu": positive, "gelu": gelu_positive}, "square_largest": {"relu": large, "gelu": gelu_large}}  # fmt: skip
    report("toy models", THAMAN, {"steps": steps, "features": FEATURES, "probability": SPARSE}, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
