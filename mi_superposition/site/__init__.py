"""Records to one static folder of pages that opens from disk and asks the network for nothing."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
