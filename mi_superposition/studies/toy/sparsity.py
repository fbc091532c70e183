"""When superposition sets in: a phase diagram, and how many features a dimension holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.figures.toy import grid_heatmaps
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy, in_words
from mi_superposition.toy import ToyConfig, ToyModels, setting_grid
from mi_superposition.toy.geometry import (
    REPRESENTED,
    dimensions_per_feature,
    feature_dimensionality,
    feature_norms,
    known_shapes,
    represented,
    shape_counts,
    shape_dimensionality,
)
from mi_superposition.toy.models import initial_weights

PROBABILITIES = tuple(10 ** (-k / 6) for k in range(13))
IMPORTANCES = tuple(10 ** (k / 6) for k in range(-6, 7))
STAIR_PROBABILITIES = tuple(10 ** (-k / 9.5) for k in range(20))


def configs(full: bool) -> dict[str, ToyConfig]:
    """Two features in one dimension over sparsity and importance, with and without ReLU; 100 features (``full``: 400) in
    10 (30) dimensions over sparsity.
    """
    settings = setting_grid(probability=PROBABILITIES, importance=[(1.0, ratio) for ratio in IMPORTANCES])

    def phase(activation: str, instances: int) -> ToyConfig:
        return ToyConfig(
            activation=activation, n_features=2, n_hidden=1, settings=settings, n_instances=instances, batch_size=512,
            n_steps=5000, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip

    staircase = ToyConfig(
        n_features=400 if full else 100, n_hidden=30 if full else 10, settings=setting_grid(probability=STAIR_PROBABILITIES),
        n_instances=2, n_kept=1, n_steps=5000, learning_rate=5e-3, decay="cosine",
    )  # fmt: skip
    return {"phase": phase("relu", 8), "phase_linear": phase("linear", 2), "staircase": staircase}


def squared_norm(models: ToyModels) -> Float[Tensor, "probability importance"]:
    """‖W‖² of the one dimension: 1 for one feature, or for two that share a direction of length 1; 2 for two whole ones."""
    return _phase_grid(models.W_in.square().sum(dim=(1, 2)))


def superposed(models: ToyModels) -> Float[Tensor, "probability importance"]:
    """1 where the dimension holds two features in opposite directions, ‖W‖² above 1.5; 0 elsewhere."""
    opposite = models.W_in[:, 0].prod(dim=1) < 0
    return (_phase_grid(opposite.float()) * (squared_norm(models) > 1.5)).float()


def _phase_grid(values: Float[Tensor, " setting"]) -> Float[Tensor, "probability importance"]:
    return rearrange(values, "(probability importance) -> probability importance", importance=len(IMPORTANCES))


def metrics(models: Models) -> dict[str, Any]:
    """The share of the phase diagram in superposition by sparsity, and the staircase."""
    stairs = models["staircase"]
    return {
        "probability": list(PROBABILITIES),
        "superposed_share_of_importances": superposed(models["phase"]).mean(dim=1).tolist(),
        "superposed_share_of_importances_linear": superposed(models["phase_linear"]).mean(dim=1).tolist(),
        "staircase_probability": list(STAIR_PROBABILITIES),
        "staircase_dimensions_per_feature": dimensions_per_feature(stairs.W_in).tolist(),
        "staircase_represented": represented(stairs.W_in).tolist(),
        "staircase_dimensions_per_feature_untrained": _untrained_dimensions(stairs),
    }


def outcome(models: Models) -> str:
    """What was found."""
    phase, linear, stairs = superposed(models["phase"]), superposed(models["phase_linear"]), models["staircase"]
    shares = [_mean_share(W) for W in stairs.W_in]
    pairs = [p for p, W in zip(STAIR_PROBABILITIES, stairs.W_in, strict=True) if _share(W, "antipodal pair") > 0.5]
    where = f"from sparsity {1 - max(pairs):.2f} to {1 - min(pairs):.2f}" if pairs else "nowhere"
    whole = [f"{1 - p:.2f}" for p, row in zip(PROBABILITIES, phase, strict=True) if bool(row.all())]
    return (
        f"Two features share one dimension from sparsity {whole[0] if whole else 'none'} on at any importance from 0.1 to 10, and in "
        f"{100 * float(linear.mean()):.0f} % of the grid without ReLU. {stairs.config.n_features} features in {stairs.config.n_hidden} dimensions: a feature "
        f"represented has {shares[0]:.2f} of a dimension when dense and {shares[-1]:.2f} when sparsest, where random directions have "
        f"{_mean_share(_random_directions(stairs)):.2f}; most of those represented stand in antipodal pairs {where}."
    )


def items(models: Models) -> Sequence[Item]:
    """The phase diagram, the staircase and the figures on it."""
    phase, stairs = models["phase"], models["staircase"]
    both, both_linear = superposed(phase), superposed(models["phase_linear"])
    diagram = {"with ReLU": squared_norm(phase), "without": squared_norm(models["phase_linear"])}
    second = _phase_grid(feature_norms(phase.W_in)[:, 1])
    wide = [1 - p for p in PROBABILITIES]
    shown = [1 / p for p in STAIR_PROBABILITIES]
    per_feature = dimensions_per_feature(stairs.W_in)
    there = {name for W in stairs.W_in for name in shape_counts(W)}
    marks = {name: shape_dimensionality(name) for name in known_shapes() if name in there}
    return [
        FigureRecord(
            id="toy-phase",
            title="Two features, one dimension: one of them or both",
            look_at=(
                "‖W‖² over sparsity (rows) and the importance of the second feature, the first being 1 (columns). 1: the more "
                "important one has the dimension. 2: both have it, in opposite directions. The number says how "
                "many cells lie between."
            ),
            number=f"At sparsity {wide[-1]:.2f} both share the dimension at {100 * float(both[-1].mean()):.0f} % of the importances from 0.1 to 10; "
                f"{100 * _between(diagram['with ReLU']):.0f} % of the cells have ‖W‖² between 1.1 and 1.7.",
            control=(
                f"{100 * float(both_linear.mean()):.0f} % of the whole grid without ReLU; {100 * float(both[0].mean()):.0f} % for dense "
                "features."
            ),
            figure=grid_heatmaps(
                diagram, rows=wide, columns=IMPORTANCES, row_title="sparsity", column_title="importance of the second",
                limits=(0.9, 2.1),
            ),
        ),
        FigureRecord(
            id="toy-phase-norm",
            title="Norm of the second feature",
            look_at="0: ignored, 1: represented. Where both features share the dimension it is represented though less important.",
            number=f"{float(second[-1, 0]):.2f} at sparsity {wide[-1]:.2f} and a tenth of the importance.",
            control=f"{float(second[0, 0]):.2f} at the same importance for dense features.",
            figure=grid_heatmaps(
                {"norm": second}, rows=wide, columns=IMPORTANCES, row_title="sparsity", column_title="importance of the second",
            ),
        ),
        FigureRecord(
            id="toy-staircase",
            title="Dimensions for each feature",
            look_at=(
                f"{stairs.config.n_features} equally important features in {stairs.config.n_hidden} dimensions. Grey lines: what "
                "each figure that occurs would need. A plateau at 1/2 is the antipodal pair."
            ),
            number=f"{_mean_share(stairs.W_in[0]):.2f} of a dimension for a feature represented when dense, {_mean_share(stairs.W_in[-1]):.2f} when sparsest (m / ‖W‖² is {float(per_feature[-1]):.2f} there: weights are longer than 1).",
            control=f"{_mean_share(_random_directions(stairs)):.2f} for as many random directions: at the sparse end they stand as if at random.",
            figure=lines(
                {"dimensions per feature": Line(shown, per_feature.tolist())}, x_title="1 / probability (sparser →)",
                y_title="m / ‖W‖²", log_x=True, marks=marks, labels=[_commonest(W) for W in stairs.W_in],
            ),
        ),
        _stairs_table(stairs),
    ]  # fmt: skip


def _stairs_table(stairs: ToyModels) -> TableRecord:
    random = _random_directions(stairs)
    return TableRecord(
        id="toy-stairs",
        title="Which figures the features form",
        look_at="Features that stand in each figure, by their Gram matrix; the last row is the control, random directions.",
        columns=["sparsity", "dimensions per feature", "represented", "mean share of a dimension", "figures"],
        rows=[
            *(
                [
                    f"{1 - p:.3f}",
                    f"{float(dimensions_per_feature(W)):.2f}",
                    f"{int(represented(W))}",
                    f"{_mean_share(W):.2f}",
                    in_words(shape_counts(W)),
                ]
                for p, W in zip(STAIR_PROBABILITIES, stairs.W_in, strict=True)
            ),
            [
                "random",
                f"{float(dimensions_per_feature(random)):.2f}",
                f"{int(represented(random))}",
                f"{_mean_share(random):.2f}",
                in_words(shape_counts(random)),
            ],
        ],
        words=("figures",),
    )


def _between(values: Tensor) -> float:
    """Share of a phase diagram's cells that are neither one feature nor two."""
    return float(((values > 1.1) & (values < 1.7)).float().mean())


def _mean_share(W: Float[Tensor, "hidden feature"]) -> float:
    """Mean share of a dimension of the features that are represented."""
    return float(feature_dimensionality(W)[feature_norms(W) > REPRESENTED].mean())


def _random_directions(models: ToyModels) -> Float[Tensor, "hidden feature"]:
    """As many, of length 1: the control."""
    random = torch.randn(models.W_in.shape[1:], generator=torch.Generator().manual_seed(0))
    return random / random.norm(dim=0)


def _commonest(W: Tensor) -> str:
    counts = shape_counts(W)
    return next(iter(counts), "")


def _share(W: Tensor, name: str) -> float:
    return shape_counts(W).get(name, 0) / max(float(represented(W)), 1)


def _untrained_dimensions(models: ToyModels) -> float:
    return float(dimensions_per_feature(initial_weights(models.config).W_in).mean())


STUDY = ToyStudy(
    name="sparsity",
    title="When superposition sets in",
    question="How sparse, and how important, must features be to share dimensions?",
    source="Elhage et al. 2022, Toy Models of Superposition, phase change and uniform superposition",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
