"""Five features in two dimensions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from mi_superposition.figures.toy import Interactions, feature_directions, interactions
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, geometric, setting_grid
from mi_superposition.toy.geometry import angles, feature_norms, gram, interference, represented, shape_counts, shapes
from mi_superposition.toy.models import initial_weights

N = 5
PROBABILITIES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.13, 0.1, 0.07, 0.05, 0.03, 0.02)
_HALF, _TENTH = PROBABILITIES.index(0.5), PROBABILITIES.index(0.1)


def configs(full: bool) -> dict[str, ToyConfig]:
    """A linear and a ReLU bottleneck at every sparsity; importance falls by a tenth from feature to feature."""
    settings = setting_grid(probability=PROBABILITIES, importance=[geometric(1.0, 0.9, N)])

    def config(activation: str, instances: int) -> ToyConfig:
        return ToyConfig(
            activation=activation, n_features=N, n_hidden=2, settings=settings, n_instances=instances, n_kept=instances,
            n_steps=5000, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip

    return {"linear": config("linear", 64 if full else 16), "relu": config("relu", 256 if full else 32)}


def metrics(models: Models) -> dict[str, Any]:
    """By probability, of the best instance."""
    found: dict[str, Any] = {"probability": list(PROBABILITIES)}
    for name, trained in models.items():
        found |= {
            f"{name}_represented": represented(trained.W_in).tolist(),
            f"{name}_loss": trained.best_loss.tolist(),
            f"{name}_median_loss": trained.loss.median(dim=1).values.tolist(),
            f"{name}_largest_norm_of_the_last_three": feature_norms(trained.W_in)[:, 2:].amax(dim=1).tolist(),
        }
    found["constant_loss"] = models["relu"].constant_loss.tolist()
    found["linear_angle_of_the_first_two"] = angles(models["linear"].W_in)[:, 0, 1].tolist()
    for shape in ("own dimension", "antipodal pair", "pentagon"):
        found[f"relu_features_in_{shape.replace(' ', '_')}"] = [
            shape_counts(W).get(shape, 0) for W in models["relu"].W_in
        ]
    return found


def outcome(models: Models) -> str:
    """What was found."""
    linear, relu = models["linear"], models["relu"]
    angle = angles(linear.W_in)[:, 0, 1]
    return (
        f"Without ReLU the two most important features stand at {float(angle.min()):.1f} to {float(angle.max()):.1f} degrees "
        f"at every sparsity and {int(represented(linear.W_in).max())} are represented. With ReLU the best of "
        f"{relu.loss.shape[1]} has {_said(relu, _HALF)} at sparsity 0.5 and {_said(relu, _TENTH)} at 0.9."
    )


def items(models: Models) -> Sequence[Item]:
    """Directions, interactions, angles and how often each figure is found."""
    relu, linear = models["relu"], models["linear"]
    sparsities = [f"{1 - probability:.2f}" for probability in PROBABILITIES]
    before = float(represented(initial_weights(relu.config).W_in)[_TENTH].mean())
    return [
        FigureRecord(
            id="toy-directions",
            title="Five features in two dimensions",
            look_at=(
                "Move the slider from dense to sparse features. Each line is the direction the model gives to a feature: two at "
                "right angles, then two pairs of opposite ones, then five around the circle."
            ),
            number=f"{int(represented(relu.W_in[_TENTH]))} features represented in 2 dimensions at sparsity 0.9.",
            control=(
                f"{int(represented(linear.W_in[_TENTH]))} without ReLU; before training {before:.1f} have a norm above one half."
            ),
            figure=feature_directions(dict(zip(sparsities, relu.W_in, strict=True)), "sparsity", shown=_TENTH),
        ),
        FigureRecord(
            id="toy-linear-directions",
            title="The same without ReLU",
            look_at="However sparse the features, only the two most important ones get a direction, at right angles.",
            number=f"Angle between them {float(angles(linear.W_in)[_TENTH, 0, 1]):.1f}° at sparsity 0.9.",
            control=f"{float(angles(relu.W_in)[_TENTH, 0, 1]):.0f}° between the same two with ReLU.",
            figure=feature_directions(dict(zip(sparsities, linear.W_in, strict=True)), "sparsity", shown=_TENTH),
        ),
        FigureRecord(
            id="toy-interactions",
            title="Interactions, biases and interference",
            look_at=(
                "W^T W says what the model puts out for one feature when another one is on; positive interference has to be "
                "taken back by a negative bias, and ReLU takes back negative interference by itself."
            ),
            number=f"Mean bias {float(relu.b[_TENTH].mean()):.2f} at sparsity 0.9, where interference is positive.",
            control=f"{float(relu.b[_HALF][:4].mean()):.2f} for the pairs at 0.5, where it is negative.",
            figure=interactions(
                {
                    name: Interactions(gram(W), b, feature_norms(W), interference(W))
                    for name, W, b in zip(sparsities, relu.W_in, relu.b, strict=True)
                },
                "sparsity",
                shown=_TENTH,
            ),
        ),
        TableRecord(
            id="toy-angles",
            title="Angles between the features at sparsity 0.9",
            look_at="Degrees. In a regular pentagon neighbours stand at 72°, the others at 144°.",
            columns=["feature", *map(str, range(N))],
            rows=[
                [
                    f"feature {row}",
                    *(f"{float(value):.0f}" if row != column else "" for column, value in enumerate(values)),
                ]
                for row, values in enumerate(angles(relu.W_in[_TENTH]))
            ],
        ),
        _shape_table(relu),
    ]


def _shape_table(relu: ToyModels) -> TableRecord:
    rows = []
    for setting, probability in enumerate(PROBABILITIES):
        kinds = [_figure(W) for W in relu.weights.W_in[setting]]
        counts = Counter(kinds)
        loss = relu.loss[setting]
        rows.append(
            [
                f"{1 - probability:.2f}",
                kinds[0],
                f"{float(loss.min()):.5f}",
                f"{float(loss.median()):.5f}",
                f"{float(loss.max()):.5f}",
                f"{float(relu.constant_loss[setting]):.5f}",
                "; ".join(f"{count}: {kind}" for kind, count in counts.most_common(3)),
            ]
        )
    return TableRecord(
        id="toy-figures",
        title="What the instances become",
        look_at=(
            f"The best of {relu.loss.shape[1]} instances and all of them: many get stuck in a figure that is not the best one, "
            "which is why the literature keeps the best of many."
        ),
        columns=["sparsity", "best", "least loss", "median", "largest", "best constant", "how many become what"],
        rows=rows,
        words=("best", "how many become what"),
    )


def _figure(W: torch.Tensor) -> str:
    """The figures of a model's features in words."""
    names = Counter(shape.name for shape in shapes(W))
    return " and ".join(f"{count} {name}" + ("s" if count > 1 else "") for name, count in sorted(names.items()))


def _said(models: ToyModels, setting: int) -> str:
    return _figure(models.W_in[setting])


STUDY = ToyStudy(
    name="directions",
    title="Five features, two dimensions",
    question="Which features does a two-dimensional bottleneck keep, and where does it put them?",
    source="Elhage et al. 2022, Toy Models of Superposition, figures of five features in two dimensions",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
