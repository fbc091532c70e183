"""More neurons than needed: does each feature get its own?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_superposition.figures.toy import Line, lines
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, setting_grid
from mi_superposition.toy.polysemanticity import monosemantic, polysemantic_share, signed_pairs
from mi_superposition.toy.train import network_of

N = 32
WIDTHS = (20, 40, 60, 80, 100, 120)
PROBABILITY = 0.1
SNAPSHOTS = (0, 10, 100, 300, 1000, 2000, 5000)


def configs(full: bool) -> dict[str, ToyConfig]:
    """|x| of 32 features by 20 to 120 neurons; 64 are enough to give every feature a pair of its own."""
    return {
        f"m{width}": ToyConfig(
            model="computation", task="abs", n_features=N, n_hidden=width, settings=setting_grid(probability=[PROBABILITY]),
            n_instances=50 if full else 16, n_kept=4, n_steps=5000, batch_size=512, learning_rate=5e-3, decay="cosine",
            snapshots=SNAPSHOTS,
        )
        for width in WIDTHS
    }  # fmt: skip


def silent_sides(models: ToyModels) -> Int[Tensor, " instance"]:
    """Of the two signs of every feature, how many each kept instance has no answer to: an output below 0.05 when the feature
    alone is 1 or -1. Where the output starts below zero, its ReLU passes no gradient, and it stays silent.
    """
    n = models.config.n_features
    alone = torch.cat((torch.eye(n), -torch.eye(n)), dim=1)
    outputs = network_of(models.config).outputs(models.weights, alone[None])[0]
    answers = torch.cat((outputs.diagonal(dim1=1, dim2=2), outputs[:, :, n:].diagonal(dim1=1, dim2=2)), dim=1)
    return (answers < 0.05).sum(dim=1)


def metrics(models: Models) -> dict[str, Any]:
    """By width, each over training."""
    found: dict[str, Any] = {"width": [trained.config.n_hidden for trained in models.values()]}
    for name, trained in models.items():
        found[f"{name}_step"] = list(trained.snapshots)
        found[f"{name}_polysemantic_share"] = [
            float(polysemantic_share(weights.W_in[0]).mean()) for weights in trained.snapshots.values()
        ]
    found["monosemantic_neurons"] = [
        float(monosemantic(trained.weights.W_in[0]).float().sum(dim=1).mean()) for trained in models.values()
    ]
    found["silent_sides"] = [float(silent_sides(trained).float().mean()) for trained in models.values()]
    found["loss_over_constant"] = [float(trained.best_loss / trained.constant_loss) for trained in models.values()]
    return found


def outcome(models: Models) -> str:
    """What was found."""
    last = {
        trained.config.n_hidden: float(polysemantic_share(trained.weights.W_in[0]).mean())
        for trained in models.values()
    }
    narrow, wide = min(last), max(last)
    least = min(last, key=last.__getitem__)
    trained = next(iter(models.values()))
    silent = {trained.config.n_hidden: float(silent_sides(trained).float().mean()) for trained in models.values()}
    return (
        f"Best {trained.weights.W_in.shape[1]} of {trained.loss.shape[1]} instances: with {narrow} neurons {100 * last[narrow]:.0f} % of them are polysemantic at the end of training, with {least} "
        f"{100 * last[least]:.0f} %, the least; with {wide}, far more than the 64 that would do, still {100 * last[wide]:.0f} %: room "
        f"alone does not make neurons monosemantic. But {silent[wide]:.0f} of {2 * N} signs of features are never learnt there "
        f"({silent[least]:.0f} with {least}): an output that starts below zero gets no gradient through its ReLU."
    )


def items(models: Models) -> Sequence[Item]:
    """Polysemantic neurons over training, and at its end."""
    curves = {}
    for trained in models.values():
        shares = [polysemantic_share(weights.W_in[0]) for weights in trained.snapshots.values()]
        curves[f"{trained.config.n_hidden} neurons"] = Line(
            # Step 0 has no place on a logarithmic axis: it stands at 3.
            [float(max(step, 3)) for step in trained.snapshots],
            [float(share.mean()) for share in shares],
            [float(share.min()) for share in shares],
            [float(share.max()) for share in shares],
        )
    first = next(iter(models.values()))
    untrained = float(polysemantic_share(first.snapshots[0].W_in[0]).mean())
    widths = [trained.config.n_hidden for trained in models.values()]
    share = [float(polysemantic_share(trained.weights.W_in[0]).mean()) for trained in models.values()]
    return [
        FigureRecord(
            id="toy-width-training",
            title="Polysemantic neurons over training",
            look_at=(
                f"|x| of {N} features at sparsity {1 - PROBABILITY:.1f}; a line a width, mean of the best "
                f"{first.weights.W_in.shape[1]} of {first.loss.shape[1]} instances (band: all of those). Neurons start out polysemantic and become monosemantic as far as there is room."
            ),
            number=f"{100 * min(share):.0f} % at the least, with {widths[share.index(min(share))]} neurons.",
            control=f"{100 * untrained:.0f} % at step 0.",
            figure=lines(curves, x_title="step (leftmost: 0)", y_title="polysemantic share of neurons", log_x=True),
        ),
        TableRecord(
            id="toy-width-table",
            title="At the end of training",
            look_at="Means over those instances. Pairs: features computed by two monosemantic neurons of opposite input. Signs never learnt: the output stays below "
            "0.05 when the feature alone is 1, or -1.",
            columns=[
                "neurons",
                "monosemantic",
                "polysemantic share",
                "features computed by pairs",
                "loss / best constant's",
            ],
            rows=[
                [
                    str(trained.config.n_hidden),
                    f"{float(monosemantic(trained.weights.W_in[0]).float().sum(dim=1).mean()):.1f}",
                    f"{value:.2f}",
                    f"{_paired(trained):.1f}",
                    f"{float(silent_sides(trained).float().mean()):.1f}",
                    f"{float(trained.best_loss / trained.constant_loss):.4f}",
                ]
                for trained, value in zip(models.values(), share, strict=True)
            ],
        ),
    ]


def _paired(trained: ToyModels) -> float:
    weights = trained.weights
    found = [
        len({pair.feature for pair in signed_pairs(*both)})
        for both in zip(weights.W_in[0], weights.W_out[0], strict=True)
    ]
    return sum(found) / len(found)


STUDY = ToyStudy(
    name="width",
    title="Room for every feature",
    question="Do neurons become monosemantic when there are enough of them?",
    source="ours, after the toy chapters on hidden width",
    configs=configs,
    metrics=metrics,
    outcome=outcome,
    items=items,
)
