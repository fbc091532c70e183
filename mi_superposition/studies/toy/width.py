"""More neurons than features: does each feature get its own?"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.polysemanticity import polysemantic_share

N = 32
WIDTHS = (20, 40, 60, 80, 100, 120)
PROBABILITY, L1 = 0.1, 1e-3
SNAPSHOTS = (0, 10, 100, 300, 1000, 2000, 5000)
# Settings: without L1 and with it.
PLAIN, PENALISED = 0, 1


class WidthStudy(ToyStudyResult):
    """32 features reconstructed by 20 to 120 neurons, without and with L1; 32 neurons are enough for one each."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``m20``, ``m40``, …"""
        usual = ToyConfig(
            network="neuron", n_features=N, probability=(PROBABILITY,), l1=(0.0, L1), n_instances=50 if full else 8, n_kept=4,
            n_steps=5000, batch_size=512, learning_rate=5e-3, decay="cosine", snapshots=SNAPSHOTS,
        )  # fmt: skip
        return {f"m{width}": usual.replace(n_hidden=width) for width in WIDTHS}

    @cached_property
    def polysemantic(self) -> dict[str, Float[Tensor, " setting"]]:
        """Fraction of active neurons that are polysemantic, mean over the kept instances, by run."""
        return {name: polysemantic_share(trained.weights.W_in).mean(dim=1) for name, trained in self.models.items()}

    @cached_property
    def polysemantic_over_training(self) -> dict[str, dict[int, Float[Tensor, " kept"]]]:
        """The same of each kept instance without L1, by run and number of steps."""
        return {
            name: {step: polysemantic_share(weights.W_in[PLAIN]) for step, weights in trained.snapshots.items()}
            for name, trained in self.models.items()
        }

    @cached_property
    def loss_ratio(self) -> dict[str, Float[Tensor, " setting"]]:
        """Loss of the best instance relative to the best constant output, by run."""
        return {name: trained.loss_ratio.amin(dim=1) for name, trained in self.models.items()}

    @property
    def untrained_polysemantic(self) -> float:
        """Fraction of polysemantic neurons before training, of the narrowest layer."""
        first, *_ = self.polysemantic_over_training.values()
        return float(first[0].mean())

    def summary(self) -> str:
        """Polysemantic neurons of the widest layer."""
        name, trained = list(self.models.items())[-1]
        plain, penalised = (100 * float(share) for share in self.polysemantic[name])
        return (
            f"{plain:.0f} % of {trained.config.n_hidden} neurons for {N} features are polysemantic ({100 * self.untrained_polysemantic:.0f} % "
            f"before training of {WIDTHS[0]}; {penalised:.0f} % with L1 {L1:g})"
        )

    def metrics(self) -> dict[str, Any]:
        """By width; the fraction of polysemantic neurons over training too."""
        metrics: dict[str, Any] = {"width": [one.config.n_hidden for one in self.models.values()], "l1": [0.0, L1]}
        for name, by_step in self.polysemantic_over_training.items():
            metrics[f"{name}_step"] = list(by_step)
            metrics[f"{name}_polysemantic_share"] = [float(share.mean()) for share in by_step.values()]
        for key, setting in (("plain", PLAIN), ("l1", PENALISED)):
            metrics[f"polysemantic_share_{key}"] = [float(share[setting]) for share in self.polysemantic.values()]
            metrics[f"loss_over_constant_{key}"] = [float(ratio[setting]) for ratio in self.loss_ratio.values()]
        return metrics


STUDY = WidthStudy
