"""The command that builds the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mi_superposition.cli.command import Command, progress, stop_on_signal


@dataclass(frozen=True)
class Report(Command):
    """Build the whole study from the bundled models as one static site; run again on the same folder to go on where it stopped."""

    out: Path = Path("site")
    """Folder of the site; written over if it holds an earlier one."""
    sections: tuple[str, ...] = ()
    """Sections: toy, addition, neuron-order, neuroscope, sae, spectra, concepts. Default: all."""
    full: bool = False
    """Measure on real texts and images what the package comes with results for, and train toy models of the sources' size: hours.
    Runs are kept in a folder beside the site."""
    data: Path | None = None
    """With --full: folder with tinystories, sst2, mnist and cifar100 (parquet files named for their splits) and
    distilbert-tokenizer, or those that the sections read. Default: the hub."""

    def run(self) -> str:
        """Write the site."""
        from mi_superposition.errors import RequestError
        from mi_superposition.report import chosen_sections, write_report
        from mi_superposition.studies.request import RealData

        if self.data is not None and not self.full:
            raise RequestError(f"data = {str(self.data)!r}: is for --full only")
        chosen, real = chosen_sections(self.sections), None
        if self.full:
            out = self.out.resolve()
            if not out.name:
                raise RequestError(f"out = {str(self.out)!r}: give a folder that has a name, for the runs beside it")
            real = RealData(self.data, out.with_name(f"{out.name}-runs"), chosen)
        with stop_on_signal() as stopping, progress("stage") as advance:
            written = write_report(
                self.out,
                sections=chosen,
                real=real,
                on_stage=lambda stage: advance(1, stage),
                on_progress=lambda state: advance(0, state),
                should_stop=stopping,
            )
        return f"{'report' if written else 'finished already'}: {self.out / 'index.html'}"
