"""What ``page`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from mi_superposition.config import Config


@dataclass(frozen=True)
class PageConfig(Config):
    """Write the pages of a finished run again, without measuring anything, as this version shows them."""

    run: tyro.conf.Positional[Path]
    """Run folder of any command."""
    out: Path | None = None
    """Folder of the pages. Default: 'page' in the run folder."""
