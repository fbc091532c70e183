"""What every neuron of a model responds to, found in one pass over a corpus."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
