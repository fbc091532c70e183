"""Sparse autoencoders on the activations of a language model, with SAELens's architectures and file format."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
