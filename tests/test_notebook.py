"""What notebooks show by circuitsvis; that it draws is seen in `test_notebooks.py`, in a browser."""

import pytest
import torch

from mi_superposition import notebook
from mi_superposition.errors import RequestError


def test_without_circuitsvis_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(notebook, "find_spec", lambda name: None)
    with pytest.raises(RequestError) as caught:
        notebook.load_circuitsvis()
    assert str(caught.value) == "circuitsvis is not installed; pip install 'mi-superposition[notebook]'"
    # A view refers to the script that was loaded before, except in Colab.
    assert "CircuitsVis.render" in notebook.attention_heads(["1"], torch.ones(1, 1, 1)).html
