"""The command that builds the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mi_superposition.cli.command import Command, progress


@dataclass(frozen=True)
class Report(Command):
    """Build the whole study from the bundled models as one static site."""

    out: Path = Path("site")
    """Folder of the site; written over if it holds an earlier one."""

    def run(self) -> str:
        """Write the site."""
        from mi_superposition.report import write_report

        with progress("stage") as advance:
            written = write_report(self.out, on_stage=lambda stage: advance(1, stage))
        return f"{'report' if written else 'finished already'}: {self.out / 'index.html'}"
