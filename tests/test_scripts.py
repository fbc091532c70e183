"""The study scripts run on a model of one's own, from top to bottom."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import small_config

from mi_superposition.addition.train import train_addition

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("script", "expected"),
    [("head_ablation.py", "percentile"), ("head_projections.py", "roundness")],
)
def test_study_scripts_run(script, expected, tmp_path):
    train_addition(small_config(epochs=2), tmp_path / "run")
    command = [sys.executable, str(ROOT / "scripts" / script), "--model", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("scripts/*.py")) + sorted(ROOT.glob("benchmarks/*.py")), ids=lambda p: p.name
)
def test_every_script_says_what_it_does(path):
    done = subprocess.run([sys.executable, str(path), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("usage:")
