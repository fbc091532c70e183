"""Proven bounds on the accuracy of an addition model over all problems."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
