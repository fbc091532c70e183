"""What numba compiles is kept on the disk, where there is a place for it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

_PACKAGE = Path(__file__).parent.parent


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: numba's ``njit`` without the interpreter's lock, compiled anew only after the code has changed.

    Where neither the package's folder nor the home folder can be written, it is compiled anew in every process.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            dispatcher = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:
            # "no locator available": numba has no other word for it.
            return njit(nogil=True, **options)(function)
        # numba asks whether the function's own file has changed. What it calls, and the constants and types that it reads, stand in
        # other files: compiled from older ones it would be wrong in silence, or its types would not be found.
        # With NUMBA_DISABLE_JIT=1 nothing is compiled, and nothing kept.
        if hasattr(dispatcher, "_cache"):
            kept = dispatcher._cache._cache_file
            kept._version = f"{kept._version} {_sources(Path(function.__code__.co_filename).parent)}"
        return dispatcher

    return decorate


@functools.cache
def _sources(folder: Path) -> str:
    """Hash of all modules of the subject that a folder belongs to; outside of the package, of the folder."""
    if folder.is_relative_to(_PACKAGE):
        folder = _PACKAGE.joinpath(*folder.relative_to(_PACKAGE).parts[:1])
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
