"""ARENA's hidden layers with ReLU: steps or slopes, what the ReLU is for, the asymmetric motif by setting, and what corrects it.

    python scripts/replicas/arena_neurons.py --runs runs/neurons --out neurons.json

Trains everything: neurons over 25 sparsities and over sparsity that changes slowly in one training, with a bias of the hidden layer and
without, and |x| of 10 features at 24 settings. Half an hour on one core, two minutes on a GPU (`--device cuda`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from replica import ARENA, Row, report, share
from torch import Tensor, nn

from mi_superposition.cli.terminal import terminal_progress
from mi_superposition.studies.toy.absolute import AbsoluteStudy, motifs_by_instance, pairs_by_instance, permuted
from mi_superposition.studies.toy.neurons import NeuronsStudy
from mi_superposition.toy import ToyConfig, ToyModels, train_toy
from mi_superposition.toy.models import network_of
from mi_superposition.toy.network import Penalties, ToyWeights
from mi_superposition.toy.polysemanticity import active_neurons, monosemantic
from mi_superposition.toy.tasks import InputSampler, targets
from mi_superposition.toy.train import ToyLearner
from mi_superposition.training import fixed_arithmetic

# From dense to sparse.
FINE = tuple(0.05 ** (k / 24) for k in range(25))
# Shares of a neuron's squared weights: of its largest feature, above and below which it has changed over (ours).
HIGH, LOW = 0.9, 0.6
BIAS_PROBABILITIES = (1.0, 0.3, 0.1, 0.03)
MOTIF_PROBABILITIES, MOTIF_RATIOS = (0.7, 0.5, 0.35, 0.25, 0.15, 0.05), (1.0, 0.9, 0.8, 0.7)


def largest_share(W: Float[Tensor, "*many neuron feature"]) -> Float[Tensor, "*many neuron"]:
    """Of each neuron's squared weights, what its largest feature has."""
    squares = W.square()
    return squares.amax(dim=-1) / squares.sum(dim=-1).clamp_min(1e-30)


def annealed(config: ToyConfig, probabilities: Sequence[float]) -> Float[Tensor, "stage instance neuron"]:
    """The share of the largest feature of each neuron as one training goes slowly from probability to probability, ``n_steps`` at each.

    The neurons stay who they are. Every stage continues with the weights before it, and new moments of Adam.
    """
    found, start = [], None
    with fixed_arithmetic(1):
        for index, probability in enumerate(probabilities):
            learner = ToyLearner(config.replace(probability=(probability,), seed=config.random.seed + index))
            if start is not None:
                learner.W_in.copy_(start.W_in)
                learner.b.copy_(start.b)
            for step in range(config.n_steps):
                learner.step(step)
            start = learner.weights
            found.append(largest_share(start.W_in[0]).cpu())
    return torch.stack(found)


def widths(shares: Float[Tensor, "stage neuron"]) -> tuple[int, list[int]]:
    """Neurons that go from above ``HIGH`` to below ``LOW``, and how many stages the last passage takes each: 1 is a single step."""
    found = []
    for values in shares.T:
        above = (values >= HIGH).nonzero().flatten()
        below = (values <= LOW).nonzero().flatten()
        if len(above) and len(below) and int(below[-1]) > int(above[0]):
            last = int(above[above < below[-1]][-1])
            found.append(int(below[below > last][0]) - last)
    return len(found), found


@dataclass(frozen=True)
class Biased:
    """Instances of x̂ = relu(W^T act(W x + c) + b), by probability; ``positive``: share of positive hidden values while anything is active."""

    loss: Float[Tensor, "probability instance"]
    without: Float[Tensor, "probability instance"]
    positive: Float[Tensor, "probability instance"]


def biased(config: ToyConfig, *, relu: bool, bias: bool) -> Biased:
    """Train with torch's own gradient. ``without`` is the loss when the hidden ReLU is taken out afterwards."""
    device = torch.device(config.device.device)
    sampler, shape = InputSampler(config, device), config.architecture
    learner = ToyLearner(config)
    W = nn.Parameter(learner.W_in.clone())
    b = nn.Parameter(learner.b.clone()[..., None])
    c = nn.Parameter(torch.zeros(*W.shape[:2], shape.n_hidden, 1, device=device))
    importance = learner.penalties.importance
    weight = 1.0 if importance is None else importance[:, None, :, None]
    optimizer = torch.optim.Adam([W, b] + ([c] if bias else []), lr=config.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.n_steps)

    def run(inputs: Tensor, act: bool) -> tuple[Tensor, Tensor]:
        before = W @ inputs[:, None] + c
        outputs = torch.relu(W.transpose(-1, -2) @ (before.relu() if act else before) + b)
        return before, ((outputs - inputs[:, None]).square() * weight).mean(dim=(-1, -2))

    for step in range(config.n_steps):
        _, loss = run(sampler.draw("batch", step, config.batch_size), relu)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        decay.step()
    totals = [torch.zeros(W.shape[:2], device=device) for _ in range(3)]
    with torch.no_grad():
        for index in range(16):
            inputs = sampler.draw("held out", index, config.batch_size)
            active = (inputs != 0).any(dim=1)[:, None, None].float()
            before, loss = run(inputs, relu)
            up = ((before > 0) * active).sum(dim=(-1, -2)) / (active.sum(dim=(-1, -2)) * shape.n_hidden)
            for total, part in zip(totals, (loss, run(inputs, False)[1], up), strict=True):
                total += part / 16
    return Biased(*(total.cpu() for total in totals))


def kinds(weights: ToyWeights) -> tuple[int, int, int]:
    """Instances with the asymmetric motif; others, in which every neuron in use is one of a pair that computes |x|; the rest."""
    motifs, pairs = motifs_by_instance(weights), pairs_by_instance(weights).tolist()
    used = active_neurons(weights.W_in[0]).sum(dim=-1).tolist()
    alone = monosemantic(weights.W_in[0]).sum(dim=-1).tolist()
    motif = [bool(found) for found in motifs]
    simple = [not m and p > 0 and 2 * p == u == a for m, p, u, a in zip(motif, pairs, used, alone, strict=True)]
    return sum(motif), sum(simple), len(motif) - sum(motif) - sum(simple)


def output_loss(
    models: ToyModels, setting: int, weights: ToyWeights, output: int, *, relu: bool, n: int = 8192
) -> float:
    """Mean squared error of one output, with the last ReLU and without."""
    config = models.config.replace(batch_size=n, device="cpu")
    inputs = InputSampler(config, torch.device("cpu")).draw("intervention", 0, n)[setting : setting + 1]
    network = network_of(config)
    hidden = network.hidden_activations(weights, inputs).clone()
    values = weights.W_out[0, 0, output] @ hidden[0, 0] + weights.b[0, 0, output]
    return float(((values.relu() if relu else values) - targets("abs", inputs)[0, output]).square().mean())


def corrections(models: ToyModels, setting: int) -> Float[Tensor, "motif case"]:
    """For the motifs of a setting, the error of the weak feature's output: intact, without the correcting weight, without another negative
    weight of the most similar size into the same output; then the three without the last ReLU.
    """
    one = ToyWeights(*(part[setting : setting + 1] for part in (models.weights.W_in, models.weights.W_out, models.weights.b)))  # fmt: skip
    found = []
    for instance, motifs in enumerate(motifs_by_instance(one)):
        for motif in motifs[:1]:
            weights = ToyWeights(*(part[:, instance : instance + 1] for part in (one.W_in, one.W_out, one.b)))
            row = weights.W_out[0, 0, motif.weak]
            others = [k for k in range(len(row)) if k not in (motif.neuron, motif.inhibitor) and float(row[k]) < 0]
            if not others:
                continue
            other = min(others, key=lambda k: float((row[k] - row[motif.inhibitor]).abs()))
            changed = [weights]
            for neuron in (motif.inhibitor, other):
                W_out = weights.W_out.clone()
                W_out[0, 0, motif.weak, neuron] = 0
                changed.append(ToyWeights(weights.W_in, W_out, weights.b))
            found.append([output_loss(models, setting, part, motif.weak, relu=relu) for relu in (True, False) for part in changed])  # fmt: skip
    return torch.tensor(found).view(-1, 6)


def told(values: Sequence[float], digits: int = 2) -> str:
    """Numbers in a row."""
    return " ".join(f"{value:.{digits}f}" for value in values)


def trained(name: str, config: ToyConfig, runs: Path | None) -> ToyModels:
    """Train, resuming in a folder of that name where there is one."""
    with terminal_progress() as progress:
        return train_toy(config, runs and runs / name, progress)


def of_steps(usual: ToyConfig, stage: int, runs: Path | None) -> tuple[list[Row], dict[str, Any]]:
    """Whether neurons change over in steps."""
    models = trained("fine", usual.replace(probability=FINE, n_kept=usual.n_instances), runs)
    W = models.weights.W_in
    alone, shares = monosemantic(W).sum(dim=-1), largest_share(W[:, 0])
    there = torch.tensor([[float((row >= HIGH).double().mean()), float(((row > LOW) & (row < HIGH)).double().mean())] for row in shares])  # fmt: skip
    medium = float(((shares > LOW) & (shares < HIGH)).double().mean())
    untrained = float(((largest_share(torch.randn(2000, *W.shape[-2:], generator=torch.Generator().manual_seed(0))) > LOW)).double().mean())  # fmt: skip
    slow = usual.replace(n_steps=stage, learning_rate=1e-3, decay="constant", n_kept=1)
    ways = {"sparser": annealed(slow, FINE), "denser": annealed(slow, FINE[::-1])}
    changed, stages = widths(ways["sparser"].flatten(1))
    mean = {name: (values if name == "sparser" else values.flip(0)).ge(HIGH).double().sum(dim=-1).mean(dim=-1).tolist() for name, values in ways.items()}  # fmt: skip
    # The first stages train at all what comes after.
    gap = max(abs(a - b) for a, b in zip(*(values[len(FINE) // 2 :] for values in mean.values()), strict=True))
    taken = ", ".join(f"{width} in {n} neurons" for width, n in sorted(Counter(stages).items())) or "none does"
    middle = sorted(stages)[len(stages) // 2] if stages else 0
    return [
        Row("neurons change from monosemantic to polysemantic in steps: monosemantic of 5, best instance", "phase-like", " ".join(map(str, alone[:, 0].tolist())), "0 untrained", "ours", f"probability {FINE[0]:g} to {FINE[-1]:g} in 24 equal ratios, best of {usual.n_instances}; all: {told(alone.double().mean(dim=1).tolist(), 1)}"),
        Row("the same: neurons of the best instances between the phases, largest feature with 60 to 90 %", "few", medium, f"a linear slope from {HIGH} down to {LOW} over all 25 would have 1", "ours", f"random weights are above {LOW} in {untrained:.3f}"),
        Row("sparsity that rises slowly in one training: ratios of 1.13 that a neuron takes to change over", "1, a step", taken, "24 for a slope over the whole range", "confirmed" if changed and middle <= len(FINE) // 4 else "not confirmed", f"{changed} of {ways['sparser'][0].numel()} neurons change over; {stage} steps at each probability"),
        Row("the same, rising and falling: monosemantic neurons of 5 at one sparsity, largest difference", None, gap, None, "ours", "hysteresis: where a neuron changes depends on where it comes from" if gap > 0.5 else "no hysteresis"),
    ], {"fine_probability": list(FINE), "best_monosemantic": alone[:, 0].tolist(), "mean_monosemantic": alone.double().mean(dim=1).tolist(), "best_above_and_between": there.tolist(), "stages": stages, "slow_monosemantic": mean}  # fmt: skip


def of_biases(usual: ToyConfig, steps: int) -> tuple[list[Row], dict[str, Any]]:
    """What reconstruction and |x| need the hidden ReLU for."""
    config = usual.replace(probability=BIAS_PROBABILITIES, n_kept=1, n_steps=steps)
    models = {name: biased(config, relu=relu, bias=bias) for name, relu, bias in (("ReLU", True, False), ("ReLU and bias", True, True), ("linear", False, False))}  # fmt: skip
    best = {name: found.loss.argmin(dim=1, keepdim=True) for name, found in models.items()}
    loss = {name: found.loss.amin(dim=1) for name, found in models.items()}

    def of_best(name: str, part: str) -> Tensor:
        return getattr(models[name], part).gather(1, best[name])[:, 0]

    ratio = {name: (loss[name] / loss["linear"]).tolist() for name in models}
    removed = {name: (of_best(name, "without") / loss[name]).tolist() for name in ("ReLU", "ReLU and bias")}
    positive = {name: of_best(name, "positive").tolist() for name in ("ReLU", "ReLU and bias")}
    absolute = AbsoluteStudy.trainings(False)["motif"].replace(n_instances=usual.n_instances, n_kept=1, n_steps=steps, device=usual.device.device)  # fmt: skip
    x = trained("absolute", absolute, None)
    network, learner = network_of(x.config), ToyLearner(x.config.replace(device="cpu"))
    inputs = learner.sampler.draw("intervention", 0, 8192)
    own = network.loss(x.weights, inputs, inputs.abs(), learner.penalties)
    network.hidden = "linear"
    control = float(network.loss(x.weights, inputs, inputs.abs(), Penalties(learner.penalties.importance, None)) / own)
    lowest = min(min(ratio[name]) for name in removed)
    removable = max(removed["ReLU and bias"]) < 1.1 and control > 1.5
    return [
        Row("reconstruction: best loss with a hidden ReLU over that of a linear hidden layer, with a hidden bias", "1", told(ratio["ReLU and bias"]), f"without a hidden bias, as in its code: {told(ratio['ReLU'])}", "confirmed" if lowest > 0.98 else "not confirmed", f"probabilities {told(BIAS_PROBABILITIES)}, best of {usual.n_instances}; from 1 on the hidden ReLU is no help"),
        Row("the same: positive values before the hidden ReLU while something is active", "all", told(positive["ReLU and bias"]), f"without a hidden bias {told(positive['ReLU'])}", "confirmed" if min(positive["ReLU and bias"]) > 0.95 else "not confirmed", "1: the layer is linear on its inputs"),
        Row("the same: times the loss when the hidden ReLU is taken out after training", "1", told(removed["ReLU and bias"]), f"without a hidden bias {told(removed['ReLU'])}; |x| {control:.1f}", "confirmed" if removable else "not confirmed", "|x| is the task that needs it"),
    ], {"bias_probability": list(BIAS_PROBABILITIES), "loss": {name: part.tolist() for name, part in loss.items()}, "over_linear": ratio, "positive": positive, "without_relu": removed, "absolute_without_relu": control}  # fmt: skip


def of_motifs(usual: ToyConfig, runs: Path | None) -> tuple[list[Row], dict[str, Any]]:
    """How often pairs and motifs are, and what the correction rests on."""
    grid = usual.replace(probability=MOTIF_PROBABILITIES, importance_ratio=MOTIF_RATIOS)
    models = trained("motifs", grid, runs)
    counts, chance = [], []
    for setting in range(grid.n_settings):
        one = ToyWeights(*(part[setting : setting + 1] for part in (models.weights.W_in, models.weights.W_out, models.weights.b)))  # fmt: skip
        counts.append(kinds(one))
        chance.append(kinds(permuted(one)))
    n, columns = usual.n_kept, len(MOTIF_RATIOS)
    at = {ratio: MOTIF_PROBABILITIES.index(0.35) * columns + column for column, ratio in enumerate(MOTIF_RATIOS)}
    motif = [[counts[row * columns + column][0] for column in range(columns)] for row in range(len(MOTIF_PROBABILITIES))]  # fmt: skip
    loose = [[chance[row * columns + column][0] for column in range(columns)] for row in range(len(MOTIF_PROBABILITIES))]  # fmt: skip
    beyond = [a - b for found, control in zip(motif, loose, strict=True) for a, b in zip(found, control, strict=True)]
    simple = {ratio: counts[at[ratio]] for ratio in (1.0, 0.8)}
    interventions = corrections(models, at[1.0])
    relu, plain = interventions[:, :3], interventions[:, 3:]
    times = [float((part[:, column] / part[:, 0]).median()) for part in (relu, plain) for column in (1, 2)] if len(interventions) else [0.0] * 4  # fmt: skip
    off = float((plain[:, 0] / relu[:, 0]).median()) if len(interventions) else 0.0
    return [
        Row("some instances have a single pair of neurons for each feature instead of the motif, importance 0.8^i", "some of 6", share(simple[0.8][1], n), f"equal importance {share(simple[1.0][1], n)}; permuted {chance[at[0.8]][1]} and {chance[at[1.0]][1]}", "confirmed" if simple[0.8][1] > chance[at[0.8]][1] + n // 20 else "not confirmed", f"probability 0.35; motif/pairs/neither {'/'.join(map(str, simple[0.8]))}, at equal importance {'/'.join(map(str, simple[1.0]))}"),
        Row("how often the motif is, by probability and importance", "varies", "; ".join(f"{p}: {' '.join(map(str, row))}" for p, row in zip(MOTIF_PROBABILITIES, motif, strict=True)), "features permuted within each neuron " + "; ".join(f"{p}: {' '.join(map(str, row))}" for p, row in zip(MOTIF_PROBABILITIES, loose, strict=True)), "confirmed" if max(beyond) > n / 2 and min(beyond) < n / 8 else "not confirmed", f"of {n} instances, importance {' '.join(f'{ratio:g}^i' for ratio in MOTIF_RATIOS)}"),
        Row("without the correcting weight: times the error of the corrected output", "> 1", times[0], f"without another weight of the most similar size {times[1]:.2f}", "confirmed" if times[0] > 2 else "not confirmed", f"medians of {len(interventions)} motifs, probability 0.35, equal importance"),
        Row("the same when the last ReLU is taken out too", "about 1 or less", times[2], f"another weight {times[3]:.2f}; the last ReLU alone: {off:.1f} times the error", "confirmed" if off > 2 and times[2] < times[0] / 2 else "not confirmed", "with the ReLU large negative outputs cost nothing; without it the correction is no help"),
    ], {"motif_probability": list(MOTIF_PROBABILITIES), "importance_ratio": list(MOTIF_RATIOS), "motif_pairs_neither": counts, "permuted": chance, "errors": interventions.tolist()}  # fmt: skip


def main(
    runs: Path | None = None,
    steps: int = 5000,
    stage: int = 1000,
    instances: int = 50,
    motifs: int = 64,
    device: str = "cpu",
    out: Path | None = None,
) -> None:
    """Train, measure.

    Args:
        runs: Folder to train in; what is there is gone on with. Default: none is kept.
        steps: Of each training.
        stage: Steps at each probability where it changes slowly.
        instances: Instances of the layers that reconstruct.
        motifs: Instances of |x| at each setting.
        device: Where it is trained: cpu or cuda.
        out: JSON file of all numbers.
    """
    usual = NeuronsStudy.trainings(False)["relu"].replace(n_instances=instances, n_kept=1, n_steps=steps, device=device)
    absolute = AbsoluteStudy.trainings(False)["motif"].replace(n_instances=motifs, n_kept=motifs, n_steps=steps, device=device)  # fmt: skip
    rows, details = of_steps(usual, stage, runs)
    for more, found in (of_biases(usual, steps), of_motifs(absolute, runs)):
        rows += more
        details |= found
    report("layers with ReLU", ARENA, {"steps": steps, "stage": stage, "instances": instances, "motifs": motifs, "features": 10, "neurons": "5; |x| 10"}, rows, details, out)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
