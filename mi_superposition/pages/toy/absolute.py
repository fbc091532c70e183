"""The page on computing ``|x|`` in superposition."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import neuron_stacks
from mi_superposition.pages.toy.frames import sparsity_labels
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.absolute import PROBABILITIES, AbsoluteStudy

TITLE = "Computing |x| in superposition"
QUESTION = "Can a layer compute |x| for more features than it has neurons?"
SOURCE = "Elhage et al. 2022, Toy Models of Superposition (computation in superposition); C. McDougall, “Toy models of superposition” (ARENA)"
_SPARSITIES = sparsity_labels(PROBABILITIES, 3)


def outcome(study: AbsoluteStudy) -> str:
    """Monosemantic neurons, opposite pairs and asymmetric motifs."""
    alone = ", ".join(_range(row) for row in study.monosemantic)
    return (
        f"Of 40 neurons, {alone} are monosemantic as sparsity increases (best of {study.monosemantic.shape[1]} instances; in brackets the "
        f"range over all). With 10 neurons for 20 features at probability 0.5, the best instance computes {int(study.pairs[0])} features with "
        f"pairs of neurons that have opposite input weights, {_mean(study.pairs)} on average ({_mean(study.permuted_pairs)} with features "
        f"permuted within each neuron). The asymmetric motif occurs in {study.n_with_motif} of {len(study.motifs)} instances with 10 features "
        f"and 10 neurons at probability 0.35 ({study.n_permuted_with_motif} with features permuted within each neuron)."
    )


def items(study: AbsoluteStudy) -> Sequence[Item]:
    """Stacked weights of the three models, and how features and neurons go together."""
    return [_stacks(study), _loss(study), _pairs(study), _motif(study), _motif_table(study)]


def _stacks(study: AbsoluteStudy) -> FigureRecord:
    number = study.features_per_neuron
    return FigureRecord(
        id="toy-abs-stacks",
        title="Forty neurons that compute |x| of a hundred features",
        look_at=(
            "One bar per neuron, its input weights stacked, one colour per feature. Sparser features share neurons."
        ),
        number=(
            f"{float(number[0]):.1f} features per neuron (effective number) when dense, {float(number[-1]):.1f} at sparsity {_SPARSITIES[-1]}."
        ),
        control=f"{study.untrained_features_per_neuron:.0f} before training.",
        figure=neuron_stacks(
            {name: {"": W} for name, W in zip(_SPARSITIES, study.models["hundred"].W_in, strict=True)},
            "sparsity",
            y_title="Σ |input weight| over features",
        ),
    )


def _loss(study: AbsoluteStudy) -> FigureRecord:
    ratio = study.models["hundred"].loss_ratio.amin(dim=1)
    return FigureRecord(
        id="toy-abs-share",
        title="Loss relative to the best constant, and polysemantic neurons",
        look_at=(
            "A loss ratio of 1 means that nothing was learnt. The diagonal of W2 W1 is the network's effect on each feature if its neurons "
            "were linear: 0 for a pair of opposite neurons, non-zero where the two signs of a feature are handled by different neurons."
        ),
        number=f"Loss ratio {float(ratio[0]):.2f} when dense, {float(ratio[-1]):.2f} at sparsity {_SPARSITIES[-1]}.",
        control="1 for the best constant output.",
        figure=lines(
            {
                "loss / loss of the best constant": _over(ratio),
                "fraction of polysemantic neurons": _over(study.polysemantic),
                "|diagonal of W2 W1|, mean of the first ten": _over(study.linear_effect[:, :10].abs().mean(dim=1)),
            },
            x_title="1 / probability (sparser →)",
            y_title="dimensionless",
            log_x=True,
        ),
    )


def _pairs(study: AbsoluteStudy) -> FigureRecord:
    pairs = study.models["pairs"]
    return FigureRecord(
        id="toy-abs-pairs",
        title="Ten neurons, twenty features, probability 0.5: one pair of neurons per represented feature",
        look_at=(
            "Two neurons with the same colour: one reads x, the other −x, and both have a positive output weight, so that relu(x) + "
            "relu(−x) = |x|. Hover to see the signs."
        ),
        number=(
            f"{int(study.pairs[0])} pairs in the best instance, {_mean(study.pairs)} on average of {len(study.pairs)}; ten neurons can form at "
            "most 5."
        ),
        control=f"{_mean(study.permuted_pairs)} on average with features permuted within each neuron.",
        figure=neuron_stacks(
            {"best": {"input weights": pairs.W_in[0], "output weights": pairs.W_out[0].T}},
            "instance",
            y_title="Σ |weight| over features",
        ),
    )


def _motif(study: AbsoluteStudy) -> FigureRecord:
    shown = study.first_with_motif
    weights = study.models["motif"].weights
    return FigureRecord(
        id="toy-abs-motif",
        title="The asymmetric motif",
        look_at=(
            "A neuron has a large input weight and a small output weight for one feature, and the reverse for another feature. A second "
            "neuron cancels what the first feature adds to the second feature's output. Shown: the best instance with such a motif."
        ),
        number=f"Found in {study.n_with_motif} of {len(study.motifs)} trained instances, by the criterion below.",
        control=f"In {study.n_permuted_with_motif} of them with features permuted within each neuron.",
        figure=neuron_stacks(
            {f"{shown}": {"input weights": weights.W_in[0, shown], "output weights": weights.W_out[0, shown].T}},
            "instance",
            y_title="Σ |weight| over features",
        ),
    )


def _motif_table(study: AbsoluteStudy) -> TableRecord:
    shown = study.first_with_motif
    weights = study.models["motif"].weights
    W_in, W_out = weights.W_in[0, shown], weights.W_out[0, shown]
    columns = ["strong input: in, out", "weak input: in, out", "inhibiting neuron: in from strong, out to weak"]
    return TableRecord(
        id="toy-motifs",
        title="The motifs of that instance, in weights",
        look_at=(
            "Criterion (ours): for both features, input weight × output weight is at least 0.25. The strong feature's input weight is at "
            "least twice the weak one's, and the weak one's output weight is at least twice the strong one's. Another neuron (inhibiting) "
            "cancels at least half of what the strong feature adds to the weak one's output."
        ),
        columns=["neuron", *columns],
        rows=[
            [
                f"{motif.neuron}",
                f"feature {motif.strong}: {float(W_in[motif.neuron, motif.strong]):.2f}, {float(W_out[motif.strong, motif.neuron]):.2f}",
                f"feature {motif.weak}: {float(W_in[motif.neuron, motif.weak]):.2f}, {float(W_out[motif.weak, motif.neuron]):.2f}",
                f"neuron {motif.inhibitor}: {float(W_in[motif.inhibitor, motif.strong]):.2f}, {float(W_out[motif.weak, motif.inhibitor]):.2f}",
            ]
            for motif in study.motifs[shown]
        ],
        words=columns,
    )


def _over(values: Float[Tensor, " setting"]) -> Line:
    return Line([1 / probability for probability in PROBABILITIES], values.tolist())


def _range(values: Int[Tensor, " instance"]) -> str:
    return f"{int(values[0])} ({int(values.min())}-{int(values.max())})"


def _mean(counts: Int[Tensor, " instance"]) -> str:
    return f"{float(counts.float().mean()):.1f}"
