"""The house as CONTRIBUTING describes it: imports point down, everything public is documented."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import mi_superposition
from mi_superposition.cli import commands
from mi_superposition.subjects import subjects

PACKAGE = Path(mi_superposition.__file__).parent
# From the ground up. A room may import from its own floor only itself, and from any floor below.
FLOORS = [
    {"errors"},
    {"config", "progress", "results", "schemas", "room"},
    {"parts", "subjects"},
    {"files", "provenance"},
    {"runs", "engine", "storing", "sources", "real"},
    {"training"},
    {"models", "notebook", "linalg", "streaming"},
    {"corpora"},
    {"neurons", "stories", "toy", "spectra", "concepts"},
    {"heads"},
    {"addition", "sae"},
    {"figures", "studies"},
    {"site"},
    {"pages"},
    {"report", "loading"},
    {"cli"},
]


def room_of(module: str) -> str:
    return module.removeprefix("mi_superposition").strip(".").split(".")[0]


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports anywhere, inside functions too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "mi_superposition":
            names = [f"mi_superposition.{alias.name}" for alias in node.names]
        rooms |= {room_of(name) for name in names if name.startswith("mi_superposition.")}
    return rooms


def floor_of(room: str) -> int:
    [floor] = [index for index, rooms in enumerate(FLOORS) if room in rooms]
    return floor


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        assert floor_of(other) < floor_of(room), f"{path.name} ({room}) imports {other}"


def test_only_models_builds_language_models():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "models":
            assert "HookedTransformer(" not in path.read_text(), path


@pytest.mark.parametrize(("package", "room"), [("datasets", "corpora"), ("huggingface_hub", "corpora models")])
def test_only_their_rooms_import(package, room):
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in room.split():
            text = path.read_text()
            assert f"import {package}" not in text, path
            assert f"from {package}" not in text, path


def public_objects():
    for info in pkgutil.walk_packages([str(PACKAGE)], "mi_superposition."):
        module = importlib.import_module(info.name)
        yield info.name, module
        # dir, not vars: what a package exports is loaded when it is asked for.
        for name in dir(module):
            thing = getattr(module, name)
            mine = getattr(thing, "__module__", "").startswith("mi_superposition")
            if not name.startswith("_") and mine and (inspect.isfunction(thing) or inspect.isclass(thing)):
                yield f"{info.name}.{name}", thing


def test_everything_public_is_documented():
    undocumented = [name for name, thing in public_objects() if not inspect.getdoc(thing)]
    assert undocumented == []


def test_every_command_is_in_the_readme():
    readme = (PACKAGE.parent / "README.md").read_text()
    for name in commands():
        assert f"mi-superposition {name}" in readme


def test_every_subject_has_its_page_of_docs():
    index = (PACKAGE.parent / "docs" / "index.md").read_text()
    for subject in subjects():
        for page in subject.docs:
            assert (PACKAGE.parent / "docs" / page).is_file()
            assert f"\n{page.removesuffix('.md')}\n" in index


def test_what_a_subject_names_for_python_is_there():
    for subject in subjects():
        for name in subject.python:
            assert hasattr(mi_superposition, name.removeprefix("ms."))


def test_measuring_knows_no_page():
    """What measures imports neither figures nor sites nor pages; what shows imports nothing that trains or scans."""
    for path in (PACKAGE / "studies").rglob("*.py"):
        assert not imported_rooms(path) & {"figures", "site", "pages", "report", "cli"}, path


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    tree = ast.parse(path.read_text())
    words = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                words |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = path.read_text().splitlines()
    return sum(
        1
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.strip().startswith("#") and number not in words
    )


def test_no_room_is_most_of_the_house_and_no_file_a_book():
    """No file over 300 lines of code but the scan's kernel, one algorithm; no room over a fifth of the package."""
    sizes = {path: lines_of_code(path) for path in PACKAGE.rglob("*.py")}
    assert [str(path) for path, size in sizes.items() if size > 300 and path.name != "kernel.py"] == []
    rooms: dict[str, int] = {}
    for path in sizes:
        room = path.relative_to(PACKAGE).parts[0]
        rooms[room] = rooms.get(room, 0) + len(path.read_text().splitlines())
    assert {room: size for room, size in rooms.items() if size > 0.2 * sum(rooms.values())} == {}


def test_figures_never_see_models():
    for path in (PACKAGE / "figures").glob("*.py"):
        assert "transformer_lens" not in path.read_text()
        assert "models" not in imported_rooms(path)


def test_help_and_house_name_the_same_rooms():
    """CONTRIBUTING's table names every room that exists."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    for path in PACKAGE.iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert f"`{path.name}`" in text


def test_only_files_changes_the_disk():
    """So that a test can make any change fail (tests/robustness/test_every_change.py)."""
    changing = {"mkdir", "unlink", "rmdir", "rename", "touch", "write_text", "write_bytes", "rmtree", "fsync"}
    scratch = {"models/hugging_face.py"}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name != "files.py" and name not in scratch:
            called = {
                node.func.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            }
            assert not called & changing, name
