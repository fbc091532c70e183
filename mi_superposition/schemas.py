"""JSON of this package, read back: the one reader of it, and one line that names the file and the field for whatever is wrong.

What a file must hold is declared beside what writes it, as a class or annotation that msgspec knows. Where fields stand in a file does not
matter; of a field that is there twice the last counts; one that is not declared is left aside; one without a default must be there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from mi_superposition.errors import WorkError

# What ``metrics.json`` holds.
Number = int | float
Metrics = dict[str, Number | list[Number]]


def read_as(path: Path, schema: Any) -> Any:
    """The JSON file as its schema says. Raises ``WorkError`` where it is missing or is something else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorkError(f"cannot read {str(path)!r}: {error.strerror}") from error
    return parse_as(content, schema, path)


def parse_as(content: bytes | str, schema: Any, source: Path | str) -> Any:
    """JSON as its schema says; ``source`` is where it was found. Raises ``WorkError`` for what is something else."""
    try:
        return msgspec.json.decode(content, type=schema)
    # Too deeply nested for the parser.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkError(f"{str(source)!r} is damaged: {_said(error)}") from error


def parse_record(content: str) -> Any:
    """JSON within a file of tensors, in which numbers may be NaN or infinite. Raises ``ValueError`` for anything else."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def convert_as(value: Any, schema: Any, field: str, *, strict: bool = True) -> Any:
    """A value of JSON that is parsed already. Raises ``ValueError`` for another one than the schema says; ``field`` says where it stood.
    Not ``strict``: numbers may be written as text, as the names of fields are.
    """
    try:
        return msgspec.convert(value, schema, strict=strict)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(f"{field}: {_said(error)}") from error


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # As "Expected `int`, got `str` - at `$.rows[0].step`".
    expected, _, where = str(error).partition(" - at ")
    return f"{where.strip('`').removeprefix('$').removeprefix('.') or 'as a whole'}: {expected}" if where else expected
