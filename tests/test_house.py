"""The house as CONTRIBUTING describes it: imports point down, everything public is documented."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import mi_superposition

PACKAGE = Path(mi_superposition.__file__).parent
# From the ground up. A room may import from its own floor only itself, and from any floor below.
FLOORS = [
    {"errors"},
    {"runs", "engine"},
    {"training"},
    {"models", "notebook", "linalg", "streaming"},
    {"corpora"},
    {"heads", "neurons", "stories", "toy", "spectra", "concepts"},
    {"addition", "sae"},
    {"figures"},
    {"site"},
    {"studies"},
    {"report"},
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
        for name, thing in vars(module).items():
            mine = getattr(thing, "__module__", "").startswith("mi_superposition")
            if not name.startswith("_") and mine and (inspect.isfunction(thing) or inspect.isclass(thing)):
                yield f"{info.name}.{name}", thing


def test_everything_public_is_documented():
    undocumented = [name for name, thing in public_objects() if not inspect.getdoc(thing)]
    assert undocumented == []


def test_every_command_is_in_the_readme():
    from mi_superposition.cli import COMMANDS

    readme = (PACKAGE.parent / "README.md").read_text()
    for name in COMMANDS:
        assert f"mi-superposition {name}" in readme


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
