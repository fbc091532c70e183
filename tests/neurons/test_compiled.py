"""What numba compiled is not used once anything that it was compiled from has changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from mi_superposition.neurons import compiled

_KERNEL = """
from {package}.neurons.compiled import compiled
from {package}.neurons.constants import ADDED

@compiled()
def add(x):
    return x + ADDED
"""


def test_it_is_compiled_anew_after_another_file_has_changed(tmp_path):
    folder = tmp_path / "package" / "neurons"
    folder.mkdir(parents=True)
    shutil.copy(compiled.__file__, folder / "compiled.py")
    (folder / "kernel.py").write_text(_KERNEL.format(package="package"))

    def added(number):
        (folder / "constants.py").write_text(f"ADDED = {number}\n")
        script = "from package.neurons.kernel import add; print(add(1), sum(add.stats.cache_hits.values()))"
        done = subprocess.run(
            [sys.executable, "-B", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    assert added(10) == ["11", "0"]
    assert added(10) == ["11", "1"]
    # numba itself looks at kernel.py alone, and would answer 11.
    assert added(20) == ["21", "0"]
    assert any(Path(folder).rglob("*.nbi"))


def test_without_compiling_it_runs_as_python():
    script = "from mi_superposition.neurons.path import greedy_path; import numpy as np; print(greedy_path(np.ones((3, 3), np.float32), 0))"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[0 1 2]\n"
