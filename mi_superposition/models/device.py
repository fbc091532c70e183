"""Which device is meant. Needs torch alone: training a toy model loads no model library."""

from __future__ import annotations

import torch

from mi_superposition.errors import RequestError


def device_of(device: str) -> str:
    """The device meant: ``"auto"`` is cuda where there is one, else cpu. Raises ``RequestError`` for one that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available |= {f"cuda:{number}": True for number in range(torch.cuda.device_count())}
    if device not in available:
        raise RequestError(f"device = {device!r}: give 'auto', 'cpu', 'cuda' or 'mps'")
    if not available[device]:
        raise RequestError(f"device = {device!r}: this machine has none; give 'auto' or 'cpu'")
    return device
