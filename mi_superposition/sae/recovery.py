"""Do autoencoders find true features? Where they are known: the hidden layer of a toy model of superposition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mi_superposition.linalg import unit_rows
from mi_superposition.results import Result
from mi_superposition.sae.config import SaeConfig, SaeJob, SaeRecoverConfig, StreamPart
from mi_superposition.sae.train import train_saes
from mi_superposition.toy import ToyConfig, train_toy
from mi_superposition.toy.tasks import InputSampler
from mi_superposition.training import seeded_generator

HOOK = "hidden"


class HiddenActivations:
    """The hidden layer of a toy model as a source of training batches, its features active with another probability."""

    def __init__(
        self,
        config: ToyConfig,
        W: Float[Tensor, "hidden feature"],
        probability: float,
        *,
        batch_size: int = StreamPart.batch_size,
    ):
        self.hooks: tuple[str, ...] = (HOOK,)
        self.batch_size, self.buffer_batches = batch_size, 1
        self.W = W
        self._inputs = InputSampler(config.replace(probability=(probability,)), torch.device("cpu"))

    def batch(self, index: int) -> dict[str, Float[Tensor, "batch hidden"]]:
        """Batch number ``index``: W x for fresh inputs."""
        inputs = self._inputs.draw("autoencoder", index, self.batch_size)[0]
        return {HOOK: rearrange(self.W @ inputs, "hidden batch -> batch hidden").contiguous()}


@dataclass(frozen=True, repr=False)
class FeatureRecovery(Result):
    """For each true feature the cosine of its direction with the nearest decoder direction: of the autoencoder, of one trained
    on the same directions when every feature is always active, and of as many random directions.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.sae.recover:figure"

    config: SaeRecoverConfig
    true: Float[Tensor, "feature hidden"]
    sparse: Float[Tensor, " feature"]
    dense: Float[Tensor, " feature"]
    random: Float[Tensor, " feature"]

    def summary(self) -> str:
        """Mean cosines, next to those of random directions."""
        return (
            f"{self.config.n_features} true features in {self.config.n_hidden} dimensions, mean cosine with the nearest decoder direction: "
            f"{self.sparse.mean():.3f} sparse, {self.dense.mean():.3f} always active, {self.random.mean():.3f} for random directions"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per true feature."""
        columns = {"sparse": self.sparse, "always_active": self.dense, "random": self.random}
        return pd.DataFrame({name: cosines.tolist() for name, cosines in columns.items()}).rename_axis("feature")

    def metrics(self) -> dict[str, float]:
        """Mean and smallest cosine of each decoder."""
        metrics = {}
        for name, cosines in (("sparse", self.sparse), ("always_active", self.dense), ("random", self.random)):
            metrics[f"{name}/mean"], metrics[f"{name}/min"] = float(cosines.mean()), float(cosines.min())
        return metrics


def nearest_decoder_cosines(
    true: Float[Tensor, "feature d"], decoder: Float[Tensor, "sae_feature d"]
) -> Float[Tensor, " feature"]:
    """For each true direction the largest cosine with a decoder direction (mean max cosine similarity, before the mean;
    Sharkey et al. 2022).
    """
    return (unit_rows(true) @ unit_rows(decoder).T).amax(dim=1)


def feature_recovery(
    config: SaeRecoverConfig | None = None, *, on_stage: Callable[[str], None] = lambda name: None
) -> FeatureRecovery:
    """Train a toy model (a ReLU bottleneck), then autoencoders on its hidden layer.

    ``on_stage`` is called with each of the three trainings that starts.
    """
    config = config or SaeRecoverConfig()
    toy = _toy_config(config)
    on_stage("toy model")
    W = train_toy(toy).W_in[0]
    decoders = []
    for probability in (config.probability, 1.0):
        on_stage(f"autoencoder, features active with probability {probability:g}")
        job = SaeJob("sae", HOOK, _sae_config(config))
        decoders.append(
            train_saes([job], HiddenActivations(toy, W, probability), config.sae_steps)["sae"].W_dec.detach()
        )
    generator = seeded_generator(config.random.seed, "random decoder")
    decoders.append(torch.randn(decoders[0].shape, generator=generator))
    return FeatureRecovery(config, W.T, *(nearest_decoder_cosines(W.T, decoder) for decoder in decoders))


def _toy_config(config: SaeRecoverConfig) -> ToyConfig:
    return ToyConfig(
        n_features=config.n_features, n_hidden=config.n_hidden, probability=(config.probability,), n_instances=1,
        n_steps=config.toy_steps, random=config.random, threads=config.threads,
    )  # fmt: skip


def _sae_config(config: SaeRecoverConfig) -> SaeConfig:
    """Its sparsity loss is the one that does not say how many features are active: the toy model's inputs vary in that."""
    return SaeConfig(
        architecture="standard", d_sae=2 * config.n_features, sparsity=0.1, normalize="none", learning_rate=3e-3,
        warmup_steps=20, seed=config.random.seed,
    )  # fmt: skip
