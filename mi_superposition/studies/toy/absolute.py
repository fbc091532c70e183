"""Neurons that compute ``|x|``: pairs of their own when dense, in superposition when sparse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import neuron_stacks
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, geometric, setting_grid
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.polysemanticity import (
    asymmetric_motifs,
    effective_map,
    features_per_neuron,
    monosemantic,
    polysemantic_share,
    relabelled,
    signed_pairs,
)
from mi_superposition.training import seeded_generator

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def configs(full: bool) -> dict[str, ToyConfig]:
    """100 features and 40 neurons at seven sparsities; 20 and 10 at probability 0.5; 10 and 10 at 0.35."""
    hundred = ToyConfig(
        model="computation", task="abs", n_features=100, n_hidden=40, n_instances=16 if full else 4, n_kept=4, n_steps=5000,
        settings=setting_grid(probability=PROBABILITIES, importance=[geometric(1.0, 0.8, 100)]), learning_rate=5e-3,
        decay="cosine",
    )  # fmt: skip
    pairs = replace(
        hundred, n_features=20, n_hidden=10, settings=setting_grid(probability=[0.5], importance=[geometric(1.0, 0.8, 20)]),
        n_instances=1000 if full else 64, n_kept=64, batch_size=512,
    )  # fmt: skip
    motif = replace(pairs, n_features=10, settings=setting_grid(probability=[0.35]))
    return {"hundred": hundred, "pairs": pairs, "motif": motif}


def pairs_by_instance(weights: ToyWeights) -> Int[Tensor, " instance"]:
    """How many different features each instance of the one setting computes by a pair of monosemantic neurons."""
    both = zip(weights.W_in[0], weights.W_out[0], strict=True)
    return torch.tensor([len({pair.feature for pair in signed_pairs(*one)}) for one in both])


def motifs_by_instance(weights: ToyWeights) -> Int[Tensor, " instance"]:
    """How many asymmetric motifs each instance of the one setting holds."""
    return torch.tensor([len(asymmetric_motifs(*both)) for both in zip(weights.W_in[0], weights.W_out[0], strict=True)])


def dealt_anew(weights: ToyWeights) -> ToyWeights:
    """The control: each neuron's features dealt anew."""
    generator = seeded_generator(0, "relabelled")
    return ToyWeights(*relabelled(weights.W_in, weights.W_out, generator), weights.b)


@dataclass(frozen=True)
class Found:
    """What the three models hold, and their controls."""

    pairs: Int[Tensor, " instance"]
    pairs_dealt_anew: Int[Tensor, " instance"]
    motifs: Int[Tensor, " instance"]
    motifs_dealt_anew: Int[Tensor, " instance"]
    monosemantic: Int[Tensor, "setting of_hundred"]

    @classmethod
    def of(cls, models: Models) -> Found:
        """Measure them."""
        hundred, pairs, motif = (models[name].weights for name in ("hundred", "pairs", "motif"))
        return cls(
            pairs_by_instance(pairs), pairs_by_instance(dealt_anew(pairs)), motifs_by_instance(motif),
            motifs_by_instance(dealt_anew(motif)), monosemantic(hundred.W_in).sum(dim=-1),
        )  # fmt: skip

    @property
    def with_motif(self) -> int:
        """Instances with at least one motif."""
        return int((self.motifs > 0).sum())

    @property
    def with_motif_dealt_anew(self) -> int:
        """The same in the control."""
        return int((self.motifs_dealt_anew > 0).sum())


def metrics(models: Models) -> dict[str, Any]:
    """Of the three models."""
    hundred, found = models["hundred"], Found.of(models)
    return {
        "probability": list(PROBABILITIES),
        "hundred_monosemantic_neurons": found.monosemantic[:, 0].tolist(),
        "hundred_monosemantic_neurons_least": found.monosemantic.amin(dim=1).tolist(),
        "hundred_monosemantic_neurons_most": found.monosemantic.amax(dim=1).tolist(),
        "hundred_polysemantic_share": polysemantic_share(hundred.W_in).tolist(),
        "hundred_features_per_neuron": features_per_neuron(hundred.W_in).mean(dim=1).tolist(),
        "hundred_features_per_neuron_untrained": float(
            features_per_neuron(initial_weights(hundred.config).W_in).mean()
        ),
        "hundred_loss": hundred.best_loss.tolist(),
        "hundred_constant_loss": hundred.constant_loss.tolist(),
        "pairs_of_best": int(found.pairs[0]),
        "pairs_mean": float(found.pairs.float().mean()),
        "pairs_mean_dealt_anew": float(found.pairs_dealt_anew.float().mean()),
        "instances_with_motif": found.with_motif,
        "instances_with_motif_dealt_anew": found.with_motif_dealt_anew,
        "instances": len(found.motifs),
    }


def outcome(models: Models) -> str:
    """What was found."""
    found = Found.of(models)
    alone = ", ".join(_range(row) for row in found.monosemantic)
    return (
        f"Of 40 neurons {alone} serve one feature alone as features get sparser (best of {found.monosemantic.shape[1]} instances, in "
        f"brackets all). With 10 neurons for 20 features at probability 0.5 the best instance computes {int(found.pairs[0])} "
        f"features by pairs of neurons with opposite input, {float(found.pairs.float().mean()):.1f} on average (features dealt anew: "
        f"{float(found.pairs_dealt_anew.float().mean()):.1f}). The asymmetric motif stands in {found.with_motif} of {len(found.motifs)} instances "
        f"with 10 features and 10 neurons at 0.35 ({found.with_motif_dealt_anew} with features dealt anew)."
    )


def _range(values: Int[Tensor, " instance"]) -> str:
    return f"{int(values[0])} ({int(values.min())}-{int(values.max())})"


def items(models: Models) -> Sequence[Item]:
    """Stacked weights of the three models, and how features and neurons go together."""
    hundred, pairs, motif = (models[name] for name in ("hundred", "pairs", "motif"))
    sparsities = [f"{1 - p:.3f}" for p in PROBABILITIES]
    found = Found.of(models)
    shown = int((found.motifs > 0).int().argmax())
    per_neuron = features_per_neuron(hundred.W_in).mean(dim=1)
    linear = effective_map(hundred.W_out, hundred.W_in).diagonal(dim1=1, dim2=2)
    return [
        FigureRecord(
            id="toy-abs-stacks",
            title="Forty neurons that compute |x| of a hundred features",
            look_at="One bar a neuron, its input weights stacked, one colour a feature. Sparser features share neurons.",
            number=f"{float(per_neuron[0]):.1f} features a neuron (effective number) when dense, {float(per_neuron[-1]):.1f} at sparsity {sparsities[-1]}.",
            control=f"{float(features_per_neuron(initial_weights(hundred.config).W_in).mean()):.0f} before training.",
            figure=neuron_stacks(
                {name: {"": W} for name, W in zip(sparsities, hundred.W_in, strict=True)}, "sparsity",
                y_title="Σ |input weight| over features",
            ),
        ),
        FigureRecord(
            id="toy-abs-share",
            title="Loss against the best constant, and neurons that serve several features",
            look_at=(
                "A model that learnt nothing has a loss ratio of 1. The diagonal of W2 W1 is what the network would do to a feature "
                "if neurons were linear: 0 for a pair of opposite neurons, away from 0 where one sign is served by another neuron."
            ),
            number=f"Loss {float(hundred.best_loss[0] / hundred.constant_loss[0]):.2f} of the best constant's when dense, {float(hundred.best_loss[-1] / hundred.constant_loss[-1]):.2f} at sparsity {sparsities[-1]}.",
            control="1 for the best constant output.",
            figure=lines(
                {
                    "loss / loss of the best constant": _over(hundred.best_loss / hundred.constant_loss),
                    "polysemantic share of neurons": _over(polysemantic_share(hundred.W_in)),
                    "|diagonal of W2 W1|, mean of the first ten": _over(linear[:, :10].abs().mean(dim=1)),
                },
                x_title="1 / probability (sparser →)", y_title="dimensionless", log_x=True,
            ),
        ),
        FigureRecord(
            id="toy-abs-pairs",
            title="Ten neurons, twenty features, probability 0.5: a pair for each feature that is kept",
            look_at=(
                "Two neurons of one colour: one reads x, the other -x, and both write with a positive weight: relu(x) + relu(-x) = "
                "|x|. Hover for the signs."
            ),
            number=(
                f"{int(found.pairs[0])} pairs in the best instance, {float(found.pairs.float().mean()):.1f} on average of "
                f"{len(found.pairs)}; 5 is the most ten neurons can form."
            ),
            control=f"{float(found.pairs_dealt_anew.float().mean()):.1f} on average where each neuron is dealt its features anew.",
            figure=neuron_stacks(
                {"best": {"input weights": pairs.W_in[0], "output weights": pairs.W_out[0].T}}, "instance",
                y_title="Σ |weight| over features",
            ),
        ),
        FigureRecord(
            id="toy-abs-motif",
            title="The asymmetric motif",
            look_at=(
                "A neuron with a large weight from one feature and a small one from another, and the other way round at its "
                "output; a second neuron takes back what the first feature spills into the second's output. Shown is the best "
                "instance that has one."
            ),
            number=f"Found in {found.with_motif} of {len(found.motifs)} trained instances, by the criterion below.",
            control=f"In {found.with_motif_dealt_anew} of them where each neuron is dealt its features anew.",
            figure=neuron_stacks(
                {
                    f"{shown}": {
                        "input weights": motif.weights.W_in[0, shown],
                        "output weights": motif.weights.W_out[0, shown].T,
                    }
                },
                "instance",
                y_title="Σ |weight| over features",
            ),
        ),
        _motif_table(motif, shown),
    ]  # fmt: skip


def _over(values: Float[Tensor, " setting"]) -> Line:
    return Line([1 / p for p in PROBABILITIES], values.tolist())


def _motif_table(motif: ToyModels, shown: int) -> TableRecord:
    W_in, W_out = motif.weights.W_in[0, shown], motif.weights.W_out[0, shown]
    return TableRecord(
        id="toy-motifs",
        title="The motifs of that instance, in weights",
        look_at=(
            "Criterion (ours): both features served (input times output weight at least 0.25); input weights two to one, output "
            "weights one to two; the inhibitor takes back at least half of what is spilled."
        ),
        columns=["neuron", "loud: in, out", "quiet: in, out", "inhibitor: in from loud, out to quiet"],
        rows=[
            [
                f"{found.neuron}",
                f"feature {found.loud}: {float(W_in[found.neuron, found.loud]):.2f}, {float(W_out[found.loud, found.neuron]):.2f}",
                f"feature {found.quiet}: {float(W_in[found.neuron, found.quiet]):.2f}, {float(W_out[found.quiet, found.neuron]):.2f}",
                f"neuron {found.inhibitor}: {float(W_in[found.inhibitor, found.loud]):.2f}, {float(W_out[found.quiet, found.inhibitor]):.2f}",
            ]
            for found in asymmetric_motifs(W_in, W_out)
        ],
        words=("loud: in, out", "quiet: in, out", "inhibitor: in from loud, out to quiet"),
    )


STUDY = ToyStudy(
    name="absolute",
    title="Computing |x| in superposition",
    question="Can neurons compute something of more features than there are neurons?",
    source="Elhage et al. 2022, Toy Models of Superposition, computation in superposition",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
