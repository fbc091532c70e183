"""More neurons than features: does each feature get its own?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mi_superposition.figures.lines import Line, lines
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.toy.study import Models, ToyStudy
from mi_superposition.toy import ToyConfig, ToyModels, setting_grid
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic, polysemantic_share

N = 32
WIDTHS = (20, 40, 60, 80, 100, 120)
PROBABILITY, L1 = 0.1, 1e-3
SNAPSHOTS = (0, 10, 100, 300, 1000, 2000, 5000)
_PLAIN, _PENALISED = 0, 1


def configs(full: bool) -> dict[str, ToyConfig]:
    """32 features reconstructed by 20 to 120 neurons, without and with L1; 32 neurons are enough for one each."""
    return {
        f"m{width}": ToyConfig(
            model="neuron", n_features=N, n_hidden=width, settings=setting_grid(probability=[PROBABILITY], l1=[0.0, L1]),
            n_instances=50 if full else 8, n_kept=4, n_steps=5000, batch_size=512, learning_rate=5e-3, decay="cosine",
            snapshots=SNAPSHOTS,
        )
        for width in WIDTHS
    }  # fmt: skip


def _share(trained: ToyModels, setting: int) -> float:
    """Polysemantic share of the working neurons, mean over the kept instances."""
    return float(polysemantic_share(trained.weights.W_in[setting]).mean())


def metrics(models: Models) -> dict[str, Any]:
    """By width; the share over training too."""
    found: dict[str, Any] = {"width": [trained.config.n_hidden for trained in models.values()], "l1": [0.0, L1]}
    for name, trained in models.items():
        found[f"{name}_step"] = list(trained.snapshots)
        found[f"{name}_polysemantic_share"] = [
            float(polysemantic_share(weights.W_in[_PLAIN]).mean()) for weights in trained.snapshots.values()
        ]
    for key, setting in (("plain", _PLAIN), ("l1", _PENALISED)):
        found[f"polysemantic_share_{key}"] = [_share(trained, setting) for trained in models.values()]
        found[f"loss_over_constant_{key}"] = [
            float(trained.best_loss[setting] / trained.constant_loss[setting]) for trained in models.values()
        ]
    return found


def outcome(models: Models) -> str:
    """What was found."""
    first, *_, last = models.values()
    least = min(models.values(), key=lambda trained: _share(trained, _PLAIN))
    return (
        f"{100 * _share(first, _PLAIN):.0f} % of {first.config.n_hidden} neurons are polysemantic after training, "
        f"{100 * _share(least, _PLAIN):.0f} % of {least.config.n_hidden}, and {100 * _share(last, _PLAIN):.0f} % of {last.config.n_hidden}, "
        f"though {N} would be enough and the loss there is {float(last.best_loss[_PLAIN] / last.constant_loss[_PLAIN]):.0e} of the best "
        f"constant's: room alone does not make neurons monosemantic. With L1 {L1:g} it is {100 * _share(last, _PENALISED):.0f} %."
    )


def items(models: Models) -> Sequence[Item]:
    """Polysemantic neurons over training, and at its end."""
    curves = {}
    for trained in models.values():
        at_steps = [polysemantic_share(weights.W_in[_PLAIN]) for weights in trained.snapshots.values()]
        curves[f"{trained.config.n_hidden} neurons"] = Line(
            # Step 0 has no place on a logarithmic axis: it stands at 3.
            [float(max(step, 3)) for step in trained.snapshots],
            [float(share.mean()) for share in at_steps],
            [float(share.min()) for share in at_steps],
            [float(share.max()) for share in at_steps],
        )
    first = next(iter(models.values()))
    untrained = float(polysemantic_share(first.snapshots[0].W_in[_PLAIN]).mean())
    shares = {trained.config.n_hidden: _share(trained, _PLAIN) for trained in models.values()}
    least = min(shares, key=shares.__getitem__)
    kept = f"the best {first.weights.W_in.shape[1]} of {first.loss.shape[1]} instances"
    return [
        FigureRecord(
            id="toy-width-training",
            title="Polysemantic neurons over training",
            look_at=(
                f"{N} features at sparsity {1 - PROBABILITY:.1f}; a line a width, mean of {kept} (band: all of those). Neurons start "
                "out polysemantic; where there is room for more than the features need, nothing pushes them to become "
                "anything else."
            ),
            number=f"{100 * shares[least]:.0f} % at the end with {least} neurons, {100 * shares[max(shares)]:.0f} % with {max(shares)}.",
            control=f"{100 * untrained:.0f} % at step 0; {100 * _share(models[f'm{max(shares)}'], _PENALISED):.0f} % of {max(shares)} with L1 {L1:g}.",
            figure=lines(curves, x_title="step (leftmost: 0)", y_title="polysemantic share of neurons", log_x=True),
        ),
        TableRecord(
            id="toy-width-table",
            title="At the end of training",
            look_at=f"Means over {kept}; losses are the best instance's, in units of the best constant's.",
            columns=[
                "neurons", "polysemantic", "features a neuron", "loss", "with L1: polysemantic", "monosemantic neurons", "loss with L1",
            ],
            rows=[
                [
                    str(trained.config.n_hidden),
                    f"{100 * _share(trained, _PLAIN):.0f} %",
                    f"{float(features_per_neuron(trained.weights.W_in[_PLAIN]).mean()):.1f}",
                    f"{float(trained.best_loss[_PLAIN] / trained.constant_loss[_PLAIN]):.2g}",
                    f"{100 * _share(trained, _PENALISED):.0f} %",
                    f"{float(monosemantic(trained.weights.W_in[_PENALISED]).float().sum(dim=1).mean()):.1f}",
                    f"{float(trained.best_loss[_PENALISED] / trained.constant_loss[_PENALISED]):.2g}",
                ]
                for trained in models.values()
            ],
        ),
    ]  # fmt: skip


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
