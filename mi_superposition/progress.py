"""What long work tells as it goes, and asks: whoever runs it decides where that is shown."""

from __future__ import annotations


class Progress:
    """Told of every step of a study, and asked whether to stop. This one tells nobody and is never asked to stop."""

    def begin(self, unit: str, total: int | None = None) -> None:
        """What ``advance`` counts from now on, and how much there will be of it, if that is known."""

    def advance(self, by: int = 1, state: str = "") -> None:
        """So much more is done; ``state`` says in a few words how it stands. 0 tells the state alone."""

    def expect(self, total: int) -> None:
        """How much there will be in all, where that becomes known only on the way."""

    def stage(self, name: str) -> None:
        """Another part of the work begins."""
        self.advance(0, name)

    def note(self, line: str) -> None:
        """Something to know before the work begins, such as how much memory it takes."""

    def should_stop(self) -> bool:
        """Whether the work was asked to stop: it then saves what it has and raises ``training.Stopped``."""
        return False


SILENT = Progress()


class Steps:
    """Turns the number of steps done so far into what was done just now."""

    def __init__(self, progress: Progress, done: int = 0):
        self.progress, self.done = progress, done

    def at(self, done: int, state: str = "") -> None:
        """So many steps are done in all."""
        self.progress.advance(done - self.done, state)
        self.done = done
