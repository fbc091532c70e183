"""Results to Plotly figures. Nothing here computes, shows or saves."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
