"""Numbers at the edge: every numeric option of every command at values that no machine has room or arithmetic for."""

import contextlib
import io
import math
import typing

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt
from robustness.workshop import WRITES_NOTHING, with_options

from mi_superposition import room
from mi_superposition.cli import commands, main
from mi_superposition.config import LARGEST, MOST, _alternatives, _plain

COUNTS = [-(2**63), -1, 2**63, 10**30]
NUMBERS = [-1e308, 1e308]


def numeric(option):
    """The kind of number that an option takes, and what its declaration says of the range; ``None`` for one that takes none."""
    for alternative in _alternatives(option.annotation):
        kind, said = _plain(alternative)
        if typing.get_origin(kind) is tuple:
            kind, said = _plain(typing.get_args(kind)[0])
        if kind in (int, float):
            return kind, said
    return None


def bounds(said):
    low, high = -math.inf, math.inf
    for one in said:
        match one:
            case Interval():
                low = max(low, *(x for x in (one.ge, one.gt) if x is not None), -math.inf)
                high = min(high, *(x for x in (one.le, one.lt) if x is not None), math.inf)
            case Ge() | Gt():
                low = getattr(one, type(one).__name__.lower())
            case Le() | Lt():
                high = getattr(one, type(one).__name__.lower())
    return low, high


OPTIONS = [
    (name, option)
    for name, command in commands().items()
    for option in command.load_config().options()
    if numeric(option)
]


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[f"{name} {option.name}" for name, option in OPTIONS])
def test_its_range_is_declared(name, option):
    kind, said = numeric(option)
    low, high = bounds(said)
    assert -math.inf < low < high < math.inf, option.annotation
    assert high <= (max(MOST, 2**63 - 1) if kind is int else LARGEST)


def refused(words):
    said, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
        code = main([str(word) for word in words])
    lines = error.getvalue().splitlines()
    assert code == 2, (words, code, lines)
    assert lines[-1].startswith("mi-superposition: "), words
    assert len(lines[-1]) < 400
    return lines[-1]


@pytest.mark.parametrize("name", sorted({name for name, _ in OPTIONS}))
def test_what_is_out_of_range_is_one_line_and_leaves_nothing(name, shop, tmp_path):
    for option in (option for of, option in OPTIONS if of == name):
        kind, said = numeric(option)
        low, high = bounds(said)
        for value in COUNTS if kind is int else NUMBERS:
            if low <= value <= high:
                continue
            out = tmp_path / "out"
            words = with_options(shop.request(name, out), [f"--{option.name.replace('_', '-')}", value])
            line = refused(words)
            assert option.name in line.replace("-", "_"), line
            assert not out.exists()


# What is within its range, and more than there is room for.
TOO_LARGE = [
    ("toy train", ["--n-features", 10**9]),
    ("toy train", ["--n-instances", 10**10]),
    ("toy train", ["--batch-size", 10**11]),
    ("addition train", ["--d-model", 10**9]),
    ("addition train", ["--n-heads", 10**9]),
    ("addition train", ["--batch-size", 10**10]),
    ("sae train", ["--d-sae", 10**11]),
    ("sae train", ["--buffer-batches", 10**10]),
    ("neurons scan", ["--top-k", 10**9]),
    ("neurons scan", ["--reach", 10**8]),
    ("neurons scan", ["--n-bins", 10**10]),
    ("heads scan", ["--top-k", 10**10]),
    ("heads scan", ["--pairs", 10**11]),
    ("heads scan", ["--repeated-sequences", 10**10]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "more"), TOO_LARGE, ids=[f"{name} {more[0]}" for name, more in TOO_LARGE])
def test_what_there_is_no_room_for_is_said_with_the_estimate(name, more, shop, tmp_path):
    out = tmp_path / "out"
    line = refused(with_options(shop.request(name, out), more))
    assert "of memory:" in line or "must be" in line, line
    assert "free" in line
    assert not (out / "manifest.json").exists()


def test_disk(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    line = refused([*shop.request("sae train", tmp_path / "out"), "--activations", tmp_path / "kept"])
    assert "of disk: 0 MiB are free at" in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "kept").exists()


def test_a_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(room, "_CONTAINER", (limit,))
    free = room.free_memory()
    limit.write_text("max\n")
    assert room.free_memory() == pytest.approx(free, rel=0.2)
    limit.write_text(f"{2**20}\n")
    assert room.free_memory() == 0


def test_every_command_with_a_number_is_tried():
    assert {name for name, _ in OPTIONS} >= set(commands()) - WRITES_NOTHING - {
        "page",
        "report",
        "heads pages",
        "neurons pages",
    }
