"""What a file of ours may have become: every field with a hostile value in its place, or gone, and the file as a whole cut or reordered."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

DEEP, IN_REVERSE = "deep", "in reverse"
# Each is JSON text: some cannot be written by Python's own.
HOSTILE = {
    "nothing": "null",
    "text": '"x"',
    "minus one": "-1",
    "2**70": str(2**70),
    "1e308": "1e308",
    "NaN": "NaN",
    "true": "true",
    "empty list": "[]",
    "empty object": "{}",
    DEEP: "[" * 10_000 + "]" * 10_000,
}
# What stands for a hostile value until the file is text.
_MARK = "\ue000hostile\ue000"
# Of a list, so many from each end.
_ENDS = 1


def mutated(run: Path) -> Iterator[tuple[str, Path, bytes]]:
    """What was done to which file of a run folder, and the file's bytes then. Pages are nobody's to read back."""
    # Some values were there before.
    return ((what, path, content) for what, path, content in _mutated(run) if content != path.read_bytes())


def _mutated(run: Path) -> Iterator[tuple[str, Path, bytes]]:
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if not path.is_file() or name.parts[0] in ("page", "activations"):
            continue
        if path.suffix == ".json":
            yield from ((what, path, text.encode()) for what, text in mutated_json(path.read_text()))
        elif path.suffix == ".jsonl":
            lines = path.read_text().splitlines()
            for number in sorted({0, len(lines) - 1}) if lines else ():
                for what, text in mutated_json(lines[number]):
                    changed = [*lines[:number], text, *lines[number + 1 :]]
                    yield f"line {number + 1}, {what}", path, ("\n".join(changed) + "\n").encode()
        elif path.suffix == ".safetensors" and "snapshots" not in name.parts:
            yield from _mutated_metadata(path)


def _mutated_metadata(path: Path) -> Iterator[tuple[str, Path, bytes]]:
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for entry, told in metadata.items():
        if not told.startswith(("{", "[")):
            continue
        for what, text in mutated_json(told):
            scratch = path.with_suffix(".mutated")
            save_file(tensors, scratch, metadata | {entry: text})
            content = scratch.read_bytes()
            scratch.unlink()
            yield f"{entry}: {what}", path, content


def mutated_json(text: str) -> Iterator[tuple[str, str]]:
    """What was done to a JSON text, and the text then."""
    value = json.loads(text)
    for place in places(value):
        for name, hostile in HOSTILE.items():
            yield f"{_said(place)} = {name}", json.dumps(_with(value, place, _MARK)).replace(json.dumps(_MARK), hostile)
        if place and isinstance(place[-1], str):
            yield f"{_said(place)} gone", json.dumps(_without(value, place))
    yield "cut in half", text[: len(text) // 2]
    yield "empty", ""
    if isinstance(value, dict) and value:
        first = next(iter(value))
        yield "a field twice", json.dumps({"x": 0})[:-7] + f"{json.dumps(first)}: null, " + json.dumps(value)[1:]
        yield IN_REVERSE, json.dumps(dict(reversed(value.items())))
        yield "a field of nobody's", json.dumps(value | {"nobody's": {"a": [1]}})


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values stand, from the whole on; of lists the ends."""
    yield place
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, (*place, key))
    elif isinstance(value, list):
        for number in sorted({*range(min(_ENDS, len(value))), *range(max(len(value) - _ENDS, 0), len(value))}):
            yield from places(value[number], (*place, number))


def _with(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    changed = copy.copy(value)
    changed[place[0]] = _with(value[place[0]], place[1:], new)
    return changed


def _without(value: Any, place: tuple[Any, ...]) -> Any:
    if len(place) == 1:
        return {key: one for key, one in value.items() if key != place[0]}
    return _with(value, place[:-1], _without_last(value, place))


def _without_last(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        value = value[key]
    return {key: one for key, one in value.items() if key != place[-1]}


def _said(place: tuple[Any, ...]) -> str:
    return ".".join(map(str, place)) or "the whole"
