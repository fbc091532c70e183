"""A section's one number as a claim: what it is compared with, the sentence that follows, and what could have refuted it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Alternative:
    """A choice that a hostile reader would make otherwise: what was tried, what came out, and where that stands.

    ``command`` repeats it; ``page`` is the one of ``docs`` that has every number of ``found``.
    """

    tried: str
    found: str
    command: str
    page: str

    @property
    def cells(self) -> tuple[str, str, str]:
        """What a table shows of it."""
        return self.tried, self.found, f"{self.command}; docs/{self.page}"


@dataclass(frozen=True)
class Headline:
    """A number, its controls by name in the same unit, and the sentence for either outcome.

    ``yes`` is said if the number is beyond every control by more than ``margin`` (above, or below with ``lower``), ``no`` otherwise. Numbers are those shown: what looks equal is no difference.
    """

    value: float
    controls: Mapping[str, float]
    yes: str
    no: str
    lower: bool = False
    margin: float = 0.0

    @property
    def not_beaten(self) -> list[str]:
        """The controls that the number is not beyond."""
        sign = -1 if self.lower else 1
        return [name for name, control in self.controls.items() if not sign * (self.value - control) > self.margin]

    @property
    def claim(self) -> str:
        """What the number says beside its controls. A number that is NaN is beyond none."""
        if not self.not_beaten:
            return f"{self.yes}."
        return f"{self.no} (not {'below' if self.lower else 'above'}: {', '.join(self.not_beaten)})."
