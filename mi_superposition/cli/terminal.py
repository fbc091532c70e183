"""Progress on a terminal, and being stopped from it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mi_superposition.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm


class StoppedByUser(Exception):
    """The work was asked to stop, and saved what it had."""


class TerminalProgress(Progress):
    """A bar on standard error. It appears with the first step, so a request that is refused shows none."""

    def __init__(self) -> None:
        self.asked_to_stop = False
        self._unit = "stage"
        self._total: int | None = None
        self._bar: tqdm | None = None

    def begin(self, unit: str, total: int | None = None) -> None:
        """A new bar."""
        self.close()
        self._unit, self._total = unit, total

    def advance(self, by: int = 1, state: str = "") -> None:
        """Move the bar."""
        if self._bar is None:
            from tqdm import tqdm

            # A step of 0 says something new too.
            self._bar = tqdm(total=self._total, unit=self._unit, dynamic_ncols=True, smoothing=0.1, miniters=0)
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update(by)

    def note(self, line: str) -> None:
        """A line of its own."""
        print(line, file=sys.stderr)

    def should_stop(self) -> bool:
        """Whether there was a signal."""
        return self.asked_to_stop

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def terminal_progress() -> Iterator[TerminalProgress]:
    """Progress that the first Ctrl-C (or SIGTERM) asks to stop at the next step, where a checkpoint is taken."""
    progress = TerminalProgress()

    def ask(number: int, frame: object) -> None:  # noqa: ARG001
        progress.asked_to_stop = True
        # A second Ctrl-C does what it always does.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield progress
    except Exception as error:
        # By name: importing it would import torch, which a refused request does not need.
        if type(error).__name__ == "Stopped":
            raise StoppedByUser(f"{error}: run the same command again to resume") from None
        raise
    finally:
        progress.close()
        for number, handler in before.items():
            signal.signal(number, handler)
