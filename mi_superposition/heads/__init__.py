"""Attention heads: ablation of any set of them, and what they read and write."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
