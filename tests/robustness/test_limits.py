"""Every command without a network, with too little disk, and with too little memory."""

import functools
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from robustness import workshop
from robustness.fixtures import FULL
from robustness.workshop import WRITES_NOTHING, contents, finish, with_options

from mi_superposition.cli import commands
from mi_superposition.files import PARTIAL, read_json
from mi_superposition.runs import MANIFEST

FOLDERS = [name for name in commands() if name not in WRITES_NOTHING]
# Each begins a process that imports everything anew.
DISKS = FOLDERS if FULL else ["report", "neurons scan", "sae evaluate"]
UNSHARE = ["unshare", "--map-root-user"]


def may(*options):
    """Whether this user may have namespaces of that kind."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, *options, "true"], capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not may("--net", "--mount"), reason="namespaces are not permitted here")


def run_script(script, *arguments, options=()):
    paths = [str(Path(workshop.__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # The hub is not switched off: it is not there.
    environment.pop("HF_HUB_OFFLINE")
    environment.pop("TRANSFORMERS_OFFLINE")
    command = [*UNSHARE, *options, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


_NO_NETWORK = """
import socket, sys
from pathlib import Path
from mi_superposition.cli import commands, main
from robustness.workshop import Workshop
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError:
    print("no network")
shop, out = Workshop(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3])
for name in commands():
    print("command", name, main(shop.request(name, out / name.replace(" ", "-"))))
for number, words in enumerate((
    ["heads", "ablate", "--model", "openai-community/gpt2"],
    ["neurons", "order", "--model", "openai-community/gpt2"],
    ["concepts", "--model", "distilbert/distilbert-base-uncased"],
    # datasets tries for half a minute.
    ["neurons", "scan", "--corpus", "roneneldan/TinyStories"],
    ["spectra", "--model", "simplenet", "--images", "ylecun/mnist"],
    ["report", "--full", "--sections", "concepts"],
)[: int(sys.argv[4])]):
    folder = out / f"hub-{number}"
    print("hub", " ".join(words), main([*words, "--out", str(folder)]))
    sys.stderr.write("----\\n")
"""


@needs_namespaces
def test_every_command_runs_where_there_is_no_network(shop, tmp_path, counts):
    done = run_script(_NO_NETWORK, shop.root, shop.model, tmp_path, 6 if FULL else 3, options=["--net"])
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no network" in done.stdout
    codes = [line.split() for line in done.stdout.splitlines() if line.startswith("command ")]
    assert [code for *_, code in codes] == ["0"] * len(commands())
    counts["commands without a network"] += len(codes)
    # What is only on the hub: one line that says so.
    asked = [line.split() for line in done.stdout.splitlines() if line.startswith("hub ")]
    said = done.stderr.split("----\n")[:-1]
    assert len(asked) == len(said) == (6 if FULL else 3)
    for words, error in zip(asked, said, strict=True):
        last = error.strip().splitlines()[-1]
        assert words[-1] in ("1", "2"), (words, error)
        assert last.startswith("mi-superposition: "), (words, error)
        assert "Traceback" not in error, (words, error)
    counts["requests for the hub without a network"] += len(asked)


_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from mi_superposition.cli import commands
from mi_superposition.files import PARTIAL
from robustness.workshop import Workshop, contents, finish
if __name__ == "__main__":
    name, root, model, place, kept, size = sys.argv[1:]
    place = Path(place)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place], check=True)
    words = Workshop(Path(root), Path(model)).request(name, place / "out")
    code, _, error = finish(words, Path(kept) / "small")
    print(code, (error.splitlines() or [""])[-1])
    left = [path.name for path in place.rglob("*") if path.name.endswith(PARTIAL)]
    manifest = place / "out" / "manifest.json"
    finished = manifest.exists() and '"finished"' in manifest.read_text()
    # Whole with its pages, of which the index is written last; a scan is whole without any.
    has_pages = getattr(commands()[name], "shown_at_once", True)
    shown = not has_pages or any((place / "out" / page).exists() for page in ("page/index.html", "index.html"))
    print(left, finished and shown)
    subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)
    code, _, error = finish(words, Path(kept) / "large")
    print(code, (error.splitlines() or [""])[-1])
    subprocess.run(["cp", "-r", place / "out", Path(kept) / "out"], check=True)
"""


@pytest.mark.slow
@needs_namespaces
@pytest.mark.parametrize("name", DISKS)
def test_a_full_disk_is_said_in_one_line_and_costs_nothing_once_there_is_room(name, shop, tmp_path, counts):
    """A real disk of a third of the room the result takes; then it grows, and the work goes on to the same bytes."""
    whole, place, kept = tmp_path / "whole", tmp_path / "disk", tmp_path / "kept"
    place.mkdir()
    kept.mkdir()
    code, _, error = finish(shop.request(name, whole))
    assert code == 0, error
    size = max(sum(path.stat().st_size for path in whole.rglob("*") if path.is_file()) // 3000, 8)
    done = run_script(_SMALL_DISK, name, shop.root, shop.model, place, kept, size, options=["--mount"])
    assert done.returncode == 0, done.stderr[-2000:]
    first, state, second = done.stdout.splitlines()
    assert first.startswith("1 mi-superposition: "), first
    assert "No space left on device" in first
    assert state == "[] False"
    assert second.startswith("0 "), second
    found, expected = contents(kept / "out"), contents(whole)
    assert found.keys() == expected.keys()
    assert [file for file in found if found[file] != expected[file]] == []
    counts["full disks"] += 1


def limit_memory(megabytes):
    """So much more than the process has by now, with OpenBLAS's threads running: it asks for their memory for ever."""
    square = np.eye(512)
    scipy.linalg.solve_triangular(square, square @ square)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("addition train", ["--n-train", "2000000", "--n-digits", "6"]),
        ("toy train", ["--n-instances", "20000", "--batch-size", "4096"]),
        ("sae train", ["--d-sae", "400000"]),
        ("neurons scan", ["--top-k", "2000", "--reach", "60"]),
        ("spectra", ["--model", "resnet50"]),
        ("concepts", ["--permutations", "2000000"]),
    ],
)
def test_too_little_memory_is_said_in_one_line(name, more, shop, tmp_path, counts):
    out = tmp_path / "out"
    code, said, error = finish(with_options(shop.request(name, out), more), before=functools.partial(limit_memory, 96))
    last = (error.splitlines() or [""])[-1]
    assert (code, said) == (1, ""), error[-1500:]
    assert "not enough memory" in last, error[-1500:]
    assert not list(out.rglob(f"*{PARTIAL}"))
    assert not (out / MANIFEST).exists() or read_json(out / MANIFEST)["status"] == "running"
    counts["memory limits"] += 1
