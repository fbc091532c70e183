"""Progress on a terminal, being stopped from it, and what is left when there is none."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mi_superposition.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm


# Exit codes after SIGHUP, and after any other way to stop.
HUNG_UP, STOPPED = 129, 130
_OUTPUT, _ERROR = 1, 2
# What went away is the reader (of a pipe) or the terminal.
_GONE = (errno.EPIPE, errno.EIO)
# Seconds between two lines of progress where nobody sees the bar move.
_SELDOM = 10
# Seconds after which it is known how long the whole takes.
_FIRST = 60


class StoppedByUser(Exception):
    """The work was asked to stop, and saved what it had. ``code`` is the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class TerminalProgress(Progress):
    """A bar on standard error. It appears with the first step, so a request that is refused shows none."""

    def __init__(self) -> None:
        # The name of the signal that asked to stop.
        self.signal: str | None = None
        self._unit = "stage"
        self._total: int | None = None
        self._bar: tqdm | None = None
        # When the first step was told, and how many were done then; whether the time that all take was looked at.
        self._began: tuple[float, float] | None = None
        self._told = False

    def begin(self, unit: str, total: int | None = None) -> None:
        """A new bar."""
        self.close()
        self._unit, self._total, self._told, self._began = unit, total, False, None

    def expect(self, total: int) -> None:
        """A bar that knows its end."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def advance(self, by: int = 1, state: str = "") -> None:
        """Move the bar."""
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total,
                unit=self._unit,
                dynamic_ncols=True,
                smoothing=0.1,
                # A step of 0 says something new too.
                miniters=0,
                mininterval=0.1 if sys.stderr.isatty() else _SELDOM,
            )
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update(by)
        self._say_how_long(self._bar)

    def _say_how_long(self, bar: tqdm) -> None:
        """Once, of what takes more than a day at the speed of its first minute; what was done before it was resumed is not counted."""
        if self._told or not bar.total:
            return
        if self._began is None:
            self._began = (time.monotonic(), bar.n)
            return
        seconds, done = time.monotonic() - self._began[0], bar.n - self._began[1]
        if seconds < _FIRST or not done:
            return
        self._told = True
        days = seconds / done * (bar.total - self._began[1]) / 86_400
        if days > 1:
            self.note(f"at this speed it takes {days:,.1f} days; stopped, it goes on later")

    def note(self, line: str) -> None:
        """A line of its own."""
        print(line, file=sys.stderr)

    def should_stop(self) -> bool:
        """Whether there was a signal."""
        return self.signal is not None

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def terminal_progress() -> Iterator[TerminalProgress]:
    """Progress that the first Ctrl-C, SIGTERM or SIGHUP (the terminal is gone) asks to stop at the next step, where a checkpoint is
    taken.
    """
    progress = TerminalProgress()
    numbers = [signal.SIGINT, signal.SIGTERM]
    # Windows has none, and under nohup it is to be ignored.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def ask(number: int, frame: object) -> None:  # noqa: ARG001
        progress.signal = signal.Signals(number).name
        # A second Ctrl-C does what it always does.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield progress
    except Exception as error:
        # By name: importing it would import torch, which a refused request does not need.
        if type(error).__name__ == "Stopped":
            code = HUNG_UP if progress.signal == "SIGHUP" else STOPPED
            raise StoppedByUser(f"{error}: run the same command again to resume", code) from None
        raise
    finally:
        progress.close()
        for number, handler in before.items():
            signal.signal(number, handler)


class _Unheard(io.FileIO):
    """Standard output or error, whose reader may go away: what is said from then on is lost, and the work goes on.

    That standard error cannot be written for another reason could be said nowhere, so that is no reason to end either.
    """

    def write(self, content: Any) -> int:
        """So many bytes were taken."""
        try:
            return super().write(content)
        except OSError as error:
            if self.fileno() == _OUTPUT and error.errno not in _GONE:
                raise OSError(error.errno, error.strerror, "standard output") from None
            return len(content)


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Inside, standard output and error can be written whether or not somebody reads them: closed ones lead nowhere.

    Every line is written at once, so that a full disk is noticed where it is said. Streams that others have put in their place stay,
    but write any text: tokens are of any alphabet, terminals are not.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one. Left free, it would be the next file's, and what libraries say would go there.
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    for name, number in (("stdout", _OUTPUT), ("stderr", _ERROR)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            raw = io.BufferedWriter(_Unheard(number, "w", closefd=False))
            encoding = "utf-8" if stream is None else stream.encoding
            setattr(sys, name, io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
