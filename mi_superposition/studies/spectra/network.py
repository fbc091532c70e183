"""What the study of spectra needs of a network, whichever sort it is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from mi_superposition.progress import Progress
from mi_superposition.runs import Run
from mi_superposition.spectra.result import LayerSpectra
from mi_superposition.studies.spectra.pictures import Pictures
from mi_superposition.training import Stopped

State = Literal["trained", "untrained"]
STATES: tuple[State, ...] = ("trained", "untrained")
_Item = TypeVar("_Item")


@runtime_checkable
class MeasuredNetwork(Protocol):
    """A network, its untrained copy, and what both read."""

    @property
    def n_steps(self) -> int | None:
        """Steps that ``progress`` is told of, if their number is known."""
        ...

    def inputs(self) -> dict[str, Any]:
        """What the run's manifest records of the network and of what it reads."""
        ...

    def check_room(self) -> None:
        """Raise ``RequestError`` where there is not enough memory to train or measure it."""
        ...

    def train(self, run: Run, progress: Progress) -> None:
        """Train it, if it is to be trained, resuming if that was begun. Raises ``training.Stopped``."""
        ...

    def measure(self, state: State, progress: Progress) -> LayerSpectra:
        """Spectra of all chosen layers. Raises ``training.Stopped``."""
        ...

    def pictures(self, state: State) -> Pictures:
        """Some weights, and the distribution of activations on the first batch."""
        ...

    def metrics(self) -> dict[str, float]:
        """Numbers of the network itself, such as its accuracy."""
        ...


def stoppable(batches: Iterable[_Item], state: State, progress: Progress) -> Iterator[_Item]:
    """The batches, each counted as a step. Raises ``training.Stopped`` when asked to stop."""
    for number, batch in enumerate(batches):
        if progress.should_stop():
            raise Stopped(number, "batch")
        yield batch
        progress.advance(1, f"{state}: activations")
