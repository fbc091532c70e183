"""Text by name: documents, read lazily, and the token batches made of them; labelled texts and labelled images."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
