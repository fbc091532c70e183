"""What a model keeps of concepts: directions, probes, correlations, and the units that concepts share."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
