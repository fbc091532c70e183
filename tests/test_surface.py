"""What ``import mi_superposition as ms`` offers, and that notebooks need nothing else of the package's inside."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

import mi_superposition as ms

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_what_a_user_would_type_is_there_and_documented():
    names = [name for name in dir(ms) if not name.startswith("_")]
    assert 20 <= len(names) <= 32
    guessed = {
        "load_model", "load_corpus", "load_run", "load_sae", "save_model", "ablate_heads", "project_heads", "order_neurons",
        "scan_neurons", "train_toy", "train_sae", "evaluate_sae", "effective_ranks", "concept_directions", "untrained_copy",
    }  # fmt: skip
    assert guessed <= set(names)
    for name in names:
        assert inspect.getdoc(getattr(ms, name)), name
    with pytest.raises(AttributeError, match="lod_model"):
        _ = ms.lod_model


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_import_what_packages_offer(path):
    """From ``mi_superposition`` or one package of it, only names in its ``__init__.pyi``; nothing of the command line's inside."""
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE)
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if (node.module or "").startswith("mi_superposition")]
    assert ours
    for node in ours:
        _, *inner = node.module.split(".")
        assert len(inner) <= 1, node.module
        assert not {"studies", "pages", "cli", "site", "report"} & set(inner), node.module
        offered = dir(importlib.import_module(node.module))
        assert [alias.name for alias in node.names if alias.name not in offered] == []
