"""L1 on the hidden layer, features of uneven sparsity, and what they do to polysemanticity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, geometric, setting_grid
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic, polysemantic_share, working

L1 = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
N, HIDDEN = 20, 10
# From one half down to 0.02; the even setting has the same mean.
UNEVEN = geometric(0.5, 0.85, N)
EVEN = sum(UNEVEN) / N
SPARSITIES = ("even sparsity", "uneven sparsity")
ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU"}


def configs(full: bool) -> dict[str, ToyConfig]:
    """``|x|`` of twenty features by ten neurons: even and uneven sparsity of the same mean, six weights of L1."""
    return {
        activation: ToyConfig(
            model="computation", task="abs", activation=activation, n_features=N, n_hidden=HIDDEN,
            settings=setting_grid(probability=[EVEN, UNEVEN], l1=L1), n_instances=64 if full else 8, n_kept=8, n_steps=5000,
            batch_size=512, learning_rate=5e-3, decay="cosine",
        )
        for activation in ACTIVATIONS
    }  # fmt: skip


def _grid(values: Float[Tensor, " setting"]) -> Float[Tensor, "sparsity l1"]:
    return rearrange(values, "(sparsity l1) -> sparsity l1", l1=len(L1))


def mean_share(models: ToyModels) -> Float[Tensor, "sparsity l1"]:
    """Polysemantic share of the working neurons, mean over the kept instances."""
    return _grid(polysemantic_share(models.weights.W_in).mean(dim=1))


def metrics(models: Models) -> dict[str, Any]:
    """By activation and sparsity, each a list over L1."""
    found: dict[str, Any] = {"l1": list(L1), "mean_probability": EVEN}
    for name, trained in models.items():
        alive = _grid(working(trained.weights.W_in).float().sum(dim=2).mean(dim=1))
        loss = _grid(trained.best_loss / trained.constant_loss)
        for row, sparsity in enumerate(SPARSITIES):
            key = f"{name}_{sparsity.split()[0]}"
            found[f"{key}_polysemantic_share"] = mean_share(trained)[row].tolist()
            found[f"{key}_working_neurons"] = alive[row].tolist()
            found[f"{key}_loss_over_constant"] = loss[row].tolist()
        found[f"{name}_polysemantic_share_untrained"] = float(
            polysemantic_share(initial_weights(trained.config).W_in).mean()
        )
    return found


def affordable(trained: ToyModels, row: int) -> int:
    """The largest L1, by its place, at which the best instance loses at most a fifth more than without."""
    loss = _grid(trained.best_loss)[row]
    return int((loss <= 1.2 * loss[0]).nonzero().max())


def outcome(models: Models) -> str:
    """What was found."""
    said = []
    for name, label in ACTIVATIONS.items():
        share = mean_share(models[name])
        parts = []
        for row, sparsity in enumerate(SPARSITIES):
            column = affordable(models[name], row)
            parts.append(
                f"{100 * float(share[row, 0]):.0f} % of the neurons are polysemantic at {sparsity}, {100 * float(share[row, column]):.0f} % with "
                f"L1 {L1[column]:g}"
            )
        said.append(f"{label}: {' and '.join(parts)}")
    return f"{'; '.join(said)} (the largest L1 that costs at most a fifth more loss)."


def items(models: Models) -> Sequence[Item]:
    """Polysemanticity and loss over L1, and the weights."""
    shares, losses = {}, {}
    for name, label in ACTIVATIONS.items():
        for row, sparsity in enumerate(SPARSITIES):
            by_instance = polysemantic_share(models[name].weights.W_in)[row * len(L1) : (row + 1) * len(L1)]
            # Zero has no place on a logarithmic axis: it stands one step before the least.
            x = [L1[1] / 3, *L1[1:]]
            shares[f"{label}, {sparsity}"] = Line(
                x, by_instance.mean(dim=1).tolist(), by_instance.amin(dim=1).tolist(), by_instance.amax(dim=1).tolist()
            )
            losses[f"{label}, {sparsity}"] = Line(
                x, _grid(models[name].best_loss / models[name].constant_loss)[row].tolist()
            )
    relu = models["relu"]
    untrained = initial_weights(relu.config).W_in
    alone = _grid(monosemantic(relu.W_in).float().sum(dim=1))
    return [
        FigureRecord(
            id="toy-l1-share",
            title="Polysemantic neurons under L1 and uneven sparsity",
            look_at=(
                f"Read it beside the next figure: where the loss nears 1, nothing was learnt. Share of working neurons that serve "
                f"several features, mean of {relu.weights.W_in.shape[1]} instances (band: all of "
                "them); the leftmost point has no L1."
            ),
            number=outcome(models),
            control=f"{float(polysemantic_share(untrained).mean()):.2f} before training.",
            figure=lines(shares, x_title="weight of L1 (leftmost: none)", y_title="polysemantic share of neurons", log_x=True),
        ),
        FigureRecord(
            id="toy-l1-loss",
            title="What L1 costs",
            look_at="Held-out loss of the best instance (without the L1 term) in units of the best constant's.",
            number=f"ReLU at even sparsity: {losses['ReLU, even sparsity'].y[0]:.2f} without, {losses['ReLU, even sparsity'].y[-1]:.2f} with L1 {L1[-1]:g}.",
            control="1 for the best constant output.",
            figure=lines(losses, x_title="weight of L1 (leftmost: none)", y_title="loss / loss of the best constant", log_x=True),
        ),
        FigureRecord(
            id="toy-l1-stacks",
            title="The neurons, with and without",
            look_at="Input weights of the ten neurons of the best instance, stacked, one colour a feature.",
            number=f"ReLU: {int(alone[0, 0])} of {HIDDEN} monosemantic without L1 at even sparsity, {int(alone[0, -1])} with {L1[-1]:g}; {int(alone[1, 0])} and {int(alone[1, -1])} at uneven.",
            control=f"{float(monosemantic(untrained).float().sum(dim=-1).mean()):.1f} before training; {float(features_per_neuron(untrained).mean()):.0f} features a neuron.",
            figure=neuron_stacks(
                {
                    f"{sparsity}, L1 {weight:g}": {
                        label: models[name].W_in[row * len(L1) + column] for name, label in ACTIVATIONS.items()
                    }
                    for row, sparsity in enumerate(SPARSITIES)
                    for column, weight in enumerate(L1)
                },
                "shown",
                y_title="Σ |input weight|",
            ),
        ),
    ]  # fmt: skip


STUDY = ToyStudy(
    name="penalties",
    title="L1 and uneven sparsity",
    question="What makes neurons monosemantic where they need not be?",
    source="ours, after the toy chapters on L1 and on sparsity that differs by feature",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
