"""What a chapter of the report is asked for, and where the real data are on which it may be measured anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mi_superposition.config import Config
from mi_superposition.errors import RequestError
from mi_superposition.files import file_hash
from mi_superposition.progress import SILENT, Progress
from mi_superposition.subjects import chapters

# Data sets by the name of their folder, where they are on disk, and their ids on the hub.
_HUB = {
    "tinystories": "roneneldan/TinyStories",
    "sst2": "stanfordnlp/sst2",
    "mnist": "ylecun/mnist",
    "cifar100": "uoft-cs/cifar100",
}
_TOKENIZER = ("distilbert-tokenizer", "distilbert/distilbert-base-uncased")


@dataclass(frozen=True)
class RealData:
    """Real texts and images, in a ``folder`` or, without one, on the hub; runs on them are kept below ``runs``.

    The folder has a folder for each data set, with a parquet file for every split in the schema of the hub. Raises ``RequestError`` where what the ``sections`` read is not there.
    """

    folder: Path | None
    runs: Path
    sections: Collection[str]

    def __post_init__(self) -> None:
        for name in self._files():
            if self.folder is not None and not (self.folder / name).is_file():
                raise RequestError(f"{str(self.folder)!r} has no file {name!r}: it needs {', '.join(self._files())}")

    def identity(self) -> dict[str, str]:
        """What the sections read, by its content; of the hub its name, as what it holds may change."""
        if self.folder is None:
            return {"hub": ""}
        return {name: file_hash(self.folder / name) for name in self._files()}

    def images(self, name: str) -> str:
        """What ``load_images`` calls them."""
        return _HUB[name] if self.folder is None else str(self.folder / name)

    def texts(self, name: str, split: str) -> tuple[str, str]:
        """What ``load_corpus`` and ``load_labelled_texts`` call them, and the split to ask for."""
        return (_HUB[name], split) if self.folder is None else (str(self.folder / name / f"{split}.parquet"), "train")

    def tokenizer(self) -> str:
        """That of DistilBERT."""
        return _TOKENIZER[1] if self.folder is None else str(self.folder / _TOKENIZER[0])

    def run_folder(self, chapter: str, job: str) -> Path:
        """Where the run of a job that is kept lies: what another job calls the model that is trained there."""
        return self.runs / f"{chapter}-{job}"

    def _files(self) -> list[str]:
        return [name for section in self.sections for name in chapters()[section].files]


@dataclass(frozen=True)
class Job:
    """A run that a chapter is made of. ``bundled``: where it comes with the package, and need not be made; ``kept``: a run on real
    data, which takes long and stays beside the site for the next report; ``measured_by``: the module with ``measure`` for what is
    no command, such as the training of a model that another job reads.
    """

    command: str
    config: Config | None = None
    bundled: Path | None = None
    kept: bool = False
    measured_by: str | None = None


# Run folders by chapter and job.
Runs = Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True)
class ChapterRequest:
    """How a chapter is to be told: which ``chapters`` the site has, as only these can be linked to, and, to measure it on real
    data, where these are; without them a chapter shows what the package comes with.
    """

    chapters: Collection[str]
    real: RealData | None = None
    progress: Progress = SILENT
