"""``sae recover`` from the command line, on a toy model of seconds."""

import plotly.graph_objects as go
from robustness.workshop import with_options

from mi_superposition import load_run
from mi_superposition.cli import main
from mi_superposition.files import read_json


def command(out, *more):
    sizes = ["--n-features", 6, "--n-hidden", 3, "--toy-steps", 30, "--sae-steps", 20, "--threads", 1]
    return with_options(["sae", "recover", *sizes, "--out", out], more)


def test_a_run_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(command(out)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {out}"
    metrics = (out / "metrics.json").read_bytes()
    assert set(read_json(out / "metrics.json")) == {
        f"{decoder}/{number}" for decoder in ("sparse", "always_active", "random") for number in ("mean", "min")
    }
    assert main(command(out)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {out}"
    assert (out / "metrics.json").read_bytes() == metrics
    assert main(["sae", "recover", "--config", str(out / "manifest.json"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "metrics.json").read_bytes() == metrics
    result = load_run(out)
    assert len(repr(result)) < 400
    assert "random directions" in result._repr_html_()
    assert len(result.to_frame()) == 6
    assert isinstance(result.plot(), go.Figure)
    assert main(["page", str(out), "--out", str(tmp_path / "page")]) == 0
    assert "Toy model with known features" in (tmp_path / "page" / "recovery.html").read_text()


def test_a_toy_model_that_is_no_bottleneck(tmp_path, capsys):
    assert main(command(tmp_path / "run", "--n-hidden", 6)) == 2
    assert "n_hidden = 6" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
