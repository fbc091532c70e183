"""Sparse autoencoders on the activations of a language model, with SAELens's architectures and file format."""

from mi_superposition.sae.activations import ActivationSource, ActivationStream
from mi_superposition.sae.config import SaeConfig
from mi_superposition.sae.evaluate import Evaluation, evaluate_reconstructions, evaluate_sae
from mi_superposition.sae.files import check_sae, load_sae, sae_folders, save_sae
from mi_superposition.sae.split import Documents
from mi_superposition.sae.stored import StoredActivations, store_activations
from mi_superposition.sae.train import SaeJob, train_sae, train_saes

__all__ = [
    "ActivationSource",
    "ActivationStream",
    "Documents",
    "Evaluation",
    "SaeConfig",
    "SaeJob",
    "StoredActivations",
    "check_sae",
    "evaluate_reconstructions",
    "evaluate_sae",
    "load_sae",
    "sae_folders",
    "save_sae",
    "store_activations",
    "train_sae",
    "train_saes",
]
