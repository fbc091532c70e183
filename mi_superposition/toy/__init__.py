"""Toy models of superposition: tasks, models with many instances, training, and the geometry of what they learn."""

from mi_superposition.toy.config import ToyConfig, ToySetting, geometric, setting_grid
from mi_superposition.toy.models import ToyModels, load_toy
from mi_superposition.toy.train import train_toy

__all__ = ["ToyConfig", "ToyModels", "ToySetting", "geometric", "load_toy", "setting_grid", "train_toy"]
