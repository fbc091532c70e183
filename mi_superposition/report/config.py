"""What ``report`` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mi_superposition.config import Config, Option
from mi_superposition.errors import RequestError
from mi_superposition.subjects import chapters


@dataclass(frozen=True)
class ReportConfig(Config):
    """Build the report: all studies of the bundled models as one static site. Run again to resume."""

    out: Path = Path("site")
    """Site folder to write. An existing site there is replaced. Its run folders are in the subfolder 'runs'."""
    sections: tuple[str, ...] = ()
    """Sections to build. Default: all."""
    full: bool = False
    """Measure everything on real text and images instead of showing the bundled results, and train toy models at the size of the
    papers (takes hours). These runs are kept in a folder next to the site."""
    data: Path | None = None
    """With --full: folder with the data sets tinystories, sst2, mnist, cifar100 (one parquet file per split) and
    distilbert-tokenizer; only those the sections need. Default: download from the Hub."""

    @classmethod
    def options(cls) -> list[Option]:
        """All options; of the sections their names, as the subjects have them."""
        named = f"Sections to build: {', '.join(chapters())}. Default: all."
        return [option._replace(help=named) if option.name == "sections" else option for option in super().options()]

    def check(self) -> None:
        """Known chapters, and a place for the runs of --full."""
        for name in self.sections:
            if name not in chapters():
                raise RequestError(f"section {name!r} is not one of {', '.join(map(repr, chapters()))}")
        if self.data is not None and not self.full:
            raise RequestError(f"data = {str(self.data)!r}: is for --full only")
        if self.full and not self.out.resolve().name:
            raise RequestError(f"out = {str(self.out)!r}: give a folder that has a name, for the runs beside it")

    @property
    def chosen(self) -> list[str]:
        """The chapters to build, in the order of the story."""
        return [name for name in chapters() if not self.sections or name in self.sections]
