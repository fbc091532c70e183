"""The page on five features in two dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mi_superposition.figures.toy import feature_directions, interactions
from mi_superposition.pages.toy.frames import interaction_frames, sparsity_labels
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.directions import HALF, PROBABILITIES, TENTH, DirectionsStudy, N
from mi_superposition.toy.geometry import Shape

TITLE = "Five features, two dimensions"
QUESTION = "Which features does a two-dimensional bottleneck represent, and in which directions?"
SOURCE = "Elhage et al. 2022, Toy Models of Superposition; Pramodith B., “Mechanistic Interpretability: What's Superposition?”"


def outcome(study: DirectionsStudy) -> str:
    """Angles without ReLU, shapes with it."""
    angle = study.angles["linear"][:, 0, 1]
    return (
        f"Without ReLU {int(study.represented['linear'].max())} features are represented at every sparsity; the angle between the two most "
        f"important is {float(angle.min()):.1f} to {float(angle.max()):.1f} degrees. With ReLU the best of "
        f"{study.models['relu'].loss.shape[1]} instances has {_in_words(study.shapes[HALF][0])} at sparsity 0.5 and "
        f"{_in_words(study.shapes[TENTH][0])} at 0.9."
    )


def items(study: DirectionsStudy) -> Sequence[Item]:
    """Directions, interactions, angles and how often each shape occurs."""
    relu, linear = study.models["relu"], study.models["linear"]
    sparsities = sparsity_labels(PROBABILITIES, 2)
    return [
        FigureRecord(
            id="toy-directions",
            title="Five features in two dimensions",
            look_at=(
                "Each line is the direction of one feature in the hidden space. The slider goes from dense to sparse features: two "
                "features at right angles, then two antipodal pairs, then five around the circle (a pentagon)."
            ),
            number=f"{int(study.represented['relu'][TENTH])} features represented in 2 dimensions at sparsity 0.9.",
            control=(
                f"{int(study.represented['linear'][TENTH])} without ReLU; {float(study.untrained_represented[TENTH]):.1f} before "
                "training (norm above 0.5)."
            ),
            figure=feature_directions(dict(zip(sparsities, relu.W_in, strict=True)), "sparsity", shown=TENTH),
        ),
        FigureRecord(
            id="toy-linear-directions",
            title="The same without ReLU",
            look_at="At every sparsity only the two most important features are represented, at right angles.",
            number=f"Angle between these two: {float(study.angles['linear'][TENTH, 0, 1]):.1f}° at sparsity 0.9.",
            control=f"{float(study.angles['relu'][TENTH, 0, 1]):.0f}° between the same two with ReLU.",
            figure=feature_directions(dict(zip(sparsities, linear.W_in, strict=True)), "sparsity", shown=TENTH),
        ),
        FigureRecord(
            id="toy-interactions",
            title="Interactions, biases and interference",
            look_at=(
                "Entry (i, j) of W^T W is how much an active feature j adds to output i. A negative bias cancels positive "
                "interference; ReLU removes negative interference."
            ),
            number=f"Mean bias {float(relu.b[TENTH].mean()):.2f} at sparsity 0.9, where interference is positive.",
            control=f"{float(relu.b[HALF][:4].mean()):.2f} for the pairs at 0.5, where it is negative.",
            figure=interactions(interaction_frames(sparsities, relu.W_in, relu.b), "sparsity", shown=TENTH),
        ),
        TableRecord(
            id="toy-angles",
            title="Angles between the features at sparsity 0.9",
            look_at="In degrees. In a regular pentagon the angles are 72° and 144°.",
            columns=["feature", *map(str, range(N))],
            rows=[
                [
                    f"feature {row}",
                    *(f"{float(value):.0f}" if row != column else "" for column, value in enumerate(values)),
                ]
                for row, values in enumerate(study.angles["relu"][TENTH])
            ],
        ),
        _shape_table(study),
    ]


def _shape_table(study: DirectionsStudy) -> TableRecord:
    relu, rows = study.models["relu"], []
    for setting, probability in enumerate(PROBABILITIES):
        kinds = [_in_words(shapes) for shapes in study.shapes[setting]]
        loss = relu.loss[setting]
        rows.append(
            [
                f"{1 - probability:.2f}",
                kinds[0],
                f"{float(loss.min()):.5f}",
                f"{float(loss.median()):.5f}",
                f"{float(loss.max()):.5f}",
                f"{float(relu.constant_loss[setting]):.5f}",
                "; ".join(f"{count}: {kind}" for kind, count in Counter(kinds).most_common(3)),
            ]
        )
    return TableRecord(
        id="toy-figures",
        title="Shapes of all instances",
        look_at=(
            f"The best of {relu.loss.shape[1]} instances, and all of them. Many instances end in a shape that is not the best one, "
            "which is why studies report the best of many."
        ),
        columns=[
            "sparsity", "best instance", "lowest loss", "median", "highest", "best constant", "most frequent shapes",
        ],
        rows=rows,
        words=("best instance", "most frequent shapes"),
    )  # fmt: skip


def _in_words(shapes: Sequence[Shape]) -> str:
    """How many of which shapes."""
    names = Counter(shape.name for shape in shapes)
    return " and ".join(f"{count} {name}" + ("s" if count > 1 else "") for name, count in sorted(names.items()))
