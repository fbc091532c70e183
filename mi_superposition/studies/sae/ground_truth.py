"""Do autoencoders find true features? Where they are known: the hidden layer of a toy model of superposition."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.sae import SaeConfig, SaeJob, train_saes
from mi_superposition.toy import ToyConfig, train_toy
from mi_superposition.toy.config import setting_grid
from mi_superposition.toy.tasks import InputSampler
from mi_superposition.training import seeded_generator

HOOK = "hidden"
N_FEATURES, N_HIDDEN = 20, 8
PROBABILITY = 0.05
# Its sparsity loss is the one that does not say how many features are active: the toy model's inputs vary in that.
SAE = SaeConfig(
    architecture="standard", d_sae=2 * N_FEATURES, sparsity=0.1, normalize="none", learning_rate=3e-3, warmup_steps=20
)


class HiddenActivations:
    """The hidden layer of a toy model as a source of training batches, its features active with another probability."""

    def __init__(
        self, config: ToyConfig, W: Float[Tensor, "hidden feature"], probability: float, *, batch_size: int = 2048
    ):
        self.hooks: tuple[str, ...] = (HOOK,)
        self.batch_size, self.buffer_batches = batch_size, 1
        self.W = W
        self._inputs = InputSampler(
            replace(config, settings=setting_grid(probability=[probability])), torch.device("cpu")
        )

    def batch(self, index: int) -> dict[str, Float[Tensor, "batch hidden"]]:
        """Batch number ``index``: W x for fresh inputs."""
        inputs = self._inputs.draw("autoencoder", index, self.batch_size)[0]
        return {HOOK: rearrange(self.W @ inputs, "hidden batch -> batch hidden").contiguous()}


@dataclass(frozen=True)
class Recovery:
    """For each true feature the cosine of its direction with the nearest decoder direction: of the autoencoder, of one trained
    on the same directions when every feature is always active, and of as many random directions.
    """

    true: Float[Tensor, "feature hidden"]
    sparse: Float[Tensor, " feature"]
    dense: Float[Tensor, " feature"]
    random: Float[Tensor, " feature"]


def nearest_decoder_cosines(
    true: Float[Tensor, "feature d"], decoder: Float[Tensor, "sae_feature d"]
) -> Float[Tensor, " feature"]:
    """For each true direction the largest cosine with a decoder direction (mean max cosine similarity, before the mean;
    Sharkey et al. 2022).
    """
    return (unit_rows(true) @ unit_rows(decoder).T).amax(dim=1)


def feature_recovery(*, toy_steps: int = 4000, sae_steps: int = 1500, seed: int = 0) -> Recovery:
    """Train a bottleneck of 20 features in 8 dimensions at sparsity 0.95, then autoencoders on its hidden layer."""
    config = ToyConfig(
        n_features=N_FEATURES, n_hidden=N_HIDDEN, settings=setting_grid(probability=[PROBABILITY]), n_instances=1,
        n_steps=toy_steps, seed=seed,
    )  # fmt: skip
    W = train_toy(config).W_in[0]
    found = {
        probability: train_saes(
            [SaeJob("sae", HOOK, replace(SAE, seed=seed))], HiddenActivations(config, W, probability), sae_steps
        )["sae"].W_dec.detach()
        for probability in (PROBABILITY, 1.0)
    }
    random = torch.randn(SAE.d_sae, N_HIDDEN, generator=seeded_generator(seed, "random decoder"))
    sparse, dense, chance = (nearest_decoder_cosines(W.T, decoder) for decoder in (*found.values(), random))
    return Recovery(W.T, sparse, dense, chance)
