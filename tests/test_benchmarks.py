"""The benchmarks run at the smallest size, and the table that is committed is the one that was measured."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def runner(monkeypatch):
    """`benchmarks/run.py` as a module."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import run

    yield run
    sys.modules.pop("run")


def quick(out, *names):
    command = [sys.executable, FOLDER / "run.py", "--quick", "--out", out, "--only", *names]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_quick_benchmarks_write_rows_and_the_table(runner, tmp_path):
    shutil.copy(FOLDER / "README.md", tmp_path / "README.md")
    done = quick(tmp_path, "spectra", "toy", "heads")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) == {"spectra", "toy", "heads"}
    for found in results.values():
        for row in found["rows"]:
            assert all(row[name] > 0 for name in ("ours", "usual", "lower_bound"))
    text = (tmp_path / "README.md").read_text()
    assert runner.table(results) in text
    # What stands around the table is left as it was, and what was measured is not measured again.
    assert text.partition(runner.BEGIN)[0] == (FOLDER / "README.md").read_text().partition(runner.BEGIN)[0]
    stamp = (tmp_path / "results.json").stat().st_mtime_ns
    assert quick(tmp_path, "spectra").returncode == 0
    assert (tmp_path / "results.json").stat().st_mtime_ns == stamp


def test_a_benchmark_that_fails_is_one_line(runner, tmp_path, monkeypatch):
    shutil.copy(FOLDER / "README.md", tmp_path / "README.md")
    for name in ("timing.py", "run.py"):
        shutil.copy(FOLDER / name, tmp_path / name)
    (tmp_path / "toy.py").write_text("raise SystemExit('out of luck')")
    command = [sys.executable, tmp_path / "run.py", "--only", "toy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "benchmark 'toy' failed: out of luck"


def test_the_committed_table_is_that_of_the_committed_numbers(runner):
    results = json.loads((FOLDER / "results.json").read_text())
    assert tuple(results) == runner.BENCHMARKS
    assert runner.table(results) in (FOLDER / "README.md").read_text()


def test_every_script_has_rows_and_a_section(runner):
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"run", "timing"}
    # The first keeps all others from their cores, the second needs a GPU, the third is measured by itself.
    assert scripts - {"busy", "gpu", "pages"} == set(runner.BENCHMARKS)
    told = set(re.findall(r"^## `python benchmarks/(\w+)\.py", (FOLDER / "README.md").read_text(), re.M))
    assert told == scripts
