"""Sparse autoencoders on the activations of a language model, with SAELens's architectures and file format."""

from mi_superposition.sae.activations import ActivationStream
from mi_superposition.sae.config import SaeConfig
from mi_superposition.sae.split import Documents
from mi_superposition.sae.train import SaeJob, save_sae, train_saes

__all__ = ["ActivationStream", "Documents", "SaeConfig", "SaeJob", "save_sae", "train_saes"]
