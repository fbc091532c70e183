"""Configurations: what a command is asked for, declared once.

A configuration is a frozen dataclass whose fields carry their type, their range, their default and, as the string below
them, their help. It is the command line (``cli`` makes the options from it), what a run folder stores, and what the Python
function behind the command takes. Options that several commands share stand in *parts*: configurations nested in the
configuration. The names of all options of a command are different, so nesting shows neither on the command line nor in a
run folder: both are flat.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import math
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from annotated_types import Ge, Gt, Interval, Le, Lt

from mi_superposition.errors import RequestError, WorkError

# Ranges of options. What they say is checked when a configuration is made, wherever its values come from.
# Nobody has so many of anything that is counted here, nor measures with larger numbers: beyond them arithmetic overflows.
MOST, LARGEST = 10**12, 1e12
AtLeast0 = Annotated[int, Interval(ge=0, le=MOST)]
AtLeast1 = Annotated[int, Interval(ge=1, le=MOST)]
AtLeast2 = Annotated[int, Interval(ge=2, le=MOST)]
Positive = Annotated[float, Interval(gt=0, le=LARGEST)]
NonNegative = Annotated[float, Interval(ge=0, le=LARGEST)]
AnyNumber = Annotated[float, Interval(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Interval(ge=0, le=1)]
SeedNumber = Annotated[int, Interval(ge=0, le=2**63 - 1)]
# No machine has more; a larger number ends in the thread library's own exit.
Threads = Annotated[int, Interval(ge=1, le=1024)]


_Own = TypeVar("_Own", bound="Config")


class Option(NamedTuple):
    """One option of a configuration: ``part`` is the class that declares it, ``help`` what is said of it, on one line."""

    name: str
    part: type[Config]
    annotation: Any
    default: Any
    help: str


@dataclass(frozen=True)
class Config:
    """What all configurations share: checked values, and a flat form for run folders and files."""

    # Whether the result depends on these options. Where not, a run folder is gone on with under other values.
    AFFECTS_RESULT: ClassVar[bool] = True
    # Starting points that ``--preset NAME`` names, the first being the defaults: other options change one of them.
    PRESETS: ClassVar[Mapping[str, Config]] = {}
    PRESET_HELP: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, annotation in _annotations(type(self)).items():
            value = getattr(self, name)
            if _is_part(annotation):
                if not isinstance(value, annotation):
                    raise RequestError(
                        f"{name} = {value!r}: give options by name, {type(self).__name__}.of(OPTION=VALUE)"
                    )
            else:
                if isinstance(value, list):
                    value = tuple(value)
                    object.__setattr__(self, name, value)
                _check_value(name, value, annotation)
        self.check()

    def check(self) -> None:
        """Raise ``RequestError`` for options that do not go together."""

    @classmethod
    def options(cls) -> list[Option]:
        """All options, those of parts in their place. Raises ``WorkError`` for one without help."""
        known: tuple[Option, ...] = _options_of(cls)  # type: ignore[arg-type]
        return list(known)

    def values(self) -> dict[str, Any]:
        """Every option by its name."""
        return dict(_raw_values(self))

    def flat(self) -> dict[str, Any]:
        """Every option by its name, as JSON values."""
        return json.loads(json.dumps(dict(_values(self, affecting_only=False)), allow_nan=False))

    def identity(self) -> dict[str, Any]:
        """The options that the result depends on, as JSON values."""
        return json.loads(json.dumps(dict(_values(self, affecting_only=True)), allow_nan=False))

    @classmethod
    def of(cls: type[_Own], **options: Any) -> _Own:
        """A configuration from options by their names, those of parts too: ``ToyConfig.of(n_steps=500, seed=3)``.

        Raises as ``from_flat``.
        """
        return cls.from_flat(options)

    @classmethod
    def from_flat(cls: type[_Own], values: Mapping[str, Any]) -> _Own:
        """Inverse of ``flat``; an option that is not there has its default.

        Raises ``RequestError`` for an option there is none of, and for values out of range.
        """
        known = _names(cls)
        for name in values:
            if name not in known:
                raise RequestError(f"option {name!r}: {cls.__name__} has {', '.join(map(repr, known))}")
        return _from_flat(cls, values)

    @classmethod
    def flattened(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The options, as JSON values, that version 0.1 recorded in groups, by their names of that time."""
        flat: dict[str, Any] = {}
        for name, value in recorded.items():
            flat |= value if isinstance(value, dict) else {name: value}
        return flat

    def replace(self: _Own, **changes: Any) -> _Own:
        """The same with some options changed, those of parts too. Raises as ``from_flat``."""
        known = _names(type(self))
        for name in changes:
            if name not in known:
                raise RequestError(f"option {name!r}: {type(self).__name__} has {', '.join(map(repr, known))}")
        return _replace(self, changes)


# What is read of a class, once: a configuration is made anew for every change of an option.
_ANNOTATIONS: dict[type, dict[str, Any]] = {}


def _annotations(cls: type[Config]) -> dict[str, Any]:
    """Annotations of the fields, evaluated."""
    if cls not in _ANNOTATIONS:
        hints = typing.get_type_hints(cls, include_extras=True)
        _ANNOTATIONS[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _ANNOTATIONS[cls]


def _names(cls: type[Config]) -> list[str]:
    """Names of all options, those of parts in their place."""
    found = []
    for name, annotation in _annotations(cls).items():
        found += _names(annotation) if _is_part(annotation) else [name]
    return found


def _is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)


@functools.cache
def _options_of(cls: type[Config]) -> tuple[Option, ...]:
    # Every run folder that is read asks for them, and each is read from the source.
    return tuple(_options(cls))


def _options(cls: type[Config]) -> Iterator[Option]:
    texts = _help_texts(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, annotation in _annotations(cls).items():
        if _is_part(annotation):
            # A part's defaults are those that the configuration gives it.
            part = _default(fields[name])
            for option in _options_of(annotation):
                default = option.default if part is dataclasses.MISSING else part.values()[option.name]
                yield option._replace(default=default)
        elif not texts.get(name):
            raise WorkError(f"{cls.__name__}.{name}: nothing is said of this option")
        else:
            yield Option(name, cls, annotation, _default(fields[name]), texts[name])


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _help_texts(cls: type[Config]) -> dict[str, str]:
    """What is said of each field, on one line: the string that follows it in the source."""
    found: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        if not (issubclass(kind, Config) and dataclasses.is_dataclass(kind)):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, said in itertools.pairwise(definition.body):
            match field, said:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def _raw_values(config: Config) -> Iterator[tuple[str, Any]]:
    for name, annotation in _annotations(type(config)).items():
        value = getattr(config, name)
        if _is_part(annotation):
            yield from _raw_values(value)
        else:
            yield name, value


def _values(config: Config, *, affecting_only: bool) -> Iterator[tuple[str, Any]]:
    if affecting_only and not config.AFFECTS_RESULT:
        return
    for name, annotation in _annotations(type(config)).items():
        value = getattr(config, name)
        if _is_part(annotation):
            yield from _values(value, affecting_only=affecting_only)
        else:
            yield name, str(value) if isinstance(value, Path) else value


def _from_flat(cls: type[Config], values: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {}
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, annotation in _annotations(cls).items():
        if _is_part(annotation):
            part = _default(fields[name])
            arguments[name] = (
                _from_flat(annotation, values)
                if part is dataclasses.MISSING
                else _replace(part, _of(annotation, values))
            )
        elif name in values:
            arguments[name] = _from_json(values[name], annotation)
        elif _default(fields[name]) is dataclasses.MISSING:
            raise RequestError(f"option {name!r} is missing: {cls.__name__} needs it")
    return cls(**arguments)


def _of(cls: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are options of a part."""
    return {name: values[name] for name in _names(cls) if name in values}


def _replace(config: Config, changes: Mapping[str, Any]) -> Any:
    arguments: dict[str, Any] = {}
    for name, annotation in _annotations(type(config)).items():
        if _is_part(annotation):
            arguments[name] = _replace(getattr(config, name), _of(annotation, changes))
        elif name in changes:
            arguments[name] = _from_json(changes[name], annotation)
    return dataclasses.replace(config, **arguments)


def _from_json(value: Any, annotation: Any) -> Any:
    """A value as it was before it became JSON, which knows neither tuples nor paths."""
    if isinstance(value, list):
        return tuple(_from_json(one, Any) for one in value)
    kinds = {_plain(kind)[0] for kind in _alternatives(annotation)}
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return Path(value)
    # JSON written by others has 1 where 1.0 is meant.
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds:
        return float(value)
    return value


def _plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without what is said of it, and that."""
    if typing.get_origin(annotation) is Annotated:
        kind, *said = typing.get_args(annotation)
        return kind, tuple(said)
    return annotation, ()


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    kind, _ = _plain(annotation)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (annotation,)


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def _check_value(name: str, value: Any, annotation: Any) -> None:
    """Raise ``RequestError`` for a value that is not what its annotation says."""
    alternatives = _alternatives(annotation)
    if value is None and type(None) in alternatives:
        return
    complaints = []
    for alternative in alternatives:
        complaint = _complaint(value, *_plain(alternative))
        if complaint is None:
            return
        complaints.append(complaint)
    raise RequestError(f"{name} = {complaints[0]}")


def _complaint(value: Any, kind: Any, said: tuple[Any, ...]) -> str | None:
    """What is wrong with a value, beginning with the value; ``None`` for nothing."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return None if value in inside else f"{value!r}: give {_choices(inside)}"
    if origin is tuple:
        if not isinstance(value, tuple):
            return f"{value!r}: give a list"
        complaints = (_complaint(one, *_plain(inside[0])) for one in value)
        return next((complaint for complaint in complaints if complaint is not None), None)
    if kind is type(None):
        return None if value is None else f"{value!r}: must be nothing"
    numbers = (int, float) if kind is float else kind
    if not isinstance(value, numbers) or (isinstance(value, bool) and kind is not bool):
        return f"{value!r}: must be {_WORDS[kind]}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}: must be a finite number"
    return _out_of_range(value, said)


def _choices(values: tuple[Any, ...]) -> str:
    return " or ".join(map(repr, values)) if len(values) < 3 else ", ".join(map(repr, values))


def _out_of_range(value: Any, said: tuple[Any, ...]) -> str | None:
    bounds: dict[str, Any] = {}
    for one in said:
        match one:
            case Interval():
                bounds |= {key: getattr(one, key) for key in ("ge", "gt", "le", "lt") if getattr(one, key) is not None}
            case Ge() | Gt() | Le() | Lt():
                bounds |= {type(one).__name__.lower(): getattr(one, type(one).__name__.lower())}
    low, high = bounds.get("ge"), bounds.get("le")
    over, under = bounds.get("gt"), bounds.get("lt")
    wrong = (
        (low is not None and value < low)
        or (high is not None and value > high)
        or (over is not None and value <= over)
        or (under is not None and value >= under)
    )
    if not wrong:
        return None
    if high in (MOST, LARGEST):
        # Of these it is told only who went there.
        if value > high:
            return f"{value}: must be at most {high:g}"
        high, low = None, None if low in (-MOST, -LARGEST) else low
        if low is None and over is None:
            return f"{value}: must be at least {-LARGEST:g}"
    if low is not None and high is not None:
        return f"{value}: must be {low} to {high}"
    parts = [
        f"above {over}" if over is not None else "",
        f"at least {low}" if low is not None else "",
        f"at most {high}" if high is not None else "",
        f"below {under}" if under is not None else "",
    ]
    return f"{value}: must be {' and '.join(part for part in parts if part)}"
