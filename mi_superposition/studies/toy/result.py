"""What each of the toy studies has: trainings, and what is measured of their models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from mi_superposition.results import Result
from mi_superposition.toy.config import ToyConfig, ToyStudyConfig
from mi_superposition.toy.models import ToyModels

Models = Mapping[str, ToyModels]


@dataclass(frozen=True, repr=False)
class ToyStudyResult(Result):
    """One question asked of toy models: the trained models by the name of their run. What is measured of them is worked out when it
    is asked for, and kept.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.toy.study:figure"

    config: ToyStudyConfig
    models: Models

    @staticmethod
    @abstractmethod
    def trainings(full: bool) -> dict[str, ToyConfig]:
        """The runs that the study needs; ``full`` asks for the size of the source where the usual one is smaller."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """All numbers, flat; lists run over the study's probabilities unless they say otherwise."""

    def to_frame(self) -> pd.DataFrame:
        """One row per run, setting and kept instance, as ``ToyModels.to_frame``."""
        return pd.concat({name: trained.to_frame() for name, trained in self.models.items()}, names=["run"])
