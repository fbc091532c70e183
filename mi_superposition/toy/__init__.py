"""Toy models of superposition: tasks, models with many instances, training, and the geometry of what they learn."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
