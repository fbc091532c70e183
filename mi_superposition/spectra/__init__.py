"""How many directions a layer uses: effective ranks of weights and of activations, and what they are held against."""

from mi_superposition.spectra.layers import (
    activation_covariances,
    hooked_covariances,
    hooked_weight_matrices,
    matching,
    samples_by_channel,
    weight_matrices,
)
from mi_superposition.spectra.ranks import (
    ENERGY,
    EffectiveRanks,
    activation_spectrum,
    effective_ranks,
    gaussian_spectrum,
    marchenko_pastur_edge,
    weight_spectrum,
)

__all__ = [
    "ENERGY",
    "EffectiveRanks",
    "activation_covariances",
    "activation_spectrum",
    "effective_ranks",
    "gaussian_spectrum",
    "hooked_covariances",
    "hooked_weight_matrices",
    "marchenko_pastur_edge",
    "matching",
    "samples_by_channel",
    "weight_matrices",
    "weight_spectrum",
]
