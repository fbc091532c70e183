"""Random directions, the control of whatever is read off an activation."""

from __future__ import annotations

import torch

from mi_superposition.models import Encode
from mi_superposition.training import seeded_generator


def along_random_directions(d: int, n: int, *, seed: int) -> Encode:
    """Activations along ``n`` random directions, ``[..., d] -> [..., n]``: an ``encode`` of ``scan_neurons``.

    The largest activations along any direction have something in common; how much, these say.
    """
    directions = torch.randn(d, n, generator=seeded_generator(seed, "random directions"))
    return lambda activations: activations @ directions.to(activations.device)
