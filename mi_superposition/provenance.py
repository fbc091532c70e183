"""With what a result was made: versions, and the commit of this package."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_RECORDED_PACKAGES = ("torch", "transformer-lens", "transformers", "sae-lens", "numpy", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of what its results depend on."""
    found = {"python": sys.version.split()[0]}
    for package in ("mi-superposition", *_RECORDED_PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """Commit of the checkout this package runs from; ``None`` for an installed package or without git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
