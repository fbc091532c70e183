"""Language models by name. The only room that builds, loads or fetches one."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
