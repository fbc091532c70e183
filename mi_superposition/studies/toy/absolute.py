"""Neurons that compute ``|x|``: pairs of their own when dense, in superposition when sparse."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.studies.toy.result import ToyStudyResult
from mi_superposition.toy.config import ToyConfig
from mi_superposition.toy.models import initial_weights
from mi_superposition.toy.network import ToyWeights
from mi_superposition.toy.polysemanticity import (
    AsymmetricMotif,
    asymmetric_motifs,
    effective_map,
    features_per_neuron,
    monosemantic,
    permuted_within_neurons,
    polysemantic_share,
    signed_pairs,
)
from mi_superposition.training import seeded_generator

PROBABILITIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def pairs_by_instance(weights: ToyWeights) -> Int[Tensor, " instance"]:
    """How many different features each instance of the one setting computes by a pair of monosemantic neurons."""
    both = zip(weights.W_in[0], weights.W_out[0], strict=True)
    return torch.tensor([len({pair.feature for pair in signed_pairs(*one)}) for one in both])


def motifs_by_instance(weights: ToyWeights) -> list[list[AsymmetricMotif]]:
    """The asymmetric motifs of each instance of the one setting."""
    return [asymmetric_motifs(*both) for both in zip(weights.W_in[0], weights.W_out[0], strict=True)]


def permuted(weights: ToyWeights) -> ToyWeights:
    """The control: features permuted within each neuron."""
    generator = seeded_generator(0, "relabelled")
    return ToyWeights(*permuted_within_neurons(weights.W_in, weights.W_out, generator), weights.b)


class AbsoluteStudy(ToyStudyResult):
    """100 features and 40 neurons at seven sparsities; 20 and 10 at probability 0.5; 10 and 10 at 0.35."""

    @staticmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """``hundred``, ``pairs`` and ``motif``."""
        hundred = ToyConfig(
            task="abs", n_features=100, n_hidden=40, probability=PROBABILITIES, importance_ratio=(0.8,),
            n_instances=16 if full else 4, n_kept=4, n_steps=5000, learning_rate=5e-3, decay="cosine",
        )  # fmt: skip
        pairs = hundred.replace(
            n_features=20, n_hidden=10, probability=(0.5,), n_instances=1000 if full else 64, n_kept=64, batch_size=512,
        )  # fmt: skip
        motif = pairs.replace(n_features=10, probability=(0.35,), importance_ratio=(1.0,))
        return {"hundred": hundred, "pairs": pairs, "motif": motif}

    @cached_property
    def monosemantic(self) -> Int[Tensor, "setting kept"]:
        """Monosemantic neurons of 40, the best instance first."""
        return monosemantic(self.models["hundred"].weights.W_in).sum(dim=-1)

    @cached_property
    def polysemantic(self) -> Float[Tensor, " setting"]:
        """Fraction of the active ones of 40 neurons that are polysemantic, best instance."""
        return polysemantic_share(self.models["hundred"].W_in)

    @cached_property
    def features_per_neuron(self) -> Float[Tensor, " setting"]:
        """Effective number of features per neuron of 40, best instance."""
        return features_per_neuron(self.models["hundred"].W_in).mean(dim=1)

    @cached_property
    def untrained_features_per_neuron(self) -> float:
        """The same before training, mean over the instances."""
        return float(features_per_neuron(initial_weights(self.models["hundred"].config).W_in).mean())

    @cached_property
    def linear_effect(self) -> Float[Tensor, "setting feature"]:
        """Diagonal of W2 W1: the effect of each feature on its own output if neurons were linear, best instance."""
        hundred = self.models["hundred"]
        return effective_map(hundred.W_out, hundred.W_in).diagonal(dim1=1, dim2=2)

    @cached_property
    def pairs(self) -> Int[Tensor, " instance"]:
        """Features computed by pairs of neurons, of 20 features and 10 neurons."""
        return pairs_by_instance(self.models["pairs"].weights)

    @cached_property
    def permuted_pairs(self) -> Int[Tensor, " instance"]:
        """The same in the control."""
        return pairs_by_instance(permuted(self.models["pairs"].weights))

    @cached_property
    def motifs(self) -> list[list[AsymmetricMotif]]:
        """Asymmetric motifs of each instance, of 10 features and 10 neurons."""
        return motifs_by_instance(self.models["motif"].weights)

    @cached_property
    def permuted_motifs(self) -> list[list[AsymmetricMotif]]:
        """The same in the control."""
        return motifs_by_instance(permuted(self.models["motif"].weights))

    @property
    def n_with_motif(self) -> int:
        """Instances with at least one motif."""
        return sum(map(bool, self.motifs))

    @property
    def n_permuted_with_motif(self) -> int:
        """The same in the control."""
        return sum(map(bool, self.permuted_motifs))

    @property
    def first_with_motif(self) -> int:
        """The best instance with a motif; the best of all where none has one."""
        return next((instance for instance, motifs in enumerate(self.motifs) if motifs), 0)

    def summary(self) -> str:
        """Pairs and motifs, next to those with permuted features."""
        return (
            f"10 neurons compute |x| of {float(self.pairs.float().mean()):.1f} of 20 features by opposite pairs "
            f"({float(self.permuted_pairs.float().mean()):.1f} with features permuted within each neuron); the asymmetric motif occurs in "
            f"{self.n_with_motif} of {len(self.motifs)} instances ({self.n_permuted_with_motif} permuted)"
        )

    def metrics(self) -> dict[str, Any]:
        """Of the three models."""
        hundred = self.models["hundred"]
        return {
            "probability": list(PROBABILITIES),
            "hundred_monosemantic_neurons": self.monosemantic[:, 0].tolist(),
            "hundred_monosemantic_neurons_least": self.monosemantic.amin(dim=1).tolist(),
            "hundred_monosemantic_neurons_most": self.monosemantic.amax(dim=1).tolist(),
            "hundred_polysemantic_share": self.polysemantic.tolist(),
            "hundred_features_per_neuron": self.features_per_neuron.tolist(),
            "hundred_features_per_neuron_untrained": self.untrained_features_per_neuron,
            "hundred_loss": hundred.best_loss.tolist(),
            "hundred_constant_loss": hundred.constant_loss.tolist(),
            "pairs_of_best": int(self.pairs[0]),
            "pairs_mean": float(self.pairs.float().mean()),
            "pairs_mean_dealt_anew": float(self.permuted_pairs.float().mean()),
            "instances_with_motif": self.n_with_motif,
            "instances_with_motif_dealt_anew": self.n_permuted_with_motif,
            "instances": len(self.motifs),
        }


STUDY = AbsoluteStudy
