"""The toy models of Thaman et al. with dropout: fractions, phase transitions, negative interactions, robustness, sticky solutions.

    python scripts/replicas/thaman_dropout.py --runs runs/dropout --out dropout.json

Reads the bundled study `dropout` (40 features in 10 dimensions, ten instances a cell) and trains what it lacks: the phase diagram of two
features in one dimension with dropout, dropout above 0.7, and models whose sparsity changes in mid-training. A quarter of an hour on one
core, less than a minute on a GPU (`--device cuda`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from einops import rearrange
from jaxtyping import Bool, Float
from replica import THAMAN, Row, report
from scipy.stats import mannwhitneyu
from torch import Tensor

from mi_superposition.cli.terminal import terminal_progress
from mi_superposition.studies.toy.dropout import DROPOUT, HALF, PROBABILITIES
from mi_superposition.studies.toy.sparsity import IMPORTANCES, SparsityStudy
from mi_superposition.studies.toy.sparsity import PROBABILITIES as PHASES
from mi_superposition.toy import ToyConfig, ToyModels, bundled_study, load_toy, train_toy
from mi_superposition.toy.geometry import dimensions_per_feature, feature_dimensionality, feature_norms, gram
from mi_superposition.toy.models import transposed
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.train import ToyLearner
from mi_superposition.training import fixed_arithmetic

RUNS = ("even", "falling")
# Dimensionalities of the known shapes: Elhage et al. 2022.
FRACTIONS = (1, 3 / 4, 2 / 3, 1 / 2, 2 / 5, 3 / 8)
# A feature is at a fraction within this distance; the control are the same features, blurred by this standard deviation (ours).
NEAR, BLUR, DRAWS = 0.01, 0.05, 200
# Where the smaller of two features is this much of the larger, a model is between one feature and two (ours).
BETWEEN = (0.2, 0.8)
PHASE_DROPOUT, EXTREME = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5), (0.8, 0.9, 0.95)
SWITCH, SWITCH_DROPOUT = (0.3, 0.03), (0.0, 0.1, 0.3, 0.5, 0.7)
_Instances = Float[Tensor, "dropout instance"]


def kept(W: Float[Tensor, "*many hidden feature"]) -> Bool[Tensor, "*many feature"]:
    """Features at least half as long as the longest: dropout makes all shorter."""
    norms = feature_norms(W)
    return norms > 0.5 * norms.amax(dim=-1, keepdim=True)


def at_fractions(values: Tensor) -> float:
    """Share of the dimensionalities that lie at one of the fractions."""
    return float(((values[..., None] - torch.tensor(FRACTIONS)).abs() < NEAR).any(dim=-1).double().mean())


def gathered(W: Float[Tensor, "*many hidden feature"]) -> tuple[float, float]:
    """Share of the kept features at fractions, and of the same blurred."""
    values = feature_dimensionality(W)[kept(W)]
    noise = torch.randn(DRAWS, len(values), generator=torch.Generator().manual_seed(0))
    return at_fractions(values), at_fractions(values + BLUR * noise)


def negative_share(W: Float[Tensor, "*many hidden feature"]) -> float:
    """Of the squared products of different kept features, the share that negative ones have: one half at random."""
    both = kept(W)[..., :, None] & kept(W)[..., None, :] & ~torch.eye(W.shape[-1], dtype=torch.bool)
    products = gram(W)[both]
    return float(products.clamp_max(0).square().sum() / products.square().sum())


def one_dimension_less(models: ToyModels, row: int, batches: int = 8) -> tuple[_Instances, _Instances]:
    """Held-out loss of every instance of one probability without one hidden dimension, over the best constant's: mean over the dimensions,
    and over as many random directions of the hidden space.
    """
    learner = ToyLearner(models.config.replace(probability=PROBABILITIES[row : row + 1]))
    n, cells = models.config.architecture.n_hidden, slice(row * len(DROPOUT), (row + 1) * len(DROPOUT))
    W, b = models.weights.W_in[cells], models.weights.b[cells]
    turn = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0))).Q

    def lost(directions: Float[Tensor, "direction hidden"]) -> Tensor:
        total = torch.zeros(b.shape[:2])
        for direction in directions:
            without = W - direction[:, None] * (direction @ W)[:, :, None]
            weights = ToyWeights(without, transposed(without), b)
            for index in range(batches):
                inputs = learner.sampler.draw("held out", index, models.config.batch_size)
                total += learner.network.loss(weights, inputs, inputs, learner.penalties)
        return total / (len(directions) * batches) / models.constant_loss[cells, None]

    return lost(torch.eye(n)), lost(turn)


def smaller_over_larger(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """The norm of the smaller of two features over that of the larger: 0 in the phase of one, about 1 in superposition."""
    norms = feature_norms(W)
    return norms.amin(dim=-1) / norms.amax(dim=-1)


def between(ratio: Tensor) -> Tensor:
    """Which models are neither in one phase nor in the other."""
    return (ratio > BETWEEN[0]) & (ratio < BETWEEN[1])


def went_on(config: ToyConfig, start: ToyWeights | None = None) -> tuple[ToyWeights, Tensor]:
    """Train with new moments of Adam, from these weights where there are some; all instances, and their held-out losses."""
    learner = ToyLearner(config)
    if start is not None:
        learner.W_in.copy_(start.W_in)
        learner.b.copy_(start.b)
    with fixed_arithmetic(1):
        for step in range(config.n_steps):
            learner.step(step)
    weights = ToyWeights(*(part.clone() for part in (learner.weights.W_in, learner.weights.W_out, learner.weights.b)))
    return weights, learner.held_out()[0]


def stuck(old: Tensor, new: Tensor, switched: Tensor) -> list[float | None]:
    """How far models that changed over have stayed behind, by dropout: 0 as trained anew, 1 as before; none where these hardly differ."""
    before, anew, after = (values.double().mean(dim=1) for values in (old, new, switched))
    far = (before - anew).abs() >= 1
    return [float(b) if f else None for b, f in zip((after - anew) / (before - anew), far, strict=True)]


def less_stuck(behind: Sequence[float | None]) -> bool:
    """Whether dropout halves what stays behind without it, at every rate that can be judged."""
    first, *others = behind
    return first is not None and first > 0.1 and all(value is None or value < first / 2 for value in others)


def more_stuck(behind: Sequence[float | None]) -> bool:
    """Whether with some dropout a tenth more stays behind than without."""
    first, *others = behind
    return first is not None and any(value is not None and value > first + 0.1 for value in others)


def grid(values: Float[Tensor, "setting instance"], columns: int = len(DROPOUT)) -> Tensor:
    """By probability and dropout."""
    return rearrange(values, "(probability dropout) instance -> probability dropout instance", dropout=columns)


def told(values: Sequence[float | None], digits: int = 2) -> str:
    """Numbers in a row."""
    return " ".join("–" if value is None else f"{value:.{digits}f}" for value in values)


def by_cell(models: ToyModels, measure: Callable[[Tensor], Any], columns: int = len(DROPOUT)) -> list[list[Any]]:
    """A measure of all instances of each cell."""
    cells = [measure(W) for W in models.weights.W_in]
    return [cells[at : at + columns] for at in range(0, len(cells), columns)]


def of_the_study() -> tuple[list[Row], dict[str, Any]]:
    """What the bundled study answers."""
    models = {run: load_toy(bundled_study("dropout") / "runs" / run) for run in RUNS}
    details: dict[str, Any] = {"probability": list(PROBABILITIES), "dropout": list(DROPOUT)}
    moderate, tenth, last = (PROBABILITIES.index(p) for p in (0.3, 0.1, 0.01))
    points = {run: by_cell(models[run], gathered) for run in RUNS}
    negative = {run: by_cell(models[run], negative_share) for run in RUNS}
    dimensions = {run: grid(dimensions_per_feature(models[run].weights.W_in)) for run in RUNS}
    p_values = {
        (run, row, column): float(mannwhitneyu(cells[row, column], cells[row, 0], alternative="less").pvalue)
        for run, cells in dimensions.items()
        for row in range(len(PROBABILITIES))
        for column in range(1, len(DROPOUT))
    }
    fewer = [cell for cell, p in p_values.items() if p * len(p_values) < 0.01]
    losses = {run: one_dimension_less(models[run], last) for run in RUNS}
    own = {run: parts[0].mean(dim=1).tolist() for run, parts in losses.items()}
    turned = {run: parts[1].mean(dim=1).tolist() for run, parts in losses.items()}
    best = {run: min(range(1, len(DROPOUT)), key=values.__getitem__) for run, values in own.items()}
    p_best = {run: float(mannwhitneyu(losses[run][0][best[run]], losses[run][0][0], alternative="less").pvalue) for run in RUNS}  # fmt: skip
    gains = {run: 1 - own[run][best[run]] / own[run][0] for run in RUNS}
    shown = {
        run: told([here[0] for here in points[run][row]]) for run, row in zip(RUNS, (moderate, tenth), strict=True)
    }
    blurred = {run: told([here[1] for here in points[run][row]]) for run, row in zip(RUNS, (moderate, tenth), strict=True)}  # fmt: skip
    falls = points["falling"][tenth][0][0] - points["falling"][tenth][HALF][0]
    stays = points["even"][moderate][HALF][0] > 2 * points["even"][moderate][HALF][1]
    signs = [told(negative[run][last]) for run in RUNS]
    at_all = min(rows[0] for run in RUNS for rows in negative[run][1:])
    small = {f"{run}, sparsity {1 - PROBABILITIES[row]:g}, dropout {DROPOUT[column]:g}": float(dimensions[run][row, column].mean() / dimensions[run][row, 0].mean() - 1) for run, row, column in fewer}  # fmt: skip
    robust = [run for run in RUNS if gains[run] > 0.1 and p_best[run] * 2 * (len(DROPOUT) - 1) < 0.01]
    details |= {"at_fractions_and_blurred": points, "negative_share": negative,
                "dimensions_per_feature": {run: cells.mean(dim=-1).tolist() for run, cells in dimensions.items()},
                "loss_without_one_dimension": {run: [part.mean(dim=-1).tolist() for part in losses[run]] for run in RUNS}, "intact_loss": {run: grid(models[run].loss_ratio)[last].mean(dim=-1).tolist() for run in RUNS}}  # fmt: skip
    return [
        Row("features at the fractions of the known shapes, equal importance, sparsity 0.7", "moved", shown["even"], f"the same blurred {blurred['even']}", "confirmed" if stays else "not confirmed", f"share within {NEAR} of {', '.join(f'{value:.3g}' for value in FRACTIONS)}; dropout {told(DROPOUT)}; at ½: antipodal pairs"),
        Row("the same, falling importance, sparsity 0.9", "moved", shown["falling"], f"the same blurred {blurred['falling']}", "confirmed" if falls > 0.2 else "not confirmed", "the gathering dissolves as dropout grows"),
        Row("negative interactions, share of the squared products (sparsity 0.99)", "dropout models", f"even {signs[0]}; falling {signs[1]}", f"the first of each is without dropout; random directions 0.50; without dropout at least {at_all:.2f} at any sparsity from 0.7", "not confirmed" if at_all > 0.6 else "confirmed", "as negative without dropout: the ReLU at the output removes negative interference"),
        Row("dropout gives fewer dimensions per feature (m / ‖W‖²), cells of 70", "some", f"{len(fewer)} of {len(p_values)}" + "".join(f": {name} ({100 * change:+.1f} %)" for name, change in small.items()), "rank test against no dropout, ten instances each, corrected at 1 %", "confirmed" if fewer else "not confirmed"),
        Row("loss without one hidden dimension, sparsity 0.99", "more robust or not", "; ".join(f"{run} {told(own[run], 3)}" for run in RUNS), "the first of each is without dropout; without a random direction instead " + "; ".join(f"{run} {told(turned[run], 3)}" for run in RUNS), "confirmed" if len(robust) == len(RUNS) else "not confirmed" if not robust else "ours", f"over the best constant's; dropout {told(DROPOUT)}; lowest: " + "; ".join(f"{run} {100 * -gains[run]:+.0f} % at dropout {DROPOUT[best[run]]}, rank test p {p_best[run]:.2g}" for run in RUNS)),
    ], details  # fmt: skip


def of_phases(steps: int, instances: int, device: str, runs: Path | None) -> tuple[list[Row], dict[str, Any]]:
    """Two features in one dimension, over sparsity, importance and dropout."""
    usual = SparsityStudy.trainings(False)["phase"]
    config = usual.replace(dropout=PHASE_DROPOUT, n_instances=instances, n_kept=instances, n_steps=steps, device=device)
    with terminal_progress() as progress:
        models = train_toy(config, runs and runs / "phase", progress)
    ratio = rearrange(smaller_over_larger(models.weights.W_in), "(p i dropout) instance -> dropout p i instance", p=len(PHASES), i=len(IMPORTANCES))  # fmt: skip
    jumps = (ratio[:, 1:] - ratio[:, :-1]).abs().amax(dim=1).mean(dim=(1, 2)).tolist()
    shares, best = (between(part).double().flatten(1).mean(dim=1).tolist() for part in (ratio, ratio[..., 0]))
    # More than without dropout at every rate, of typical instances, and twice as many of the best at the highest.
    smoother = min(shares[1:]) > 1.2 * shares[0] and best[-1] > 2 * best[0]
    rows = [
        Row("dropout smooths phase transitions: models between one feature and two", "more", told(shares, 3), "the first is without dropout; best of each cell " + told(best, 3), "confirmed" if smoother else "refuted" if max(shares[1:]) <= shares[0] else "not confirmed", f"share of the {13 * 13} cells, {instances} instances each; dropout {told(PHASE_DROPOUT)}; between: the smaller feature is {BETWEEN[0]} to {BETWEEN[1]} of the larger"),
        Row("the same: largest step of that ratio between neighbouring sparsities", "smaller", told(jumps), "the first is without dropout", "confirmed" if smoother and jumps[-1] < 0.9 * jumps[0] else "not confirmed", "mean over importances and instances; neighbouring sparsities are a sixth of a decade apart"),
    ]  # fmt: skip
    return rows, {"phase_dropout": list(PHASE_DROPOUT), "between": shares, "between_best": best, "largest_step": jumps}


def of_extremes(steps: int, instances: int, device: str, runs: Path | None) -> tuple[list[Row], dict[str, Any]]:
    """Dropout of 0.8 and more."""
    found: dict[str, Any] = {"extreme_dropout": list(EXTREME)}
    rows = []
    for run in RUNS:
        config = load_toy(bundled_study("dropout") / "runs" / run).config
        config = config.replace(dropout=EXTREME, n_instances=instances, n_kept=instances, n_steps=steps, device=device)
        with terminal_progress() as progress:
            models = train_toy(config, runs and runs / f"extreme-{run}", progress)
        points = by_cell(models, gathered, len(EXTREME))
        n_kept = by_cell(models, lambda W: float(kept(W).sum(dim=-1).double().mean()), len(EXTREME))
        most, at = max((here[0] - here[1], (row, column)) for row, cells in enumerate(points) for column, here in enumerate(cells))  # fmt: skip
        share, control = points[at[0]][at[1]]
        found |= {f"extreme_{run}_at_fractions_and_blurred": points, f"extreme_{run}_features_kept": n_kept}
        rows.append(Row(f"dropout 0.8 to 0.95, {run} importance: most features at fractions", "some", f"{share:.2f} at sparsity {1 - PROBABILITIES[at[0]]:g}, dropout {EXTREME[at[1]]}", f"the same blurred {control:.2f}", "confirmed" if most > 0.2 else "not confirmed", "features kept, sparsity 0 to 0.99: " + "; ".join(f"dropout {q} {told([cells[column] for cells in n_kept], 0)}" for column, q in enumerate(EXTREME))))  # fmt: skip
    return rows, found


def of_switching(steps: int, instances: int, device: str) -> tuple[list[Row], dict[str, Any]]:
    """Sparsity changes when half of the steps are over."""
    usual = load_toy(bundled_study("dropout") / "runs" / "even").config
    usual = usual.replace(dropout=SWITCH_DROPOUT, n_instances=instances, n_kept=1, n_steps=steps, device=device)
    anew = {p: went_on(usual.replace(probability=(p,))) for p in SWITCH}
    rows, found = [], {"switch_dropout": list(SWITCH_DROPOUT)}
    for old, new in (SWITCH, SWITCH[::-1]):
        after = went_on(usual.replace(probability=(new,), seed=1), anew[old][0])
        counts = [kept(weights.W_in).sum(dim=-1).cpu() for weights in (anew[old][0], anew[new][0], after[0])]
        behind, excess = stuck(*counts), (after[1].mean(dim=1) / anew[new][1].mean(dim=1) - 1).tolist()
        told_counts = ["/".join(f"{float(values[column].double().mean()):.0f}" for values in counts) for column in range(len(SWITCH_DROPOUT))]  # fmt: skip
        found |= {f"stuck_{old}_to_{new}": behind, f"excess_loss_{old}_to_{new}": excess}
        rows.append(Row(f"sparsity {1 - old:g} becomes {1 - new:g} in mid-training: features stay as before", "less with dropout", told(behind), f"the first is without dropout; loss above a model's that began so {told([100 * value for value in excess], 1)} %", "confirmed" if less_stuck(behind) else "refuted" if more_stuck(behind) else "not confirmed", f"0: as many features are kept as when trained anew, 1: as many as before; dropout {told(SWITCH_DROPOUT)}; before/anew/changed {' '.join(told_counts)}"))  # fmt: skip
    return rows, found


def main(
    runs: Path | None = None,
    steps: int | None = None,
    instances: int = 10,
    device: str = "cpu",
    out: Path | None = None,
) -> None:
    """Measure, train, measure.

    Args:
        runs: Folder to train in; what is there is gone on with. Default: none is kept.
        steps: Of what is trained. Default: the studies', 5,000 and 4,000.
        instances: Instances of what is trained.
        device: Where it is trained: cpu or cuda.
        out: JSON file of all numbers.
    """
    rows, details = of_the_study()
    for more, found in (
        of_switching(steps or 4000, instances, device),
        of_extremes(steps or 4000, instances, device, runs),
        of_phases(steps or 5000, instances, device, runs),
    ):
        rows += more
        details |= found
    report("dropout in toy models", THAMAN, {"steps": steps or "4000; phases 5000", "instances": instances, "features": "40 in 10 dimensions; phases 2 in 1"}, rows, details, out)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
