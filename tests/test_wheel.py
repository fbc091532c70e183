"""The wheel holds everything, and works outside the checkout, in an environment where there was nothing of ours."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what git has, so that nothing lies about that was not committed or would be."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "mi_superposition", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    for name in names:
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--wheel-dir",
        folder,
    ]
    done = subprocess.run([*command, folder / "source"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [built] = folder.glob("*.whl")
    return built, [name for name in names if name.startswith("mi_superposition/")]


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python that has what we depend on, taken from here, and of ours only what a notebook's first cell installed."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    made = environment / "bin" / "python"
    site = subprocess.run(
        [made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    # A folder named in a .pth file is searched, but the .pth files in it, such as that of an editable install, are not read.
    (Path(site.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    assert run(made, "-c", "import mi_superposition", cwd=environment).returncode == 1
    cell = nbformat.read(ROOT / "notebooks" / "00_tour.ipynb", as_version=4).cells[0].source
    source = '"mi-superposition[notebook]"'
    assert cell.count(f"SOURCE = {source}") == 1
    offline = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_IGNORE_INSTALLED": "1"}
    cell = cell.replace(f"SOURCE = {source}", f"SOURCE = {f'{wheel[0]}[notebook]'!r}")
    done = run(made, "-m", "IPython", "-c", cell, cwd=environment, **offline)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def run(python, *words, cwd, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [python, *words], cwd=cwd, env=environment | variables, capture_output=True, text=True, check=False
    )


def test_it_holds_every_file_of_the_package(wheel):
    built, names = wheel
    with zipfile.ZipFile(built) as archive:
        inside = {name for name in archive.namelist() if name.startswith("mi_superposition/")}
    assert inside == set(names)


@pytest.mark.slow
def test_it_is_used_outside_the_checkout(python, tmp_path):
    where = run(python, "-c", "import mi_superposition; print(mi_superposition.__file__)", cwd=tmp_path)
    assert str(python.parent.parent) in where.stdout, where.stderr
    program = python.parent / "mi-superposition"
    for words in (
        ["report", "--sections", "toy", "--out", "site"],
        ["spectra", "--model", "simplenet", "--epochs", "1", "--out", "ranks"],
        ["neurons", "try", "--neuron", "1.5", "It is a dog."],
    ):
        done = run(python, program, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "toy-directions.html").exists()
