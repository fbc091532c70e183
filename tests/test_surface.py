"""What ``import mi_superposition as ms`` offers, and that notebooks need nothing else of the package's inside."""

import inspect
import json
import re
from pathlib import Path

import pytest

import mi_superposition as ms

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_what_a_user_would_type_is_there_and_documented():
    names = [name for name in dir(ms) if not name.startswith("_")]
    assert 20 <= len(names) <= 30
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
def test_notebooks_use_the_surface(path):
    """Neither what measures into run folders nor the command line nor the site."""
    cells = json.loads(path.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert re.findall(r"(?:from|import) mi_superposition\.(studies|pages|cli|site|report)\b", code) == []
