"""The page on dropout against superposition."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import grid_heatmaps
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.dropout import DROPOUT, HALF, N_ROTATIONS, PROBABILITIES, DropoutStudy

TITLE = "Dropout against superposition"
QUESTION = "Does dropout prevent superposition?"
SOURCE = "Pona 2023, Superposition and Dropout; K. Thaman, A. Rigg, N. Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10)"
_RUNS = {"even": "equally important", "falling": "of decreasing importance"}
_SPARSITIES = [1 - probability for probability in PROBABILITIES]
_MODERATE, _TENTH, _LAST = PROBABILITIES.index(0.3), PROBABILITIES.index(0.1), len(PROBABILITIES) - 1
# Beyond so many standard deviations of random rotations features count as aligned with dimensions, or as avoiding them.
_ALIGNED = 3.0
# And dropout counts as the cause where it moves them by more than so many.
_CHANGED = 2.0


def outcome(study: DropoutStudy) -> str:
    """What dropout does to the number of features, to antipodal pairs and to alignment."""
    even, falling = (study.means[name].kept for name in _RUNS)
    spread = max(float(study.beyond_a_frame["even"][row].abs().max()) for row in range(1, len(PROBABILITIES)))
    instances = f"{study.n_instances} instance{'s' if study.n_instances > 1 else ''} per cell"
    return (
        f"Of equally important features dropout 0.5 keeps {_changes(even)}; of features of decreasing importance {_changes(falling)} "
        f"({instances}, means). Relative interference is no second measure: in a tight frame it is kept / m − 1, and but for dense features it "
        f"differs from that by at most {spread:.2f} at even importance. {pairs(study)} {aligned(study)}"
    )


def _changes(kept: Float[Tensor, "probability dropout"]) -> str:
    return ", ".join(
        f"{float(row[HALF]):.1f} (without dropout {float(row[0]):.1f}) at sparsity {sparsity:.2f}"
        for sparsity, row in zip(_SPARSITIES, kept, strict=True)
    )


def pairs(study: DropoutStudy) -> str:
    """Where dropout makes antipodal pairs, and where it takes them apart."""
    said = []
    for name, words in _RUNS.items():
        for sparsity, row in zip(_SPARSITIES, study.means[name].opposite.tolist(), strict=True):
            most = max(row)
            where = f"at sparsity {sparsity:.2f}, {words}"
            numbers = ", ".join(f"{value:.1f}" for value in row)
            if most > row[0] + 2:
                said.append(f"raises their number {where} ({numbers}; most at dropout {DROPOUT[row.index(most)]:g})")
            elif min(row) < row[0] - 2:
                said.append(f"lowers their number {where} ({numbers})")
    if not said:
        return "Dropout changes the number of features in antipodal pairs nowhere by more than two."
    dropout = ", ".join(f"{value:g}" for value in DROPOUT)
    return f"Features in antipodal pairs, at dropout {dropout}: dropout {'; '.join(said)}."


def aligned(study: DropoutStudy) -> str:
    """Whether features are aligned with dimensions or avoid them, against random rotations."""
    undropped, together, avoiding, again = [], [], [], []
    for name, words in _RUNS.items():
        z = study.means[name].alignment
        undropped.append(f"{_row(z[:, 0].tolist())} for features {words}")
        for sparsity, (without, *others) in zip(_SPARSITIES, z.tolist(), strict=True):
            where = f"{sparsity:.2f} ({words}"
            low, high = min(others), max(others)
            if low < min(-_ALIGNED, without - _CHANGED):
                together.append(f"{where}: {low:+.1f} at dropout {DROPOUT[1 + others.index(low)]:g})")
            if high > max(_ALIGNED, without + _CHANGED):
                avoiding.append(
                    f"{where}: {high:+.1f} at dropout {DROPOUT[1 + others.index(high)]:g}, {others[-1]:+.1f} at {DROPOUT[-1]:g})"
                )
                again.append(others[-1] < 0)
    told = []
    if together:
        told.append(f"Dropout aligns features with dimensions at sparsity {', '.join(together)}.")
    if avoiding:
        told.append(
            f"It turns them away from dimensions (anti-aligned, as Thaman et al. report) at sparsity {', '.join(avoiding)}."
        )
        told.append(
            f"That they turn back to the dimensions beyond dropout 0.5 (Thaman et al.) holds in {sum(again)} of these {len(again)}: z is then negative "
            f"at dropout {DROPOUT[-1]:g}."
        )
    return (
        f"Alignment is tested against {N_ROTATIONS} random rotations of the hidden space (z of the effective number of features per dimension; "
        f"negative: aligned). Without dropout it is, from dense to sparse, {'; '.join(undropped)}. "
        + (" ".join(told) or "Dropout changes it nowhere.")
    )


def _row(values: list[float]) -> str:
    return ", ".join(f"{value:+.1f}" for value in values)


def items(study: DropoutStudy) -> Sequence[Item]:
    """What dropout changes and what it does not, for both kinds of importance."""
    return [
        *(_grids(study, name) for name in _RUNS),
        _alignment(study),
        _norms(study),
        *(_cells(study, name) for name in _RUNS),
    ]


def _grids(study: DropoutStudy, run: str) -> FigureRecord:
    kept, opposite = study.means[run].kept, study.means[run].opposite
    beyond = study.beyond_a_frame[run]
    return FigureRecord(
        id=f"toy-dropout-{run}",
        title=f"Forty features {_RUNS[run]} under dropout",
        look_at=(
            "Dropout increases from left to right. Both measures are independent of the norm of the weights: the number of features with at "
            "least half of the largest norm, and how many of these lie opposite another (cosine below −0.9). Pona 2023 reported that dropout "
            "acts against superposition, for features of decreasing importance at low sparsity."
        ),
        number=(
            f"Features kept without dropout and with dropout 0.5: {float(kept[_TENTH, 0]):.1f} and {float(kept[_TENTH, HALF]):.1f} at sparsity "
            f"{_SPARSITIES[_TENTH]:.2f}; {float(kept[_LAST, 0]):.1f} and {float(kept[_LAST, HALF]):.1f} at {_SPARSITIES[_LAST]:.2f}. In "
            f"antipodal pairs: {float(opposite[_TENTH, 0]):.1f} and {float(opposite[_TENTH, HALF]):.1f}; {float(opposite[_LAST, 0]):.1f} and "
            f"{float(opposite[_LAST, HALF]):.1f}. Relative interference is at most {float(beyond.amax()):.2f} above that of a tight frame of as "
            f"many features, kept / m − 1 (at sparsity 0.90 and more at most {float(beyond[_TENTH:].amax()):.2f})."
        ),
        control=(
            f"The leftmost column has no dropout; relative interference before training {study.untrained_interference[run]:.2f}."
        ),
        figure=grid_heatmaps(
            {"features kept": kept, "in antipodal pairs": opposite},
            rows=_SPARSITIES,
            columns=DROPOUT,
            row_title="sparsity",
            column_title="dropout",
        ),
    )


def _norms(study: DropoutStudy) -> FigureRecord:
    per_feature, dimensionality = study.means["even"].dimensions_per_feature, study.means["even"].dimensionality
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
    z = {words: study.means[name].alignment for name, words in _RUNS.items()}
    largest = max(float(values.abs().max()) for values in z.values())
    even, falling = z.values()
    return FigureRecord(
        id="toy-dropout-basis",
        title="Alignment of features with hidden dimensions",
        look_at=(
            "A bottleneck has no reason to align features with its dimensions, but dropout acts on single dimensions, and so does Adam. Shown is "
            "z: the effective number of features per dimension, against the same model under random rotations of its hidden space. Negative: "
            "fewer features per dimension than at random, aligned. Positive: more, as if features avoided the dimensions."
        ),
        number=(
            f"z at sparsity {_SPARSITIES[_MODERATE]:.2f} and dropout 0.5: {float(even[_MODERATE, HALF]):+.1f} at even and "
            f"{float(falling[_MODERATE, HALF]):+.1f} at decreasing importance."
        ),
        control=(
            f"{float(even[_MODERATE, 0]):+.1f} and {float(falling[_MODERATE, 0]):+.1f} without dropout; a random rotation has 0 ± 1 "
            f"({N_ROTATIONS} rotations). Largest without dropout: {_largest(even[:, 0])} and {_largest(falling[:, 0])}."
        ),
        figure=grid_heatmaps(
            z,
            rows=_SPARSITIES,
            columns=DROPOUT,
            row_title="sparsity",
            column_title="dropout",
            limits=(-largest, largest),
        ),
    )


def _cells(study: DropoutStudy, run: str) -> TableRecord:
    measures = study.measures[run]

    def told(cell: Float[Tensor, " instance"], form: str) -> str:
        if len(cell) < 2:
            return format(float(cell.mean()), form)
        return f"{float(cell.mean()):{form}} ± {float(cell.std()):.1f}"

    return TableRecord(
        id=f"toy-dropout-cells-{run}",
        title=f"Every cell: features {_RUNS[run]}",
        look_at=(
            f"In each cell: features kept, features in antipodal pairs, and z of alignment. Mean and standard deviation of {study.n_instances} "
            "instances."
        ),
        columns=["sparsity", *(f"dropout {value:g}" for value in DROPOUT)],
        rows=[
            [
                f"{sparsity:.2f}",
                *(
                    f"{told(measures.kept[row, column], '.1f')}; {told(measures.opposite[row, column], '.1f')}; "
                    f"{told(measures.alignment[row, column], '+.1f')}"
                    for column in range(len(DROPOUT))
                ),
            ]
            for row, sparsity in enumerate(_SPARSITIES)
        ],
    )


def _largest(values: Float[Tensor, " probability"]) -> str:
    return f"{float(values[int(values.abs().argmax())]):+.1f}"


def _along_dropout(values: Float[Tensor, "probability dropout"]) -> dict[str, Line]:
    return {
        f"sparsity {sparsity:.2f}": Line(DROPOUT, row.tolist())
        for sparsity, row in zip(_SPARSITIES, values, strict=True)
    }
