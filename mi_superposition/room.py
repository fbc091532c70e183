"""Memory, of the machine and of its GPUs, and disk: whether there is room for what was asked for, said before the work begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from mi_superposition.errors import RequestError

# What a limit of a container is written in, where there is one.
_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def check_memory(n_bytes: float, what: str, device: str = "cpu") -> None:
    """Raise ``RequestError``, with the estimate, where so many bytes are more than this machine or container has free, or its GPU if
    ``device`` is one.

    ``what`` says what takes them, and what to make smaller.
    """
    free = free_memory(device)
    if n_bytes > free:
        where = f" on {device}" if _is_gpu(device) else ""
        raise RequestError(f"{what} needs about {_told(n_bytes)} of memory{where}: {_told(free)} are free")


def check_disk(n_bytes: float, folder: Path, what: str) -> None:
    """As ``check_memory``, of the disk that a folder is, or will be, on."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if n_bytes > free:
        raise RequestError(f"{what} needs about {_told(n_bytes)} of disk: {_told(free)} are free at {str(there)!r}")


def free_memory(device: str = "cpu") -> int:
    """Bytes that this process may still take, of the machine's memory or of a GPU's. Apple's GPUs share the machine's."""
    if _is_gpu(device):
        # Imported by whoever named the device, and needed for nothing else here.
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        # What torch has taken and does not use is given anew without asking the driver.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = psutil.virtual_memory().available
    for path in _CONTAINER:
        if path.is_file() and (limit := path.read_text().strip()).isdigit():
            free = min(free, max(int(limit) - psutil.Process().memory_info().rss, 0))
    return free


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _told(n_bytes: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 2**20:,.0f} MiB"
