"""Memory that is kept from step to step: fresh pages for every step would cost as much as the arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor


class Memory:
    """Rooms by name. What stands in a room is written over when its name is asked for again."""

    def __init__(self) -> None:
        self._rooms: dict[str, Tensor] = {}

    def room(self, name: str, like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor of this shape (default: that of ``like``), its values left over from before."""
        shape = shape or tuple(like.shape)
        room = self._rooms.get(name)
        if room is None or tuple(room.shape) != shape or room.dtype != like.dtype or room.device != like.device:
            room = self._rooms[name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        return room
