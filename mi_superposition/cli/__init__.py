"""The command line, made from the subjects and their configurations.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 stopped by the user and 129 by the end of the terminal (run the
command again to go on).
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mi_superposition.cli.parsing import Request, config_json, parse
from mi_superposition.cli.terminal import STOPPED, StoppedByUser, standard_streams, terminal_progress
from mi_superposition.errors import RequestError, WorkError, is_out_of_memory
from mi_superposition.subjects import GENERAL, Study, Tool, subjects


@cache
def commands() -> dict[str, Study | Tool]:
    """Every command by its words."""
    known: list[Study | Tool] = [*GENERAL]
    for subject in subjects():
        known += [*subject.studies, *subject.tools]
    return {command.command: command for command in known}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    # Threads that wait for each other spin, and keep the one that they wait for from its core where others work too. Read when torch is
    # loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with standard_streams():
        return _answer(list(sys.argv[1:] if arguments is None else arguments))


def _answer(arguments: Sequence[str]) -> int:
    """Do what is asked for and say how it went; the exit code."""
    try:
        if not arguments or arguments in (["--help"], ["-h"]):
            print(_overview(list(commands())))
            return 0 if arguments else 2
        command, words = _command(arguments)
        if words in (["--help"], ["-h"]) and command is None:
            return 0
        assert command is not None
        request = parse(command, words)
        print(config_json(command, request.config) if request.print_config else run(command, request))
    except RequestError as error:
        return _fail(2, error)
    except WorkError as error:
        return _fail(1, error)
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        return _fail(1, f"{error.strerror or error}{where}")
    except StoppedByUser as error:
        return _fail(error.code, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _fail(1, "not enough memory: reduce --forward-batch, --batch-size or what is kept")
    except KeyboardInterrupt:
        return _fail(STOPPED, "stopped: run the same command again to resume")
    return 0


def run(command: Study | Tool, request: Request) -> str:
    """Do what was asked for; what to say of it, the last line being where the result is."""
    _check_temporary_folder()
    from mi_superposition.runs import MANIFEST

    with terminal_progress() as progress:
        if isinstance(command, Tool):
            return command.running().run(request.config, progress)
        out = request.out if request.out is not None else Path(request.config.usual_out())  # type: ignore[attr-defined]
        before = (out / MANIFEST).read_bytes() if (out / MANIFEST).is_file() else b""
        outcome = command.measuring().measure(request.config, out, progress)
        if command.shown_at_once:
            from mi_superposition.pages.render import is_shown, write_page

            # Shown anew where the run is new or how it is to be shown has changed.
            if not outcome.finished_already or not is_shown(out) or before != (out / MANIFEST).read_bytes():
                progress.stage("page")
                write_page(out, progress=progress)
        return f"{command.measuring().load(out).told()}\n{outcome}"


def _check_temporary_folder() -> None:
    """Raise ``WorkError`` where there is none: torch asks for it as it is loaded."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise WorkError(f"{error.strerror}: set TMPDIR to a folder that can be written") from None


def _fail(code: int, message: object) -> int:
    print(f"mi-superposition: {message}", file=sys.stderr)
    return code


def _overview(names: Sequence[str]) -> str:
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {first_line(commands()[name])}" for name in names]
    return "\n".join(
        [
            "usage: mi-superposition COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "mi-superposition COMMAND --help lists the options.",
        ]
    )


def first_line(command: Study | Tool) -> str:
    """What a command does, in a line: the first of its configuration's docstring."""
    return inspect.cleandoc(command.load_config().__doc__ or "").splitlines()[0]


def _command(arguments: Sequence[str]) -> tuple[Study | Tool | None, Sequence[str]]:
    """The command named, and the words after it; ``None`` after help for a group of commands was printed."""
    known = commands()
    group = [name for name in known if name.startswith(f"{arguments[0]} ")]
    if group and arguments[1:] in (["--help"], ["-h"]):
        print(_overview(group))
        return None, arguments[1:]
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in known:
            return known[name], arguments[words:]
    asked = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    if group:
        raise RequestError(f"{asked!r} is incomplete: give {' or '.join(map(repr, group))}")
    near = difflib.get_close_matches(asked, known, n=1)
    others = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(map(repr, known))}"
    raise RequestError(f"{asked!r} is not a command: {others}")
