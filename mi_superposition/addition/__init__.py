"""A transformer that adds: problems, the model's exact lookup form, training, and the ablation study."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
