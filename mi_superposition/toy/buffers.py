"""Tensors that are kept from step to step: fresh memory for every step would cost as much as the arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor


class Buffers:
    """Tensors by name. Asking for a name again gives the same memory, to be written over."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def get(self, name: str, like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor of this shape (default: that of ``like``), its values left over from before."""
        shape = shape or tuple(like.shape)
        buffer = self._buffers.get(name)
        if buffer is None or tuple(buffer.shape) != shape or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return buffer
