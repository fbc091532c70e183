"""What every benchmark shares: one row of the common table, medians of interleaved calls, and the machine's name."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One task done in two ways, and what ours cannot leave out (``lower_bound``); all in seconds, of the same work.

    ``remark`` says how good the results are where the ways do not give the same.
    """

    task: str
    ours: float
    usual_way: str
    usual: float
    lower_bound_is: str
    lower_bound: float
    remark: str = ""


def interleaved(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    block: int = 1,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of a call of each way, taken in turn so that the machine's moods fall on all alike.

    A turn is ``block`` calls in a row; the first ``warm_up`` rounds do not count. ``clock`` gives seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            seconds = timed(way, block, clock)
            if number >= warm_up:
                taken[name].append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def timed(work: Callable[[], Any], calls: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a call."""
    began = clock()
    for _ in range(calls):
        work()
    return (clock() - began) / calls


def machine() -> str:
    """Processor, Python and torch."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{os.cpu_count()} × {name}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that `run.py` gives to every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=Path, help="write the rows of the common table to this file, and print nothing")
    made.add_argument("--quick", action="store_true", help="with --rows: small sizes, to see that it runs")
    return made


def write_rows(path: Path, rows: list[Row]) -> None:
    """For `run.py`."""
    path.write_text(json.dumps({"machine": machine(), "rows": [dataclasses.asdict(row) for row in rows]}))
