"""What importing costs: packages and their configurations load neither torch nor a model library until one is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

import mi_superposition

PACKAGE = Path(mi_superposition.__file__).parent
HEAVY = ("numpy", "sae_lens", "torch", "transformers")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parts)


CONFIGURATIONS = [module_of(path.with_suffix("")) for path in sorted(PACKAGE.glob("*/config.py"))]
# A package that lists its exports in a stub loads them when they are asked for.
PACKAGES = [module_of(path.parent) for path in sorted(PACKAGE.rglob("__init__.pyi"))]


@pytest.mark.parametrize("module", sorted({"mi_superposition", *CONFIGURATIONS, *PACKAGES}))
def test_nothing_heavy_is_imported(module):
    code = f"import sys, {module}; print(*({set(HEAVY)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_subject_is_looked_at():
    assert {f"mi_superposition.{subject}.config" for subject in ("addition", "sae", "toy")} <= set(CONFIGURATIONS)
    assert {f"mi_superposition.{room}" for room in ("heads", "models", "neurons.scan", "spectra")} <= set(PACKAGES)
