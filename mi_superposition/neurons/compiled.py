"""What numba compiles is kept on the disk, where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: numba's ``njit`` without the interpreter's lock, compiled anew only after the code has changed.

    Where neither the package's folder nor the home folder can be written, it is compiled anew in every process.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            # "no locator available": numba has no other word for it.
            return njit(nogil=True, **options)(function)

    return decorate
