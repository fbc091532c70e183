"""Small trainings alone and beside as many busy processes as there are cores: two threads that spin against the default.

    python benchmarks/busy.py               # ten minutes
    python benchmarks/busy.py --only toy    # those whose name begins so

Each is the command, timed within a process of its own after a shorter one. The usual way is torch's: a thread that has nothing to do
asks again and again whether there is something, and keeps the one it waits for from its core where others work too. Ours is one
thread, and threads that sleep where there are several. Beside the others a thread has half a core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from timing import machine, timed

from mi_superposition.cli import main as command_line

# The words of each command, and the option that says how long it is.
TRAININGS = {
    "toy train, 1,000 steps": (["toy", "train"], "--n-steps", 1000),
    "addition train, 50 epochs of 2 digits": (
        ["addition", "train", "--n-digits", "2", "--n-heads", "4", "--d-model", "16", "--n-train", "1000", "--n-test", "100"],
        "--epochs",
        50,
    ),
    "spectra of SimpleNet, 5 epochs": (["spectra"], "--epochs", 5),
}  # fmt: skip
# 300,000 is what torch's OpenMP takes where nobody says otherwise.
WAYS = {"two threads that spin": (["--threads", "2"], {"GOMP_SPINCOUNT": "300000"}), "ours": ([], {})}


def seconds(task: str, way: str) -> float:
    """Of one training, in a process of its own."""
    child = [sys.executable, __file__, "--child", task, way]
    return float(subprocess.run(child, capture_output=True, text=True, check=True).stdout)


def in_child(task: str, way: str) -> None:
    """Train a fifth, then all of it, and print how long that took."""
    (words, length, n), (more, changes) = TRAININGS[task], WAYS[way]
    # Before torch is loaded.
    os.environ.update(changes)
    with tempfile.TemporaryDirectory() as scratch:

        def train(steps: int) -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                out = str(Path(scratch) / str(steps))
                if command_line([*words, length, str(steps), *more, "--out", out]):
                    sys.exit(said.getvalue())

        train(n // 5)
        print(timed(lambda: train(n)))


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """Inside, every core has other work."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measured(task: str) -> dict[str, dict[str, float]]:
    """Seconds of both ways, alone and beside neighbours."""
    found: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for place, around in (("quiet", contextlib.nullcontext), ("busy", neighbours)):
        with around():
            for way in WAYS:
                found[way][place] = seconds(task, way)
    return found


def main() -> None:
    """A line a training and way, as soon as it is measured."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", default="", help="how the names of the trainings begin")
    made.add_argument("--child", nargs=2, help="for the script itself")
    options = made.parse_args()
    if options.child:
        in_child(*options.child)
        return
    print(machine())
    print(f"\n{'training':40} {'way':22} {'quiet, s':>9} {'busy, s':>9} {'busy / quiet':>13}")
    for task in (name for name in TRAININGS if name.startswith(options.only)):
        for way, taken in measured(task).items():
            ratio = taken["busy"] / taken["quiet"]
            print(f"{task:40} {way:22} {taken['quiet']:9.2f} {taken['busy']:9.2f} {ratio:13.2f}", flush=True)


if __name__ == "__main__":
    main()
