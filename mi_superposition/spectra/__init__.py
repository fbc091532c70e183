"""How many directions a layer uses: effective ranks of weights and of activations, and what they are held against."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
