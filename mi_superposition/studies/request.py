"""What a section of the report is asked for, and where the real data are on which it may be measured anew."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from mi_superposition.errors import RequestError

# The folder of each data set where they are on disk, as parquet files named for their splits, and its id on the hub.
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

    The folder holds ``tinystories``, ``sst2``, ``mnist``, ``cifar100``, each with a parquet file for every split in the schema of
    the hub, and ``distilbert-tokenizer``.
    """

    folder: Path | None
    runs: Path

    def __post_init__(self) -> None:
        if self.folder is None:
            return
        for name in (*_HUB, _TOKENIZER[0]):
            if not (self.folder / name).is_dir():
                raise RequestError(
                    f"{str(self.folder)!r} has no folder {name!r}: it needs {', '.join((*_HUB, _TOKENIZER[0]))}"
                )

    def images(self, name: str) -> str:
        """What ``load_images`` calls them."""
        return _HUB[name] if self.folder is None else str(self.folder / name)

    def texts(self, name: str, split: str) -> tuple[str, str]:
        """What ``load_corpus`` and ``load_labelled_texts`` call them, and the split to ask for."""
        return (_HUB[name], split) if self.folder is None else (str(self.folder / name / f"{split}.parquet"), "train")

    def tokenizer(self) -> str:
        """That of DistilBERT."""
        return _TOKENIZER[1] if self.folder is None else str(self.folder / _TOKENIZER[0])


@dataclass(frozen=True)
class SectionRequest:
    """How a section is to be told: which ``sections`` the site has, as only these can be linked to, and, to measure it on real
    data, where these are; without them a section shows what comes with the package.

    ``on_stage`` is told of each stage begun, and raises ``training.Stopped`` when asked to stop. Long trainings ask ``should_stop``
    themselves, so that they stop where they can go on, and say how far they are by ``on_progress``.
    """

    sections: Collection[str]
    real: RealData | None = None
    on_stage: Callable[[str], None] = lambda stage: None
    on_progress: Callable[[str], None] = lambda state: None
    should_stop: Callable[[], bool] = lambda: False
