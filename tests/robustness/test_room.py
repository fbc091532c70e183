"""The memory that a command says it needs, beside what it took at its peak."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Sizes at which what is estimated is far more than what any command takes.
REQUESTS = {
    "toy train, many features": "toy train --n-features 3000 --n-hidden 300 --n-instances 4 --n-steps 20",
    "toy train, large batch": "toy train --n-features 100 --n-hidden 10 --n-instances 4 --n-steps 20 --batch-size 100000",
    "addition train": "addition train --n-heads 400 --batch-size 4096 --steps-per-epoch 5 --epochs 1",
    "addition evaluate": "addition evaluate --n-problems 2000000",
    "addition program": "addition program --n-fit 300000 --n-problems 300000",
    "neurons order": "neurons order --weights embed.W_E --controls 2 --seconds 0.1 --window 20",
    "neurons scan": "neurons scan --documents 20 --top-k 100",
    "neurons scan, correlations": "neurons scan --documents 20 --top-k 5",
    "heads scan": "heads scan --documents 20 --pairs 20000",
    "sae train": "sae train --hook blocks.1.hook_resid_pre --d-sae 32768 --tokens 20000",
    "sae evaluate": "sae evaluate --sae stories --documents 20 --control-tokens 20000 --pursuit-tokens 100",
    "concepts": "concepts --random-lists 3 --random-probes 1 --halvings 2 --permutations 100000",
}
# What a command takes whatever it was asked for: libraries that it loads later, a batch as it is read, compiled code.
_ANY = 250 * 2**20
_MEASURED = """
import sys
from pathlib import Path
from mi_superposition import room

def status(field):
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024

needed = []
def check_memory(n_bytes, what, device="cpu"):
    if not needed:
        # Forget the peak of imports.
        Path("/proc/self/clear_refs").write_text("5")
    needed.append((n_bytes, status("VmRSS")))

# Before any module of a command takes it from there.
room.check_memory = check_memory
from mi_superposition.cli import main
code = main(sys.argv[1:])
print("measured", code, int(max(n for n, _ in needed)), status("VmHWM") - needed[0][1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("request_", REQUESTS)
def test_what_a_command_says_it_needs_is_what_it_takes(request_, tmp_path):
    words = [*REQUESTS[request_].split(), "--out", str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *words], capture_output=True, text=True, env=environment, check=True
    )
    _, code, needed, taken = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    print(f"{request_}: said {int(needed) / 2**20:.0f} MiB, took {int(taken) / 2**20:.0f} MiB")
    # Neither refused too late nor much too early.
    assert int(taken) < 1.1 * int(needed) + _ANY
    assert int(needed) < 4 * int(taken)
