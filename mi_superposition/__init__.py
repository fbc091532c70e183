"""Study superposition in neural networks, with the control beside every claim.

``import mi_superposition as ms``; what there is, ``dir(ms)`` says. Everything is imported when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
