"""The toy models of Thaman et al. by activation and task: seven activations, important sparse features, partial activation, max.

    python scripts/replicas/thaman_tasks.py --runs runs/tasks --out tasks.json

Reads the bundled study `penalties` and trains the rest: the studies `directions` and `width` with seven activations, two classes of features
of which the sparse one is up to 100 times as important, and five tasks with 10 to 80 neurons. Most of an hour on one core, four minutes
on a GPU (`--device cuda`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
import tyro
from jaxtyping import Float
from replica import THAMAN, Row, report
from torch import Tensor

from mi_superposition.cli.terminal import terminal_progress
from mi_superposition.studies.toy.directions import TENTH, DirectionsStudy
from mi_superposition.studies.toy.logic import LogicStudy
from mi_superposition.studies.toy.penalties import L1
from mi_superposition.studies.toy.width import WidthStudy
from mi_superposition.toy import ToyConfig, ToyModels, bundled_study, load_toy, train_toy
from mi_superposition.toy.config import Activation, Task
from mi_superposition.toy.geometry import cosines, feature_norms, represented
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.network import Penalties, ToyWeights
from mi_superposition.toy.polysemanticity import active_neurons, features_per_neuron, polysemantic_share
from mi_superposition.toy.train import ToyLearner
from mi_superposition.training import fixed_arithmetic

ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
# Two classes of features of equal number: their probabilities, and how many times as important the second is.
CLASSES, PRIORITY = (0.3, 0.01), (1.0, 3.0, 10.0, 30.0, 100.0)
# A neuron serves both classes when the smaller part of its squared weights is at least this (ours).
BOTH = 0.1
TASKS: tuple[Task, ...] = ("abs", "and", "or", "max", "square")
NEURONS = (10, 20, 40, 80)
RANGES = {"between -1 and 1": lambda z: z.abs() < 1, "beyond": lambda z: z.abs() >= 1}


def two_classes(config: ToyConfig) -> tuple[ToyWeights, Tensor]:
    """Train instances at every priority of the sparse half of the features; weights and held-out losses, the best instance first."""
    # One setting for each priority: the probabilities here only hold their places.
    learner = ToyLearner(config.replace(probability=CLASSES[:1] * len(PRIORITY), n_kept=1))
    shape, half = config.architecture, config.architecture.n_features // 2
    sparse = torch.arange(shape.n_features) >= half
    probability = torch.where(sparse, CLASSES[1], CLASSES[0])
    learner.sampler.probability = probability.expand(len(PRIORITY), -1)[..., None].to(learner.device)
    importance = torch.where(sparse, torch.tensor(PRIORITY)[:, None], 1.0).to(learner.device)
    learner.penalties = Penalties(importance, None)
    with fixed_arithmetic(1):
        for step in range(config.n_steps):
            learner.step(step)
    losses = learner.held_out()[0]
    order = losses.argsort(dim=1)
    rows = torch.arange(len(order))[:, None]
    weights = ToyWeights(*(part.cpu()[rows, order] for part in (learner.weights.W_in, learner.weights.W_out, learner.weights.b)))  # fmt: skip
    return weights, losses.gather(1, order)


def company(W: Float[Tensor, "*many hidden feature"]) -> dict[str, Tensor]:
    """Mean squared cosine of a represented feature with the other represented ones, by class; nan where a class has none (or one alone)."""
    half, norms = W.shape[-1] // 2, feature_norms(W)
    there = norms > 0.5
    squares = cosines(W).square() * (there[..., :, None] & there[..., None, :])
    pairs = (there[..., :, None] & there[..., None, :] & ~torch.eye(W.shape[-1], dtype=torch.bool)).double()
    squares = squares * pairs
    parts = {"dense": (slice(None, half), slice(None, half)), "sparse": (slice(half, None), slice(half, None)),
             "between": (slice(None, half), slice(half, None))}  # fmt: skip
    return {name: squares[..., a, b].sum(dim=(-1, -2)) / pairs[..., a, b].sum(dim=(-1, -2)) for name, (a, b) in parts.items()}  # fmt: skip


def serves_both(W: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:
    """Share of the active neurons that read both classes."""
    half, squares = W.shape[-1] // 2, W.square()
    first = squares[..., :half].sum(dim=-1) / squares.sum(dim=-1).clamp_min(1e-30)
    active = active_neurons(W)
    return (active & (torch.minimum(first, 1 - first) >= BOTH)).sum(dim=-1) / active.sum(dim=-1).clamp_min(1)


def treated(models: ToyModels, setting: int, change: Callable[[Tensor], Tensor] | None, n: int = 8192) -> Tensor:
    """Held-out error of each kept instance with another hidden activation, ``change`` of what stands before it."""
    learner = ToyLearner(models.config.replace(batch_size=n, device="cpu"))
    inputs = learner.sampler.draw("intervention", 0, n)[setting]
    weights, act = models.weights, {"relu": torch.relu, "gelu": torch.nn.functional.gelu}[models.config.activation]
    before = weights.W_in[setting] @ inputs
    outputs = act(weights.W_out[setting] @ (change or act)(before) + weights.b[setting][..., None])
    return (outputs - inputs.abs()).square().mean(dim=(-1, -2))


def middle_share(models: ToyModels, setting: int, n: int = 8192) -> float:
    """Of the values before the hidden activation that inputs change (further than 0.01 from 0), the share between -1 and 1."""
    inputs = ToyLearner(models.config.replace(batch_size=n, device="cpu")).sampler.draw("intervention", 0, n)[setting]
    before = (models.weights.W_in[setting] @ inputs).abs()
    return float((before[before > 0.01] < 1).double().mean())


def swapped(models: ToyModels, setting: int) -> dict[str, float]:
    """How many times the error of a model is when part of its hidden activations are the other function's, median of the instances; and
    when the same differences are dealt out to neurons and inputs at random.
    """
    relu, gelu = torch.relu, torch.nn.functional.gelu
    own, other = (relu, gelu) if models.config.activation == "relu" else (gelu, relu)
    intact, found = treated(models, setting, None), {"values between -1 and 1": middle_share(models, setting)}
    for name, where in RANGES.items():

        def change(z: Tensor, where: Callable[[Tensor], Tensor] = where) -> Tensor:
            return torch.where(where(z), other(z), own(z))

        def random(z: Tensor, where: Callable[[Tensor], Tensor] = where) -> Tensor:
            difference = torch.where(where(z), other(z) - own(z), 0.0)
            order = torch.randperm(difference[0].numel(), generator=torch.Generator().manual_seed(0))
            return own(z) + difference.flatten(1)[:, order].view_as(z)

        for kind, hidden in ((name, change), (f"{name}, at random", random)):
            found[kind] = float((treated(models, setting, hidden) / intact).median())
    return found


def told(values: Sequence[float], digits: int = 2) -> str:
    """Numbers in a row; of nothing a dash."""
    return " ".join("–" if value != value else f"{value:.{digits}f}" for value in values)


def trained(name: str, config: ToyConfig, runs: Path | None) -> ToyModels:
    """Train, resuming in a folder of that name where there is one."""
    with terminal_progress() as progress:
        return train_toy(config, runs and runs / name, progress)


def of_activations(
    steps: int | None, instances: int, device: str, runs: Path | None
) -> tuple[list[Row], dict[str, Any]]:
    """The studies of directions and of width with every activation."""
    few, wide = DirectionsStudy.trainings(False)["relu"], WidthStudy.trainings(False)["m20"]
    options = dict(n_instances=instances, device=device)
    features, loss, own = {}, {}, {}
    for name in ACTIVATIONS:
        one = trained(f"directions-{name}", few.replace(activation=name, n_kept=1, n_steps=steps or few.n_steps, **options), runs)  # fmt: skip
        features[name], loss[name] = represented(one.W_in).int().tolist(), one.loss_ratio.amin(dim=1).tolist()
        layer = wide.replace(activation=name, n_hidden=40, l1=(0.0,), snapshots=(), n_kept=1, n_steps=steps or wide.n_steps, **options)  # fmt: skip
        neurons = trained(f"width-{name}", layer, runs)
        own[name] = [float(polysemantic_share(neurons.W_in)), float(neurons.loss_ratio.min())]
    more = [name for name in ACTIVATIONS if features[name][TENTH] > features["linear"][TENTH]]
    return [
        Row("five features in two dimensions: represented at sparsity 0.9, by activation", None, "; ".join(f"{name} {counts[TENTH]}" for name, counts in features.items()), f"linear {features['linear'][TENTH]}", "confirmed" if "relu" in more and len(more) > 2 else "not confirmed", f"best of {instances}; loss over the best constant's {'; '.join(f'{name} {values[TENTH]:.2f}' for name, values in loss.items())}"),
        Row("32 features, 40 neurons: polysemantic ones, by activation", None, "; ".join(f"{name} {values[0]:.2f}" for name, values in own.items()), f"untrained {float(polysemantic_share(initial_weights(layer).W_in).mean()):.2f}", "ours", f"best of {instances}; loss over the best constant's {'; '.join(f'{name} {values[1]:.3f}' for name, values in own.items())}"),
    ], {"represented": features, "loss": loss, "width_polysemantic_and_loss": own}  # fmt: skip


def of_priority(steps: int | None, instances: int, device: str) -> tuple[list[Row], dict[str, Any]]:
    """Two classes of features, the sparse one more and more important."""
    usual = ToyConfig.of(n_features=40, n_hidden=10, n_instances=instances, n_steps=steps or 4000, batch_size=512, learning_rate=5e-3, decay="cosine", device=device)  # fmt: skip
    W = two_classes(usual)[0].W_in
    found = {name: values.nanmean(dim=1).tolist() for name, values in company(W).items()}
    counts = {name: (feature_norms(W)[..., half] > 0.5).sum(dim=-1).double().mean(dim=1).tolist() for name, half in (("dense", slice(None, 20)), ("sparse", slice(20, None)))}  # fmt: skip
    chance = 1 / usual.architecture.n_hidden
    layer = two_classes(usual.replace(task="abs", n_features=20, n_hidden=10))[0].W_in
    both = serves_both(layer)
    loose = serves_both(layer.gather(-1, torch.rand(layer.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=-1)))  # fmt: skip
    # Where both classes are represented at all.
    first, *others = [
        0.0 if min(kept) < 1 else value for value, *kept in zip(found["between"], *counts.values(), strict=True)
    ]
    superposed = max(others) > max(chance / 2, 2 * first)
    mean, mean_loose = both.double().mean(dim=1).tolist(), loose.double().mean(dim=1).tolist()
    return [
        Row("two classes, probability 0.3 and 0.01: squared cosine between them, the sparse one 1 to 100 times as important", "both classes", told(found["between"], 3), f"random directions {chance:.2f}; within the dense {told(found['dense'], 3)}, within the sparse {told(found['sparse'], 3)}", "confirmed" if superposed else "not confirmed", f"20 features each in 10 dimensions, mean of {instances}; dense ones represented {told(counts['dense'], 1)}, sparse ones {told(counts['sparse'], 1)}"),
        Row("the same, |x| of 10 and 10 by 10 neurons: neurons that read both classes", "more with priority", told(mean), f"features permuted within neurons {told(mean_loose)}", "confirmed" if max(mean[1:]) > mean[0] + 0.2 else "not confirmed", f"at least {BOTH:g} of a neuron's squared weights on each; times as important {told(PRIORITY, 0)}"),
    ], {"priority": list(PRIORITY), "squared_cosine": {name: [None if v != v else v for v in values] for name, values in found.items()}, "represented_by_class": counts, "neurons_of_both": mean, "neurons_of_both_permuted": mean_loose}  # fmt: skip


def of_partial_activation() -> tuple[list[Row], dict[str, Any]]:
    """What GELU's smooth middle is used for, in the bundled models that compute |x|."""
    study = {name: load_toy(bundled_study("penalties") / "runs" / name) for name in ("relu", "gelu")}
    # Even and uneven sparsity, each without L1.
    found = {f"{name}, {which}": swapped(models, setting) for name, models in study.items() for setting, which in ((0, "even"), (len(L1), "uneven"))}  # fmt: skip
    middle = {name: values["between -1 and 1"] for name, values in found.items()}
    random = {name: values["between -1 and 1, at random"] for name, values in found.items()}
    beyond = {name: values["beyond"] for name, values in found.items()}
    share = {name: values["values between -1 and 1"] for name, values in found.items()}
    used = min(middle[f"gelu, {which}"] / random[f"gelu, {which}"] for which in ("even", "uneven")) > 1.2
    return [
        Row("|x| by GELU: times the error when values between -1 and 1 pass a ReLU instead", "> 1", f"even sparsity {middle['gelu, even']:.2f}, uneven {middle['gelu, uneven']:.2f}", f"the same differences at random {random['gelu, even']:.2f} and {random['gelu, uneven']:.2f}; values beyond 1 {beyond['gelu, even']:.2f} and {beyond['gelu, uneven']:.2f}", "confirmed" if used else "not confirmed", f"medians of eight instances; values between -1 and 1: {share['gelu, even']:.2f} and {share['gelu, uneven']:.2f} of all that inputs change, with ReLU {share['relu, even']:.2f} and {share['relu, uneven']:.2f}"),
        Row("|x| by ReLU: the same with a GELU", None, f"even sparsity {middle['relu, even']:.2f}, uneven {middle['relu, uneven']:.2f}", f"the same differences at random {random['relu, even']:.2f} and {random['relu, uneven']:.2f}", "ours", "any layer suffers from an activation that it was not trained with"),
    ], {"times_the_error": found}  # fmt: skip


def of_tasks(steps: int | None, instances: int, device: str, runs: Path | None) -> tuple[list[Row], dict[str, Any]]:
    """How many inputs a neuron has, by task and number of neurons."""
    usual = LogicStudy.trainings(False)["and-relu"]
    usual = usual.replace(n_instances=instances, n_kept=instances, n_steps=steps or usual.n_steps, device=device)
    inputs: dict[str, list[float]] = {}
    loss: dict[str, list[float]] = {}
    untrained = []
    for task in TASKS:
        inputs[task], loss[task] = [], []
        for width in NEURONS:
            config = usual.replace(task=task, n_hidden=width)
            models = trained(f"{task}-{width}", config, runs)
            W, there = models.weights.W_in, active_neurons(models.weights.W_in)
            inputs[task].append(float(features_per_neuron(W)[there].mean()))
            loss[task].append(float(models.loss_ratio.median(dim=1).values.mean()))
            untrained.append(float(features_per_neuron(initial_weights(config).W_in).mean()))
    others = [task for task in TASKS if task != "max"]
    lowest = all(inputs["max"][column] < min(inputs[task][column] for task in others) for column in range(len(NEURONS)))
    return [
        Row("max: inputs of a neuron (effective number), 10 to 80 neurons", "simpler than the others", told(inputs["max"], 1), "; ".join(f"{task} {told(inputs[task], 1)}" for task in others) + f"; untrained {min(untrained):.1f}", "confirmed" if lowest else "refuted" if inputs["max"][0] > max(inputs[task][0] for task in others) else "not confirmed", f"20 inputs, mean of three sparsities and {instances} instances with ReLU; loss over the best constant's {'; '.join(f'{task} {told(values)}' for task, values in loss.items())}"),
    ], {"neurons": list(NEURONS), "inputs_per_neuron": inputs, "loss_ratio": loss}  # fmt: skip


def main(
    runs: Path | None = None,
    steps: int | None = None,
    instances: int = 32,
    device: str = "cpu",
    out: Path | None = None,
) -> None:
    """Measure, train, measure.

    Args:
        runs: Folder to train in; what is there is gone on with. Default: none is kept.
        steps: Of what is trained. Default: the studies', 4,000 or 5,000.
        instances: Instances of what is trained.
        device: Where it is trained: cpu or cuda.
        out: JSON file of all numbers.
    """
    rows, details = of_partial_activation()
    for more, found in (
        of_priority(steps, instances, device),
        of_activations(steps, instances, device, runs),
        of_tasks(steps, instances, device, runs),
    ):
        rows += more
        details |= found
    report("tasks and activations", THAMAN, {"steps": steps or "4000; directions and width 5000", "instances": instances}, rows, details, out)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
