"""Results on disk: a dataclass of tensors, numbers and other dataclasses as one safetensors file.

A tensor is stored under its path of field names (``maps/accuracy``), so that other programs read it; everything else is JSON in
the file's metadata. Reading goes by the annotations of the class asked for: a file names no class and runs no code.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jaxtyping
import torch
from torch import Tensor

from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.schemas import convert_as, parse_record

_ENTRY = "record"
_Record = TypeVar("_Record")


def write_record(path: Path, record: Any) -> None:
    """Write a dataclass instance whole or not at all."""
    tensors: dict[str, Tensor] = {}
    told = _told(record, "", tensors)
    # One entry: safetensors writes several in no fixed order.
    write_tensors(path, tensors, {_ENTRY: json.dumps(told)})


def read_record(path: Path, cls: type[_Record]) -> _Record:
    """Inverse of ``write_record``. Fields with a default may be missing.

    Raises ``WorkError`` for a damaged file, ``RequestError`` for one that lacks what this version needs (written by an older one).
    """
    tensors, metadata = read_tensors(path)
    if _ENTRY not in metadata:
        raise RequestError(
            f"{str(path)!r} was written by an older version, which kept other things: run the command again in a new folder"
        )
    try:
        return _restored(cls, parse_record(metadata[_ENTRY]), "", tensors)
    except KeyError as error:
        raise RequestError(
            f"{str(path)!r} lacks {error}, which this version shows: run the command again in a new folder"
        ) from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WorkError(f"{str(path)!r} is damaged: {error}") from error


def _told(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value without its tensors, which go into ``tensors`` by their path."""
    if isinstance(value, Tensor):
        # A file holds no tensor twice: one that is a part of the record in two places is copied.
        shared = any(
            value.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() for other in tensors.values()
        )
        tensors[path] = value.clone() if shared else value
        return None
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {name: _told(getattr(value, name), _under(path, name), tensors) for name in fields}
    if isinstance(value, Mapping):
        return {str(key): _told(one, _under(path, key), tensors) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_told(one, _under(path, place), tensors) for place, one in enumerate(value)]
    return str(value) if isinstance(value, Path) else value


def _under(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _restored(hint: Any, value: Any, path: str, tensors: Mapping[str, Tensor]) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise TypeError(f"{path or 'the file'} holds no record")
        hints = _hints(typing.cast(type, hint))
        arguments = {}
        for field in dataclasses.fields(hint):
            if field.name in value:
                arguments[field.name] = _restored(
                    hints[field.name], value[field.name], _under(path, field.name), tensors
                )
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise KeyError(_under(path, field.name))
        return typing.cast(type, hint)(**arguments)
    if _is_tensor(hint):
        return tensors[path]
    if hint is Path:
        return Path(convert_as(value, str, path))
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if path in tensors:
            return tensors[path]
        [kind] = [kind for kind in inside if kind is not type(None)] if len(inside) == 2 else [Any]
        if value is None and type(None) in inside:
            return None
        if kind is Any:
            return convert_as(value, hint, path)
        return _restored(kind, value, path, tensors)
    if _is_of(origin, Mapping):
        if not isinstance(value, dict):
            raise TypeError(f"{path}: must be an object")
        key, kind = inside
        return {
            (convert_as(name, int, path, strict=False) if key is int else name): _restored(
                kind, one, _under(path, name), tensors
            )
            for name, one in value.items()
        }
    if _is_of(origin, Sequence):
        if not isinstance(value, list):
            raise TypeError(f"{path}: must be a list")
        kinds = [inside[0]] * len(value) if origin is not tuple or Ellipsis in inside else inside
        found = [
            _restored(kind, one, _under(path, place), tensors)
            for place, (kind, one) in enumerate(zip(kinds, value, strict=True))
        ]
        return tuple(found) if origin is tuple else found
    return convert_as(value, hint, path)


def _is_of(origin: Any, kind: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _is_tensor(hint: Any) -> bool:
    return hint is torch.Tensor or (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray))
