"""The page on dropout against superposition."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import grid_heatmaps
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.toy.dropout import DROPOUT, HALF, PROBABILITIES, DropoutStudy

TITLE = "Dropout against superposition"
QUESTION = "Does dropout prevent superposition?"
SOURCE = (
    "Pona 2023, Superposition and Dropout; K. Thaman, A. Rigg, N. Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10); "
    "last figure: the post “Dropout can create a privileged basis in the ReLU output model”"
)
_RUNS = {"even": "equally important", "falling": "of decreasing importance"}
_SPARSITIES = [1 - probability for probability in PROBABILITIES]
_MODERATE, _TENTH, _LAST = PROBABILITIES.index(0.3), PROBABILITIES.index(0.1), len(PROBABILITIES) - 1


def outcome(study: DropoutStudy) -> str:
    """Interference with dropout and without, and features aligned with dimensions."""
    even, falling = (study.measures[name] for name in _RUNS)
    relative = even.relative_interference
    changes = ", ".join(
        f"{float(row[0]):.2f} to {float(row[HALF]):.2f} at sparsity {sparsity:.2f}"
        for sparsity, row in zip(_SPARSITIES, relative, strict=True)
    )
    very_sparse = [row for row, probability in enumerate(PROBABILITIES) if probability <= 0.03]
    still = all(abs(float(relative[row, HALF] / relative[row, 0]) - 1) < 0.1 for row in very_sparse)
    kept, interference = falling.kept, falling.relative_interference
    return (
        "For equally important features, dropout 0.5 changes the relative interference (interference divided by the "
        f"feature's own squared norm) from {changes}: "
        f"{'for very sparse features it changes little except the norm of the weights' if still else 'also for very sparse features'}. For "
        f"features of decreasing importance, fewer are represented ({int(kept[_LAST, 0])} become "
        f"{int(kept[_LAST, HALF])} at sparsity 0.99) and they interfere less ({float(interference[_LAST, 0]):.2f} becomes "
        f"{float(interference[_LAST, HALF]):.2f}), except for dense features, which were not in superposition "
        f"({int(kept[0, 0])} and {int(kept[0, HALF])} represented). At sparsity 0.70 dropout aligns features with "
        f"hidden dimensions ({float(even.features_per_neuron[_MODERATE, 0]):.1f} features per dimension become "
        f"{float(even.features_per_neuron[_MODERATE, HALF]):.1f})."
    )


def items(study: DropoutStudy) -> Sequence[Item]:
    """What dropout changes and what it does not, for both kinds of importance."""
    return [*(_grids(study, name) for name in _RUNS), _norms(study), _alignment(study)]


def _grids(study: DropoutStudy, run: str) -> FigureRecord:
    relative, kept = study.measures[run].relative_interference, study.measures[run].kept
    return FigureRecord(
        id=f"toy-dropout-{run}",
        title=f"Forty features {_RUNS[run]} under dropout",
        look_at=(
            "Dropout increases from left to right. Both measures are independent of the norm of the weights: the "
            "number of features with at least half of the largest norm, and the interference of a feature divided by "
            "its own squared norm (1 in an antipodal pair). Pona 2023 reported that dropout acts against "
            "superposition, for features of decreasing importance at low sparsity."
        ),
        number=(
            f"Relative interference {float(relative[_TENTH, 0]):.2f} without dropout and {float(relative[_TENTH, HALF]):.2f} with dropout 0.5 at "
            f"sparsity {_SPARSITIES[_TENTH]:.2f}; {float(relative[_LAST, 0]):.2f} and {float(relative[_LAST, HALF]):.2f} at "
            f"{_SPARSITIES[_LAST]:.2f}. Features kept: {int(kept[_TENTH, 0])} and {int(kept[_TENTH, HALF])}; {int(kept[_LAST, 0])} and "
            f"{int(kept[_LAST, HALF])}."
        ),
        control=f"{study.untrained_interference[run]:.2f} before training; the leftmost column has no dropout.",
        figure=grid_heatmaps(
            {"features kept": kept, "relative interference": relative},
            rows=_SPARSITIES,
            columns=DROPOUT,
            row_title="sparsity",
            column_title="dropout",
        ),
    )


def _norms(study: DropoutStudy) -> FigureRecord:
    per_feature, dimensionality = study.measures["even"].dimensions_per_feature, study.measures["even"].dimensionality
    return FigureRecord(
        id="toy-dropout-length",
        title="What dropout changes everywhere: the norm of the weights",
        look_at=(
            "m / ‖W‖² counts dimensions per feature by squared norms, so it rises when weights shrink, whether or not features leave "
            "superposition."
        ),
        number=(
            f"{float(per_feature[_LAST, 0]):.2f} to {float(per_feature[_LAST, HALF]):.2f} at sparsity {_SPARSITIES[_LAST]:.2f}."
        ),
        control=(
            f"Mean feature dimensionality, which does not depend on norms: {float(dimensionality[_LAST, 0]):.2f} to "
            f"{float(dimensionality[_LAST, HALF]):.2f}."
        ),
        figure=lines(_along_dropout(per_feature), x_title="dropout", y_title="m / ‖W‖²", log_y=True),
    )


def _alignment(study: DropoutStudy) -> FigureRecord:
    per_dimension = study.measures["even"].features_per_neuron
    return FigureRecord(
        id="toy-dropout-basis",
        title="Dropout can align features with hidden dimensions",
        look_at=(
            "Effective number of features with weights on one hidden dimension. A bottleneck has no reason to align features with its "
            "dimensions. Dropout acts on single dimensions and so gives it one: at moderate sparsity, two opposite features share each "
            "dimension."
        ),
        number=(
            f"{float(per_dimension[_MODERATE, 0]):.1f} to {float(per_dimension[_MODERATE, HALF]):.1f} at sparsity "
            f"{_SPARSITIES[_MODERATE]:.2f}."
        ),
        control=(
            f"{study.untrained_features_per_neuron:.1f} before training; {float(per_dimension[_LAST, HALF]):.1f} at sparsity "
            f"{_SPARSITIES[_LAST]:.2f}."
        ),
        figure=lines(_along_dropout(per_dimension), x_title="dropout", y_title="features per hidden dimension"),
    )


def _along_dropout(values: Float[Tensor, "probability dropout"]) -> dict[str, Line]:
    return {
        f"sparsity {sparsity:.2f}": Line(DROPOUT, row.tolist())
        for sparsity, row in zip(_SPARSITIES, values, strict=True)
    }
