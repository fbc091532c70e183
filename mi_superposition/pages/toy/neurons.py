"""The page on neurons that share features."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import interactions, neuron_stacks
from mi_superposition.pages.toy.frames import interaction_frames, sparsity_labels
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.neurons import PROBABILITIES, NeuronsStudy, mean_interference, others_share
from mi_superposition.toy.geometry import REPRESENTED, feature_norms
from mi_superposition.toy.polysemanticity import features_per_neuron

TITLE = "Neurons that share features"
QUESTION = "In a hidden layer with ReLU, does each feature get its own neuron?"
SOURCE = "Elhage et al. 2022, Toy Models of Superposition (privileged basis); C. McDougall, “Toy models of superposition” (ARENA)"
# Of these the interference is told, next to that of dense features.
_SPARSE = PROBABILITIES.index(0.03)


def outcome(study: NeuronsStudy) -> str:
    """Monosemantic neurons over sparsity."""
    alone, kept = study.monosemantic.tolist(), study.represented.tolist()
    return (
        f"Of five neurons, {', '.join(map(str, alone))} are monosemantic as sparsity increases (best of {study.trained.loss.shape[1]} "
        f"instances at each sparsity); the number of represented features goes from {kept[0]:.0f} to {kept[-1]:.0f}."
    )


def items(study: NeuronsStudy) -> Sequence[Item]:
    """Stacked weights, and polysemanticity of the best and of all."""
    trained, untrained = study.trained, study.untrained.W_in
    sparsities = sparsity_labels(PROBABILITIES, 3)
    best, all_instances, number = study.polysemantic[:, 0], study.polysemantic, study.features_per_neuron
    x = [1 / probability for probability in PROBABILITIES]
    return [
        FigureRecord(
            id="toy-neuron-stacks",
            title="Input weights of each neuron",
            look_at=(
                "One bar per neuron, its weights stacked: one colour per feature, and the same bars coloured by how much others interfere with "
                "each feature, their share of the squared projections on its direction (0, dark: orthogonal to all others; ½: an antipodal pair). "
                "Move the slider: dense features get one neuron each, sparse features share neurons."
            ),
            number=(
                f"{float(number[0]):.1f} features per neuron (effective number) when dense, {float(number[-1]):.1f} at sparsity "
                f"{sparsities[-1]}. Interference of the represented features, mean: {_share(trained.W_in[0])}, {_share(trained.W_in[-1])}."
            ),
            control=f"{float(features_per_neuron(untrained).mean()):.1f} before training, with interference {_share(untrained)}.",
            figure=neuron_stacks(
                {name: {"": W} for name, W in zip(sparsities, trained.W_in, strict=True)},
                "sparsity",
                y_title="Σ |weight| over features",
                interference=dict(zip(sparsities, others_share(trained.W_in), strict=True)),
            ),
        ),
        FigureRecord(
            id="toy-neuron-interactions",
            title="Interference between features",
            look_at=(
                "W^T W, biases and norms of the same models. Off-diagonal entries are interference, which ReLU and biases must cancel."
            ),
            number=(
                f"Mean interference of the represented features: {mean_interference(trained.W_in[0]):.2f} when dense, "
                f"{mean_interference(trained.W_in[_SPARSE]):.2f} at sparsity {sparsities[_SPARSE]}."
            ),
            control=f"{mean_interference(untrained):.2f} before training.",
            figure=interactions(interaction_frames(sparsities, trained.W_in, trained.b), "sparsity"),
        ),
        FigureRecord(
            id="toy-neuron-share",
            title="From monosemantic to polysemantic",
            look_at=(
                "Fraction of active neurons that are polysemantic (no single feature has 90 % of the squared "
                "weights). Band: interquartile range over all instances."
            ),
            number=f"{float(best[0]):.2f} to {float(best[-1]):.2f} in the best instances.",
            control=f"{study.untrained_polysemantic:.2f} before training.",
            figure=lines(
                {
                    "best instance": Line(x, best.tolist()),
                    "mean of all": Line(
                        x,
                        all_instances.mean(dim=1).tolist(),
                        all_instances.quantile(0.25, dim=1).tolist(),
                        all_instances.quantile(0.75, dim=1).tolist(),
                    ),
                },
                x_title="1 / probability (sparser →)",
                y_title="fraction of polysemantic neurons",
                log_x=True,
            ),
        ),
    ]


def _share(W: Float[Tensor, "*many hidden feature"]) -> str:
    return f"{float(others_share(W)[feature_norms(W) > REPRESENTED].mean()):.2f}"
