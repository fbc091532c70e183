"""Autoencoders that come with the package, by name. Imports no torch, so that a command line can be checked without it."""

from __future__ import annotations

from pathlib import Path

BUNDLED_SAES = {"stories": Path(__file__).parent.parent / "bundled" / "stories-sae"}
# The folder of an autoencoder's evaluation, in its own.
EVALUATION_FOLDER = "evaluation"
# The folder of a bundled one's evaluation on real stories that neither it nor its model was trained on.
REAL_EVALUATION_FOLDER = "evaluation-real"


def is_published(name: str | Path) -> bool:
    """Whether a name is written as ``RELEASE:ID`` and is no folder."""
    return ":" in str(name) and not Path(name).exists()
