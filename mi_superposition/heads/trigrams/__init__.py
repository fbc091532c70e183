"""Superposition among heads: skip trigrams found in text, the attention edges that carry them, and how heads share them."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
