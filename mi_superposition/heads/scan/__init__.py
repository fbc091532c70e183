"""What every attention head attends to and writes, in one pass over a corpus."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
