"""From words to a configuration: one option for each of its fields, over a preset or a file if one is named."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import itertools
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import tyro

from mi_superposition.config import Config, Option
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.subjects import Study, Tool

OUT_HELP = "Run folder to write. The page is page/index.html in it."


class Request(NamedTuple):
    """A parsed command line. ``out`` is ``None`` where the configuration says itself where the result goes."""

    config: Config
    out: Path | None
    print_config: bool


def parse(command: Study | Tool, words: Sequence[str]) -> Request:
    """The request that the words make. Raises ``RequestError`` for words that make none."""
    cls = command.load_config()
    words = _todays_words(command, cls, words)
    words, print_config = _without_flag(words, "--print-config")
    words, defaults = _starting_point(command, cls, words)
    fields: list[tuple[str, Any, Any]] = []
    if isinstance(command, Study):
        fields.append(_out_field(cls, Path("run") if print_config else dataclasses.MISSING))
    if cls.PRESETS:
        names = tuple(cls.PRESETS)
        fields.append(_field("preset", Literal[names], cls.PRESET_HELP, names[0]))
    for option in cls.options():
        fields.append(_field(option.name, option.annotation, option.help, defaults.get(option.name, option.default)))
    # Required options first, as dataclasses want them.
    fields.sort(key=lambda field: field[2].default is not dataclasses.MISSING)
    parsed = vars(_parsed(command.command, dataclasses.make_dataclass("Options", fields), cls, words))
    out = parsed.pop("out") if isinstance(command, Study) else None
    if cls.PRESETS:
        # Its values are the defaults of the other options by now.
        parsed.pop("preset")
    return Request(cls.from_flat(parsed), out, print_config)


def config_json(command: Study | Tool, config: Config) -> str:
    """A configuration as ``--config FILE`` reads it."""
    return json.dumps({"command": command.command, "config": config.flat()}, indent=2)


def _out_field(cls: type[Config], default: Any) -> tuple[str, Any, Any]:
    """Where the result goes: to be said, unless the configuration knows a place."""
    if hasattr(cls, "usual_out"):
        usual = (inspect.getdoc(cls.usual_out) or "").splitlines()[0]
        return _field("out", Path | None, f"{OUT_HELP} Default: {usual}", None)
    return _field("out", Path, OUT_HELP, default)


def _field(name: str, annotation: Any, said: str, default: Any) -> tuple[str, Any, Any]:
    return name, Annotated[annotation, tyro.conf.arg(help=said)], dataclasses.field(default=default)


def _parsed(name: str, options: type, cls: type[Config], words: Sequence[str]) -> Any:
    """Parse with tyro. Its boxed complaint becomes one line like every other error of ours: it has no public way to ask for
    the complaint alone.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(options, prog=f"mi-superposition {name}", args=list(words), description=_description(cls))
    except SystemExit as stop:
        if not stop.code:
            raise
        # The box's first line is its title, the last ones point to the help; what is between is the complaint.
        inside = [line.strip("\u2502 ") for line in complaint.getvalue().splitlines()[1:]]
        text = " ".join(line for line in inside if line and not line.startswith("\u2500"))
        text = text.split("For full helptext")[0].strip("\u2500\u256d\u256e\u2570\u256f ")
        raise RequestError(f"{name}: {text} (see --help)") from None


def _description(cls: type[Config]) -> str:
    return (
        f"{inspect.cleandoc(cls.__doc__ or '')}\n\n--config FILE takes the options from a file (such as a run's manifest.json), "
        "which other options then change; --print-config prints such a file and does nothing else."
    )


def _todays_words(command: Study | Tool, cls: type[Config], words: Sequence[str]) -> list[str]:
    """Options of version 0.1 under their names of today, and ``--no-X`` for options that are true, false or left open.

    An option of several values may be given several times, and has them all. Raises ``RequestError`` for an option that is no more, and
    for one of a single value that is given twice.
    """
    known = {option.name: option for option in cls.options()}
    todays: list[str] = []
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("_", "-")
        if not word.startswith("--"):
            todays.append(word)
            continue
        if name in command.removed:
            raise RequestError(f"--{name} is no option any more: give {command.removed[name]}")
        name = command.renamed.get(name, name)
        opposite = known.get(name.removeprefix("no-").replace("-", "_")) if name.startswith("no-") else None
        if opposite is not None and bool in typing.get_args(opposite.annotation):
            todays += [f"--{name.removeprefix('no-')}", "False"]
        else:
            todays.append(f"--{name}{equals}{value}")
    return _gathered(todays, known)


def _gathered(words: Sequence[str], known: Mapping[str, Option]) -> list[str]:
    """The words with the values of each option behind one mention of it."""
    before: list[str] = []
    values: dict[str, list[str]] = {}
    current = before
    for word in words:
        if not word.startswith("--"):
            current.append(word)
            continue
        flag, equals, value = word.partition("=")
        option = known.get(flag.removeprefix("--").replace("-", "_"))
        if flag in values and (option is None or not _takes_several(option.annotation)):
            raise RequestError(f"{flag} is given twice: give it once")
        several = option is not None and _takes_several(option.annotation)
        current = values.setdefault(flag, [flag] if several or not equals else [word])
        current += [value] if several and equals else []
    return [*before, *itertools.chain.from_iterable(values.values())]


def _takes_several(annotation: Any) -> bool:
    """Whether an option is of several values, or of several or none."""
    if typing.get_origin(annotation) is Annotated:
        return _takes_several(typing.get_args(annotation)[0])
    if isinstance(annotation, types.UnionType):
        return any(map(_takes_several, typing.get_args(annotation)))
    return typing.get_origin(annotation) is tuple


def _without_flag(words: list[str], flag: str) -> tuple[list[str], bool]:
    return [word for word in words if word != flag], flag in words


def _starting_point(command: Study | Tool, cls: type[Config], words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Values that stand in for the defaults: those of ``--config FILE``, else those of ``--preset NAME``."""
    words, file = _without_value(words, "--config")
    _, preset = _without_value(words, "--preset")
    if file is not None:
        if preset is not None and cls.PRESETS:
            raise RequestError(f"preset = {preset!r}: the options are those of --config {file}; give one of the two")
        return words, _from_file(command, cls, Path(file))
    return words, cls.PRESETS[preset].values() if preset is not None and preset in cls.PRESETS else {}


def _without_value(words: list[str], option: str) -> tuple[list[str], str | None]:
    for place, word in enumerate(words):
        if word.startswith(f"{option}="):
            return words[:place] + words[place + 1 :], word.partition("=")[2]
        if word == option:
            if place + 1 == len(words):
                raise RequestError(f"{option}: name a value after it")
            return words[:place] + words[place + 2 :], words[place + 1]
    return words, None


class _ConfigFile(TypedDict):
    """A manifest, or what ``--print-config`` prints."""

    command: str
    config: dict[str, Any]
    status: NotRequired[str]
    format: NotRequired[int]
    inputs: NotRequired[dict[str, Any]]


def _from_file(command: Study | Tool, cls: type[Config], file: Path) -> dict[str, Any]:
    from mi_superposition.runs import recorded_config
    from mi_superposition.schemas import read_as

    if not file.is_file():
        raise RequestError(f"config = {str(file)!r}: there is no such file")
    try:
        values = read_as(file, _ConfigFile)
    except WorkError as error:
        raise RequestError(f"config: {error}; give a run's manifest.json, or what --print-config prints") from error
    if values.get("command") != command.command:
        raise RequestError(f"config = {str(file)!r} is one of {values.get('command')!r}, not of {command.command!r}")
    if "status" not in values:
        # Written by hand or by --print-config: every option counts.
        return cls.from_flat(values["config"]).values()
    known = {option.name for option in cls.options()}
    recorded = recorded_config({"format": 2, "inputs": {}, **values})
    return cls.from_flat({name: value for name, value in recorded.items() if name in known}).values()
