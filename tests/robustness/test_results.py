"""Every study's result, as somebody in a notebook meets it, and its pages, written again from the run folder alone."""

import json

import pandas as pd
import plotly.graph_objects as go
import pytest
from robustness.workshop import contents

import mi_superposition as ms
from mi_superposition.cli import commands, main
from mi_superposition.results import Result
from mi_superposition.runs import MANIFEST
from mi_superposition.subjects import Study

STUDIES = [name for name, command in commands().items() if isinstance(command, Study)]


@pytest.mark.parametrize("name", STUDIES)
def test_a_result_is_read_looked_at_and_shown_again(name, shop, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(shop.request(name, out)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"results: {out}"
    result = ms.load_run(out)
    assert isinstance(result, Result)
    # Told, and short.
    assert result.summary() in said[-2]
    assert repr(result) == f"{type(result).__name__}({result.summary()})"
    assert len(repr(result)) <= 400
    assert "\n" not in repr(result)
    frame = result.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) > 0
    assert not frame.isna().all(axis=None)
    assert result._repr_html_().count("<tr") <= 12 * frame.columns.nlevels
    assert isinstance(result.plot(), go.Figure)
    # A run's own configuration asks for the same run.
    recorded = json.loads((out / MANIFEST).read_text())
    assert recorded["format"] == 2
    assert all(not isinstance(value, dict) for value in recorded["config"].values())
    before = contents(out)
    assert main([*name.split(), "--config", str(out / MANIFEST), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {out}"
    assert contents(out) == before
    assert main(["page", str(out), "--out", str(tmp_path / "page")]) == 0
    shown = contents(tmp_path / "page")
    assert "index.html" in shown
    if commands()[name].shown_at_once:
        assert shown == {
            file.removeprefix("page/"): content for file, content in before.items() if file.startswith("page/")
        }
