"""What every command shares: how it is run, how it shows its progress and how it is stopped."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import signal
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

from mi_superposition.errors import WorkError


@dataclass(frozen=True)
class Command(ABC):
    """A parsed command line."""

    @abstractmethod
    def run(self) -> str:
        """Do the work; the returned line says where the result is."""


def help_texts(command: type[Command]) -> dict[str, str]:
    """What is told of each option, on one line: the string that follows its field in the source, as ``--help`` has it.

    Raises ``WorkError`` for an option of which nothing is told.
    """
    texts: dict[str, str] = {}
    for kind in reversed(command.__mro__[:-1]):
        if not is_dataclass(kind):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, told in itertools.pairwise(definition.body):
            match field, told:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    for option in fields(command):
        if not texts.get(option.name):
            raise WorkError(f"{command.__name__}.{option.name}: nothing is told of this option")
    return texts


class StoppedByUser(Exception):
    """The work was asked to stop, and saved what it had."""


def where(finished_already: bool, out: Path) -> str:
    """The line that says where the result is."""
    return f"{'finished already' if finished_already else 'results'}: {out}"


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (columns, *rows)
    )


@contextlib.contextmanager
def progress(unit: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on standard error; the function it gives advances it and says where the work is.

    The bar appears with the first step, so a request that is refused shows none.
    """
    from tqdm import tqdm

    bar: tqdm | None = None

    def advance(by: int, state: str) -> None:
        nonlocal bar
        if bar is None:
            # A step of 0 says something new too.
            bar = tqdm(total=total, unit=unit, dynamic_ncols=True, smoothing=0.1, miniters=0)
        bar.set_postfix_str(state, refresh=False)
        bar.update(by)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop at the next step, where a checkpoint is taken."""
    from mi_superposition.training import Stopped

    asked = False

    def ask(number: int, frame: object) -> None:  # noqa: ARG001
        nonlocal asked
        asked = True
        # A second Ctrl-C does what it always does.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    except Stopped as stop:
        raise StoppedByUser(f"{stop}; run the same command again to go on") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
