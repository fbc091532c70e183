"""Files of ours that became something else, tried one after the other: what is done to them, who reads them, and how that is counted."""

from __future__ import annotations

import contextlib
import io
import random
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from robustness.fixtures import FULL
from robustness.mutations import mutated

from mi_superposition.cli import main
from mi_superposition.errors import RequestError, WorkError

# Of each run so many mutations; in a full run all of them.
TRIED = 40
# Characters of a line.
LONGEST = 400
Mutation = tuple[str, Path, bytes]


def some_of(folder: Path, seed: str, names: Collection[str] = (), *, tried: int = TRIED) -> list[Mutation]:
    """What was done to which file of a folder, or of those with one of these names, and its bytes then."""
    every = [one for one in mutated(folder) if not names or one[1].name in names]
    random.Random(seed).shuffle(every)
    return every if FULL else every[:tried]


def try_each(mutations: list[Mutation], read: Callable[[str, Path], bool], counts: Any) -> None:
    """Each mutation, read by ``read``, which says whether it was refused and raises for whatever is wrong; all of that is told at the end."""
    wrong = []
    counts["files altered"] += len({path for _, path, _ in mutations})
    for what, path, content in mutations:
        with as_bytes(path, content):
            try:
                refused = read(what, path)
            except Exception:
                wrong.append(f"{path.name}: {what}\n{traceback.format_exc(limit=-3)}")
                continue
        counts["alterations refused in one line" if refused else "alterations that were harmless"] += 1
    counts["alterations that ended otherwise"] += len(wrong)
    assert not wrong, f"{len(wrong)} of {len(mutations)}:\n" + "\n".join(wrong[:20])


@contextlib.contextmanager
def as_bytes(path: Path, content: bytes) -> Iterator[None]:
    """A file with other content, and then with its own again."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def told_in_one_line(read: Callable[[], Any]) -> bool:
    """Whether it was refused, in one line that is not long."""
    try:
        read()
    except (RequestError, WorkError) as error:
        said = str(error)
        assert "\n" not in said, said
        assert len(said) < LONGEST, said
        return True
    return False


def command_of(words: Collection[Any]) -> int:
    """The exit code of a command, checked to say one line where it fails."""
    said, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
        code = main([str(word) for word in words])
    assert code in (0, 1, 2), words
    if code:
        last = error.getvalue().splitlines()[-1]
        assert last.startswith("mi-superposition: "), (words, error.getvalue())
        assert len(last) < LONGEST, (words, last)
    return code
