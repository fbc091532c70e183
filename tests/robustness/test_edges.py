"""Numbers at the edge: every numeric option of every command at values that no machine has room or arithmetic for."""

import contextlib
import io
import math
import re
import typing

import pytest
import torch
from annotated_types import Ge, Gt, Interval, Le, Lt
from robustness.workshop import WRITES_NOTHING, with_options

from mi_superposition import room
from mi_superposition.cli import commands, main
from mi_superposition.config import LARGEST, MOST, _alternatives, _plain
from mi_superposition.errors import RequestError
from mi_superposition.sae import SaeConfig, SaeJob
from mi_superposition.sae.train import check_training_memory

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
    ("concepts", ["--permutations", 10**10]),
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


@pytest.mark.parametrize("name", [name for name in commands() if name not in WRITES_NOTHING])
def test_a_place_inside_a_file_is_a_wrong_request(name, shop, tmp_path):
    (tmp_path / "file").write_text("mine")
    line = refused(shop.request(name, tmp_path / "file" / "run"))
    assert f"is inside {str(tmp_path / 'file')!r}, which is a file" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_window_that_is_too_large_leaves_nothing(shop, tmp_path):
    line = refused([*shop.request("neurons order", tmp_path / "out"), "--window", 10**9])
    assert line.startswith("mi-superposition: window = 1000000000: must be 2 to the number of neurons, ")
    assert not (tmp_path / "out").exists()


# Commands that say how much memory they will take.
ESTIMATED = [
    "toy train",
    "addition train",
    "addition evaluate",
    "neurons order",
    "neurons scan",
    "neurons contexts",
    "sae train",
    "sae evaluate",
    "spectra",
    "concepts",
]


@pytest.mark.parametrize("name", [*ESTIMATED, "spectra of a language model"])
def test_where_next_to_nothing_is_free_it_is_said_with_the_estimate(name, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda device="cpu": 100)
    out = tmp_path / "out"
    words = ["spectra", "--model", shop.model, "--corpus", shop.texts, "--out", out]
    line = refused(shop.request(name, out) if name in ESTIMATED else words)
    assert re.search(r"needs about [\d,]+ MiB of memory: 0 MiB are free$", line), line
    assert not out.exists()


class _Gpu:
    """What torch says of a GPU with 1000 bytes that nobody has, and 200 that torch has taken and does not use."""

    def __init__(self, monkeypatch):
        for name, value in (("mem_get_info", (1000, 2**40)), ("memory_reserved", 500), ("memory_allocated", 300)):
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_the_memory_of_a_gpu(shop, tmp_path, monkeypatch):
    _Gpu(monkeypatch)
    assert room.free_memory("cuda") == room.free_memory("cuda:1") == 1200
    assert room.free_memory("mps") == pytest.approx(room.free_memory("cpu"), rel=0.2)
    room.check_memory(1200, "this", "cuda")
    with pytest.raises(RequestError, match="^this needs about 3.0 GiB of memory on cuda: 0 MiB are free$"):
        room.check_memory(3 * 2**30, "this", "cuda")
    line = refused([*shop.request("toy train", tmp_path / "out"), "--device", "cuda"])
    assert re.search(r"\(n_features, n_hidden, batch_size\) needs about .* of memory on cuda: 0 MiB are free$", line), (
        line
    )
    assert not (tmp_path / "out").exists()


def test_a_training_on_a_gpu_needs_both_memories(monkeypatch):
    jobs, widths = [SaeJob("sae", "hook", SaeConfig(d_sae=1000))], {"hook": 10}
    weights = 4 * 2 * 10 * 1000
    asked = []
    monkeypatch.setattr("mi_superposition.sae.train.check_memory", lambda *words: asked.append(words))
    check_training_memory(jobs, widths, 5, "cuda:0", "what")
    check_training_memory(jobs, widths, 5, "cpu", "what")
    assert asked == [(7 * weights, "what", "cuda:0"), (6 * weights + 5, "what"), (10 * weights + 5, "what")]


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
