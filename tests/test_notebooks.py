"""Every notebook runs from top to bottom, offline, and is kept without outputs."""

import socket
from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
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


# The quick ones in every run, the others where there is time.
QUICK = ("01_addition", "04_toy_models")
RUN = [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem not in QUICK)) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", RUN)
def test_runs_offline_from_top_to_bottom(path, tmp_path, monkeypatch):
    """Cell by cell in this process, which cannot reach another machine."""
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def refused(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"network refused: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refused)
    with pytest.raises(OSError, match="network refused"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    shown = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with capture_output() as captured:
                result = shell.run_cell(cell.source)
            assert result.success, (cell.source, result.error_before_exec or result.error_in_exec)
            shown += [output.data for output in captured.outputs]
    InteractiveShell.clear_instance()
    assert any("text/html" in data or "text/plain" in data for data in shown)


def test_runs_in_a_kernel(tmp_path, monkeypatch):
    """One as Jupyter runs it, offline: the kernel's own process finds no other machine either."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(_REFUSE_THE_NETWORK)
    [path] = [path for path in NOTEBOOKS if path.stem == "01_addition"]
    notebook = nbformat.read(path, as_version=4)
    # Proof that the refusal is in force, in a cell of its own before all others.
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_PROVE_THE_REFUSAL))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert notebook.cells[0].outputs[0].text.strip() == "refused"
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    views = [output for output in shown if "CircuitsVis.render" in str(output.get("data", {}).get("text/html"))]
    assert len(views) == 1
    assert "(277386, 145278, 422664)" in "".join(str(output.get("data", {}).get("text/plain", "")) for output in shown)


@pytest.mark.browser
def test_circuitsvis_draws_without_the_network(browser, tmp_path):
    from mi_superposition.notebook import attention_heads, load_circuitsvis

    tokens = ["</script><script>window.broken = 1</script>", "2", "="]
    view = attention_heads(tokens, torch.eye(3).expand(2, 3, 3))
    document = f"<!doctype html><meta charset='utf-8'>{load_circuitsvis().html}{view.html}<p id='after'>after</p>"
    (tmp_path / "view.html").write_text(document)
    page = browser.new_page()
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "view.html").as_uri())
    page.wait_for_selector("[id^=circuits-vis] canvas, [id^=circuits-vis] img, [id^=circuits-vis] table")
    assert problems == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert "Head 1" in page.inner_text("[id^=circuits-vis]")
    assert page.evaluate("window.broken") is None
    assert page.is_visible("#after")


_PROVE_THE_REFUSAL = """
import socket

try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print("refused" if "network refused" in str(error) else error)
"""

_REFUSE_THE_NETWORK = """
import socket

_connect = socket.socket.connect


def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "localhost", "::1"):
        raise OSError(f"network refused: {address}")
    return _connect(self, address)


socket.socket.connect = connect
"""
