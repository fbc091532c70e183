"""Every notebook runs from top to bottom, offline, and is kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_offline_from_top_to_bottom(path, tmp_path, monkeypatch):
    # Whatever asks for another machine fails at once instead of finding one.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(_REFUSE_THE_NETWORK)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    text = "".join(str(output.get("text", "")) for output in shown)
    assert "network refused" not in text
    if path.stem == "01_addition":
        views = [output for output in shown if "CircuitsVis.render" in str(output.get("data", {}).get("text/html"))]
        assert len(views) == 1
        assert "(457821, 304679, 762500)" in "".join(
            str(output.get("data", {}).get("text/plain", "")) for output in shown
        )


_REFUSE_THE_NETWORK = """
import socket

_connect = socket.socket.connect


def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
        raise OSError(f"network refused: {address}")
    return _connect(self, address)


socket.socket.connect = connect
"""
