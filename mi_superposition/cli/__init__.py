"""The command line: one dataclass a command; the field's docstring is the option's help.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 stopped by the user (run the command again to go
on). Heavy imports stand inside ``run`` so that help needs none of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import math
import sys
from collections.abc import Sequence

import tyro

from mi_superposition.cli.addition import AdditionTrain
from mi_superposition.cli.command import Command, StoppedByUser
from mi_superposition.cli.concepts import Concepts
from mi_superposition.cli.heads import HeadsAblate, HeadsProject
from mi_superposition.cli.neurons import NeuronsOrder, NeuronsPages, NeuronsScan, NeuronsTry
from mi_superposition.cli.report import Report
from mi_superposition.cli.sae import SaeEvaluate, SaeTrain
from mi_superposition.cli.spectra import Spectra
from mi_superposition.cli.toy import ToyStudy, ToyTrain
from mi_superposition.errors import RequestError, WorkError

COMMANDS: dict[str, type[Command]] = {
    "report": Report,
    "addition train": AdditionTrain,
    "heads ablate": HeadsAblate,
    "heads project": HeadsProject,
    "neurons order": NeuronsOrder,
    "neurons scan": NeuronsScan,
    "neurons pages": NeuronsPages,
    "neurons try": NeuronsTry,
    "toy train": ToyTrain,
    "toy study": ToyStudy,
    "sae train": SaeTrain,
    "sae evaluate": SaeEvaluate,
    "spectra": Spectra,
    "concepts": Concepts,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments in (["--help"], ["-h"]):
        print(_overview(list(COMMANDS)))
        return 0 if arguments else 2
    try:
        print(_parse(arguments).run())
    except RequestError as error:
        return _fail(2, error)
    except WorkError as error:
        return _fail(1, error)
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        return _fail(1, f"{error.strerror or error}{where}")
    except StoppedByUser as error:
        return _fail(130, error)
    except MemoryError:
        return _fail(1, "not enough memory: ask for less at once")
    except RuntimeError as error:
        # torch, and the C++ below it, say so of their own allocations, and of nothing else.
        if not any(said in str(error) for said in ("allocate memory", "out of memory", "bad_alloc")):
            raise
        return _fail(1, "not enough memory: ask for less at once")
    except KeyboardInterrupt:
        return _fail(130, "stopped; run the same command again")
    return 0


def _fail(code: int, message: object) -> int:
    print(f"mi-superposition: {message}", file=sys.stderr)
    return code


def _overview(names: Sequence[str]) -> str:
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {_first_line(COMMANDS[name])}" for name in names]
    return "\n".join(
        [
            "usage: mi-superposition COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "mi-superposition COMMAND --help lists the options.",
        ]
    )


def _first_line(command: type[Command]) -> str:
    return (command.__doc__ or "").splitlines()[0]


def _parse(arguments: Sequence[str]) -> Command:
    group = [name for name in COMMANDS if name.startswith(f"{arguments[0]} ")]
    if group and arguments[1:] in (["--help"], ["-h"]):
        print(_overview(group))
        raise SystemExit(0)
    for words in (1, 2):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return _parse_options(name, arguments[words:])
    asked = " ".join(word for word in arguments[:2] if not word.startswith("-"))
    if group:
        raise RequestError(f"{asked!r} needs one more word: {' or '.join(map(repr, group))}")
    near = difflib.get_close_matches(asked, COMMANDS, n=1)
    known = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(map(repr, COMMANDS))}"
    raise RequestError(f"{asked!r} is not a command: {known}")


def _parse_options(name: str, options: Sequence[str]) -> Command:
    """Parse with tyro, whose boxed complaint becomes one line like every other error of ours. NaN and infinity are no option's value."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.cli(COMMANDS[name], prog=f"mi-superposition {name}", args=list(options))
    except SystemExit as stop:
        if not stop.code:
            raise
        # The box's first line is its title, the last ones point to the help; what is between is the complaint.
        inside = [line.strip("\u2502 ") for line in complaint.getvalue().splitlines()[1:]]
        text = " ".join(line for line in inside if line and not line.startswith("\u2500"))
        text = text.split("For full helptext")[0].strip("\u2500\u256d\u256e\u2570\u256f ")
        raise RequestError(f"{name}: {text} (see --help)") from None
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise RequestError(f"--{field.name.replace('_', '-')} {one}: must be a finite number")
    return command
