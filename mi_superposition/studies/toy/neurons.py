"""A hidden layer with ReLU: neurons are a basis of their own, and serve one feature or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import Interactions, interactions, neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, geometric, setting_grid
from mi_superposition.toy.geometry import REPRESENTED, feature_norms, gram, interference, represented
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic, polysemantic_share

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def configs(full: bool) -> dict[str, ToyConfig]:
    """Ten features of falling importance, five neurons, seven sparsities; ``full``: 1,000 instances as in the source."""
    settings = setting_grid(probability=PROBABILITIES, importance=[geometric(1.0, 0.75, 10)])
    kept = 50
    return {
        "relu": ToyConfig(
            model="neuron", n_features=10, n_hidden=5, settings=settings, n_instances=1000 if full else kept, n_kept=kept,
            batch_size=512, n_steps=5000, learning_rate=5e-3, decay="cosine",
        )
    }  # fmt: skip


def metrics(models: Models) -> dict[str, Any]:
    """By probability."""
    trained = models["relu"]
    return {
        "probability": list(PROBABILITIES),
        "best_monosemantic_neurons": monosemantic(trained.W_in).sum(dim=1).tolist(),
        "best_polysemantic_share": polysemantic_share(trained.W_in).tolist(),
        "mean_polysemantic_share": polysemantic_share(trained.weights.W_in).mean(dim=1).tolist(),
        "best_features_represented": represented(trained.W_in).tolist(),
        "untrained_polysemantic_share": float(polysemantic_share(initial_weights(trained.config).W_in).mean()),
        "best_loss": trained.best_loss.tolist(),
        "worst_loss": trained.loss.amax(dim=1).tolist(),
    }


def outcome(models: Models) -> str:
    """What was found."""
    trained = models["relu"]
    alone, kept = monosemantic(trained.W_in).sum(dim=1).tolist(), represented(trained.W_in).tolist()
    return (
        f"Of five neurons {', '.join(map(str, alone))} serve one feature alone as features get sparser (best of "
        f"{trained.loss.shape[1]} at each sparsity), while {kept[0]:.0f} features represented become {kept[-1]:.0f}."
    )


def _interference(W: Float[Tensor, "*many hidden feature"]) -> float:
    """Mean over the features that are represented: of one that is not, the others are all there is on its direction."""
    return float(interference(W)[feature_norms(W) > REPRESENTED].mean())


def items(models: Models) -> Sequence[Item]:
    """Stacked weights, and polysemanticity of the best and of all."""
    trained = models["relu"]
    sparsities = [f"{1 - p:.3f}" for p in PROBABILITIES]
    untrained = initial_weights(trained.config).W_in
    by_instance = polysemantic_share(trained.weights.W_in)
    number = features_per_neuron(trained.W_in).mean(dim=1)
    return [
        FigureRecord(
            id="toy-neuron-stacks",
            title="What each neuron reads",
            look_at=(
                "One bar a neuron, its weights stacked, one colour a feature. Move the slider: dense features get a neuron "
                "each, sparse ones share neurons."
            ),
            number=f"{float(number[0]):.1f} features a neuron (effective number) when dense, {float(number[-1]):.1f} at sparsity {sparsities[-1]}.",
            control=f"{float(features_per_neuron(untrained).mean()):.1f} before training.",
            figure=neuron_stacks(
                {name: {"": W} for name, W in zip(sparsities, trained.W_in, strict=True)},
                "sparsity",
                y_title="Σ |weight| over features",
            ),
        ),
        FigureRecord(
            id="toy-neuron-interactions",
            title="What features do to each other",
            look_at="W^T W, biases and norms of the same models. Off the diagonal: interference, which ReLU and the biases have to undo.",
            number=f"{_interference(trained.W_in[0]):.2f} mean interference of the features represented when dense, {_interference(trained.W_in[3]):.2f} at sparsity {sparsities[3]}.",
            control=f"{_interference(untrained):.2f} before training.",
            figure=interactions(
                {
                    name: Interactions(gram(W), b, feature_norms(W), interference(W))
                    for name, W, b in zip(sparsities, trained.W_in, trained.b, strict=True)
                },
                "sparsity",
            ),
        ),
        FigureRecord(
            id="toy-neuron-share",
            title="From monosemantic to polysemantic",
            look_at="Share of working neurons no feature of which has 90 % of the squared weights; band: middle half of all instances.",
            number=f"{float(polysemantic_share(trained.W_in)[0]):.2f} to {float(polysemantic_share(trained.W_in)[-1]):.2f} in the best instances.",
            control=f"{float(polysemantic_share(untrained).mean()):.2f} before training.",
            figure=lines(
                {
                    "best instance": Line([1 / p for p in PROBABILITIES], polysemantic_share(trained.W_in).tolist()),
                    "mean of all": Line(
                        [1 / p for p in PROBABILITIES],
                        by_instance.mean(dim=1).tolist(),
                        by_instance.quantile(0.25, dim=1).tolist(),
                        by_instance.quantile(0.75, dim=1).tolist(),
                    ),
                },
                x_title="1 / probability (sparser →)",
                y_title="polysemantic share of neurons",
                log_x=True,
            ),
        ),
    ]


STUDY = ToyStudy(
    name="neurons",
    title="Neurons that share features",
    question="Given neurons of its own to use, does a model give each feature one?",
    source="Elhage et al. 2022, Toy Models of Superposition, superposition in a privileged basis",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
