"""Pramodith's interference: three features in two dimensions, principal components, what interference costs, how often ReLU acts.

    python scripts/replicas/pramodith_interference.py --out interference.json

In his settings: *normal* inputs times a mask, importance 0.9^i, Adam with cosine decay, 10,000 steps of 1,024 inputs. Ten minutes on one
core, a minute on a GPU (`--device cuda`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from replica import PRAMODITH, Row, report, share
from torch import Tensor

from mi_superposition.cli.terminal import terminal_progress
from mi_superposition.toy import ToyConfig, ToyModels, train_toy
from mi_superposition.toy.config import Activation, Inputs
from mi_superposition.toy.geometry import feature_norms, gram, represented

FEATURES, HIDDEN, RATIO = 5, 2, 0.9
SPARSITIES, THREE = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99), (0.0, 0.5, 0.8, 0.9, 0.95)
HALF, SPARSE = SPARSITIES.index(0.5), SPARSITIES.index(0.9)
# Importance of B and C where that of A is 1.
LESSER = (1.0, 0.3, 0.1)
# Products of two features smaller than this do not count as interference (ours).
SOME = 0.1
DRAWN = 20_000


def configuration(sparsities: Sequence[float], importance: Sequence[float], **options: Any) -> ToyConfig:
    """The source's recipe."""
    usual = dict(
        n_features=len(importance), n_hidden=HIDDEN, importance=tuple(importance), inputs="normal", decay="cosine", n_steps=10_000,
        probability=tuple(1 - sparsity for sparsity in sparsities),
    )  # fmt: skip
    return ToyConfig.of(**(usual | options))


def trained(config: ToyConfig) -> ToyModels:
    """Train and keep every instance."""
    with terminal_progress() as progress:
        return train_toy(config.replace(n_kept=config.n_instances), None, progress)


def principal_angle(W: Float[Tensor, "*many hidden feature"], plane: Float[Tensor, "*many hidden feature"]) -> Float[Tensor, "*many"]:  # fmt: skip
    """The larger of the two principal angles between the planes that the rows span, degrees."""
    first, second = (torch.linalg.qr(rows.double().transpose(-1, -2)).Q for rows in (W, plane))
    smallest = torch.linalg.svdvals(first.transpose(-1, -2) @ second)[..., -1]
    return torch.rad2deg(torch.arccos(smallest.clamp(-1, 1)))


def components(x: Float[Tensor, "sample feature"]) -> Float[Tensor, "hidden feature"]:
    """The first principal components of inputs."""
    return torch.linalg.svd((x - x.mean(dim=0)).double(), full_matrices=False).Vh[:HIDDEN]


def errors(
    G: Float[Tensor, "instance feature feature"], b: Float[Tensor, "instance feature"], x: Float[Tensor, "sample feature"], relu: bool
) -> Float[Tensor, "instance feature"]:  # fmt: skip
    """Mean squared error of every output where the products of features are ``G``."""
    before = x @ G.transpose(1, 2) + b[:, None]
    return ((before.relu() if relu else before) - x).square().mean(dim=1)


def without(G: Float[Tensor, "instance feature feature"], sign: int) -> Tensor:
    """The products with the interference of one sign taken out, or of both (0)."""
    own = torch.diag_embed(G.diagonal(dim1=1, dim2=2))
    other = G - own
    return own + (other * 0 if sign == 0 else torch.where(other * sign > 0, 0.0, other))


def inputs(sparsity: float, n: int, features: int = FEATURES) -> Float[Tensor, "sample feature"]:
    """Normal values times a mask, always the same."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, features, generator=generator)
    return values * (torch.rand(n, features, generator=generator) > sparsity)


def alone(models: ToyModels, setting: int, output: int, others: Sequence[int]) -> dict[str, list[float]]:
    """Error of one output when only one of ``others`` is active, summed over these whose product with it has the sign of the key: as it
    is, and with the bias taken out; of each instance that has such a product.
    """
    found: dict[str, list[float]] = {}
    x = torch.randn(DRAWN, generator=torch.Generator().manual_seed(0))
    for W, b in zip(models.weights.W_in[setting], models.weights.b[setting], strict=True):
        for other in others:
            product = float(W[:, output] @ W[:, other])
            if abs(product) >= SOME:
                # An input of this sign pushes the output up where the product has the same sign.
                up = product * x > 0
                for name, which in (("up", up), ("down", ~up)):
                    for kind, bias in (("", float(b[output])), (" without bias", 0.0)):
                        value = (product * x[which] + bias).relu().square().mean()
                        found.setdefault(name + kind, []).append(float(value))
    return found


def acts(models: ToyModels, setting: int, sparsity: float) -> tuple[float, float, float]:
    """Of all outputs, the share that ReLU sets to 0; the share of negative biases, with which it acts when nothing is active; and the
    share that it sets to 0 where other features push the output down by at least ``SOME``.
    """
    x = inputs(sparsity, DRAWN, models.config.architecture.n_features)
    G, b = gram(models.weights.W_in[setting]), models.weights.b[setting]
    before = x @ G.transpose(1, 2) + b[:, None]
    others = x @ (G - torch.diag_embed(G.diagonal(dim1=1, dim2=2))).transpose(1, 2)
    return (
        float((before < 0).double().mean()),
        float((b < 0).double().mean()),
        float(((before < 0) & (others < -SOME)).double().mean()),
    )


def told(values: Sequence[float] | Tensor, digits: int = 2) -> str:
    """Numbers in a row."""
    return " ".join(f"{float(value):.{digits}f}" for value in values)


def mean(values: Sequence[float]) -> float:
    """Mean; 0 of none."""
    return sum(values) / len(values) if values else 0.0


def of_three(options: dict[str, Any], instances: int) -> tuple[list[Row], dict[str, Any]]:
    """Features A, B and C in two dimensions."""
    details: dict[str, Any] = {"sparsity": list(THREE), "importance_of_b_and_c": list(LESSER)}
    spared: dict[str, list[list[float]]] = {}
    kinds: tuple[tuple[Activation, Inputs], ...] = (("relu", "normal"), ("relu", "uniform"), ("linear", "normal"))
    for activation, values in kinds:
        name, received_by_best, counts = f"{activation}, {values}", [], []
        spared[name] = []
        for lesser in LESSER:
            models = trained(configuration(THREE, (1.0, lesser, lesser), activation=activation, **(options | {"inputs": values, "n_instances": instances})))  # fmt: skip
            G = gram(models.weights.W_in)
            received = G.square().sum(dim=-1) - G.diagonal(dim1=-2, dim2=-1).square()
            least = (received[..., 0] <= received[..., 1:].amin(dim=-1) + 1e-3).double().mean(dim=1)
            spared[name].append(least.tolist())
            counts.append(represented(models.W_in).int().tolist())
            received_by_best.append(received[:, 0].tolist())
        details[name] = {"a_least": spared[name], "received_by_best": received_by_best, "represented": counts}
    normal, linear = details["relu, normal"], details["linear, normal"]
    uniform = details["relu, uniform"]
    arrangements = {tuple(row) for row in normal["represented"]} | {tuple(row) for row in uniform["represented"]}
    best = {
        name: [cell[0] for cell in details[name]["received_by_best"][-1]] for name in ("relu, normal", "relu, uniform")
    }
    return [
        Row("three features in two dimensions: represented, by importance of B and C", "depends", "; ".join(f"{lesser:g}: {' '.join(map(str, row))}" for lesser, row in zip(LESSER, normal["represented"], strict=True)), f"linear {'; '.join(' '.join(map(str, row)) for row in linear['represented'])}", "confirmed" if len(arrangements) > 1 else "not confirmed", f"best of {instances}, sparsity {told(THREE)}; uniform inputs {'; '.join(' '.join(map(str, row)) for row in uniform['represented'])}"),
        Row("A ten times as important: instances in which it receives the least interference", "all", told(spared["relu, normal"][-1]), f"equal importance {told(spared['relu, normal'][0])}", "confirmed" if min(spared["relu, normal"][-1]) > 0.9 and max(map(max, best.values())) < 0.01 else "not confirmed", f"sparsity {told(THREE)}; uniform inputs {told(spared['relu, uniform'][-1])}, at equal importance {told(spared['relu, uniform'][0])}; the best instances' A receives at most {max(map(max, best.values())):.4f} (sum of squared products), with either inputs"),
    ], details  # fmt: skip


def of_components(linear: ToyModels) -> tuple[list[Row], dict[str, Any]]:
    """The linear model's plane and principal components of its inputs."""
    W = linear.weights.W_in[0].double()
    x = inputs(0.0, 1_000_000)
    scaled = components(x * RATIO ** (torch.arange(FEATURES) / 2))
    plain, random = components(x), torch.randn(1000, HIDDEN, FEATURES, generator=torch.Generator().manual_seed(1))
    angles = {name: principal_angle(W, plane.double().expand_as(W)) for name, plane in (("scaled", scaled), ("plain", plain))}  # fmt: skip
    chance = principal_angle(random.double(), W[0].expand(1000, -1, -1))
    return [
        Row("linear model and the first two components of inputs scaled by importance: largest angle, degrees", "very similar", float(angles["scaled"].median()), f"random planes {float(chance.median()):.0f} (5 % below {float(chance.quantile(0.05)):.0f})", "confirmed" if float(angles["scaled"].median()) < 5 else "not confirmed", f"median of {len(W)} seeds, below 5 in {int((angles['scaled'] < 5).sum())}, largest {float(angles['scaled'].max()):.0f}; components of a million inputs times the root of their importance"),
        Row("the same with the components of its inputs as they are", "very similar", float(angles["plain"].median()), f"random planes {float(chance.median()):.0f}", "refuted" if float(angles["plain"].min()) > float(chance.quantile(0.05)) else "confirmed", "its inputs have the same variance in all directions, so that their components are a matter of chance"),
    ], {"angle_scaled": angles["scaled"].tolist(), "angle_plain": angles["plain"].tolist()}  # fmt: skip


def of_interference(relu: ToyModels, linear: ToyModels) -> tuple[list[Row], dict[str, Any]]:
    """What interference costs, by sign; what the bias makes of it."""
    lost: dict[str, dict[str, float]] = {}
    for name, models in (("ReLU", relu), ("linear", linear)):
        G, b = gram(models.weights.W_in[SPARSE]), models.weights.b[SPARSE]
        x = inputs(SPARSITIES[SPARSE], DRAWN)
        intact = errors(G, b, x, name == "ReLU").sum(dim=1)
        lost[name] = {kind: float((errors(without(G, sign), b, x, name == "ReLU").sum(dim=1) / intact).mean()) for kind, sign in (("positive", 1), ("negative", -1), ("all", 0))}  # fmt: skip
    single = [alone(relu, SPARSE, output, [other for other in range(FEATURES) if other != output]) for output in range(FEATURES)]  # fmt: skip
    up, down = (mean([value for found in single for value in found.get(kind, [])]) for kind in ("up", "down"))
    quiet = float(relu.weights.b[SPARSE].relu().square().mean())
    second = alone(relu, SPARSE, 2, (3, 4))
    absorbed = 1 - mean(second.get("up", [])) / max(mean(second.get("up without bias", [])), 1e-12)
    bias = relu.weights.b[SPARSE]
    products = gram(relu.weights.W_in[SPARSE])[:, 2, 3:]
    small = (products > 0) & (products < SOME)
    removed = (products * 0.8 + bias[:, 2:3] <= 0)[small]
    hurts = lost["ReLU"]["all"] < 0.95
    return [
        Row("error of an output with one other feature active that pushes it up (sparsity 0.9)", "bad", up, f"pushes it down {down:.4f}; nothing active {quiet:.4f}", "confirmed" if up > 3 * max(down, quiet) else "not confirmed", f"all pairs of {len(products)} instances whose product is at least {SOME}"),
        Row("loss without interference over the loss with it (sparsity 0.9)", "< 1", lost["ReLU"]["all"], f"without its positive part {lost['ReLU']['positive']:.3f}, without its negative part {lost['ReLU']['negative']:.3f}; linear model {lost['linear']['all']:.3f}", "confirmed" if hurts else "not confirmed", "the products of different features set to 0, mean of instances"),
        Row("sparsity 0.9: small positive products of feature 2 with 3 or 4 that its bias absorbs", "all", share(int(removed.sum()), len(removed)) if len(removed) else "none are small", f"bias of output 2 negative in {share(int((bias[:, 2] < 0).sum()), len(bias))}", "confirmed" if len(removed) and bool(removed.double().mean() > 0.9) else "not confirmed", f"products below {SOME} at the mean magnitude of an input, 0.8; mean bias {float(bias[:, 2].mean()):+.3f}"),
        Row("the same: share of the error by larger products that the bias takes away", "all", absorbed, "0 without bias", "confirmed" if absorbed > 0.9 else "not confirmed", f"only feature 3 or 4 active and pushing output 2 up, products of at least {SOME}: {len(second.get('up', []))} of {2 * len(products)}"),
    ], {"loss_without_interference": lost, "error_pushed_up_and_down": [up, down]}  # fmt: skip


def of_relu(relu: ToyModels, linear: ToyModels) -> tuple[list[Row], dict[str, Any]]:
    """How often ReLU acts, by sparsity."""
    found = [acts(relu, setting, sparsity) for setting, sparsity in enumerate(SPARSITIES)]
    all_outputs, resting, pushed = ([one[part] for one in found] for part in range(3))
    # The very same models on all inputs: what sparsity alone does.
    fixed = [acts(relu, SPARSE, sparsity)[2] for sparsity in SPARSITIES]
    counts, flat = (represented(models.weights.W_in).mean(dim=1).tolist() for models in (relu, linear))
    most = max(range(len(pushed)), key=pushed.__getitem__)
    rarer = all(a > b for a, b in itertools.pairwise(pushed[most:])) and pushed[-1] < pushed[most] / 2
    return [
        Row("outputs that ReLU sets to 0, by sparsity", "fewer", told(all_outputs), f"biases below 0 {told(resting)}", "refuted" if all_outputs[-1] > all_outputs[HALF] else "confirmed", f"sparsity {told(SPARSITIES)}; with a bias below 0 it acts on every silent output"),
        Row("outputs that it sets to 0 against interference, by sparsity", "fewer", told(pushed, 3), f"the models of sparsity 0.9 on all these inputs {told(fixed, 3)}", "confirmed" if rarer and SPARSITIES[most] < 0.9 else "not confirmed", f"others push the output down by at least {SOME}; most at {SPARSITIES[most]}: denser models keep features orthogonal"),
        Row("features represented, by sparsity", "more", told(counts, 1), f"linear {told(flat, 1)}", "confirmed" if counts[-1] > counts[0] + 0.5 and max(flat) < 2.5 else "not confirmed", f"mean of {relu.weights.W_in.shape[1]} instances"),
    ], {"sparsity": list(SPARSITIES), "set_to_0": all_outputs, "negative_biases": resting, "set_to_0_against_interference": pushed, "the_same_of_sparsity_0.9": fixed, "represented": counts, "represented_linear": flat}  # fmt: skip


def main(
    steps: int = 10_000,
    instances: int = 24,
    three: int = 32,
    seed: int = 42,
    device: str = "cpu",
    out: Path | None = None,
) -> None:
    """Train, measure.

    Args:
        steps: Optimizer steps; the source's are 10,000.
        instances: Models of five features at each sparsity.
        three: Models of three features at each sparsity and importance.
        seed: The source's is 42.
        device: Where it is trained: cpu or cuda.
        out: JSON file of all numbers.
    """
    options = {"n_steps": steps, "seed": seed, "device": device}
    importance = [RATIO**feature for feature in range(FEATURES)]
    relu, linear = (trained(configuration(SPARSITIES, importance, activation=activation, n_instances=instances, **options)) for activation in ("relu", "linear"))  # fmt: skip
    rows, details = of_three(options, three)
    for more, found in (of_components(linear), of_interference(relu, linear), of_relu(relu, linear)):
        rows += more
        details |= found
    details["norms"] = feature_norms(relu.weights.W_in[SPARSE]).tolist()
    report("interference", PRAMODITH, {"steps": steps, "instances": instances, "of three features": three, "batch": 1024, "learning rate": 1e-3, "seed": seed, "importance": "0.9^i", "inputs": "normal × mask"}, rows, details, out)  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
