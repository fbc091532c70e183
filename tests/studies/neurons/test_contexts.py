"""The study of contexts as a run: each control is what it says, and the pages of all units can be written from it."""

import json
import re
import shutil
from importlib.util import find_spec

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from robustness.workshop import with_options
from sae_lens import TopKSAE, TopKSAEConfig
from stopping import StopsAfter

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.corpora import model_batches
from mi_superposition.files import read_tensors, write_tensors
from mi_superposition.models import untrained_copy
from mi_superposition.neurons import ContextsConfig, scan_neurons
from mi_superposition.neurons.scan import ENSEMBLES, along_random_directions, drawn_directions
from mi_superposition.runs import read_config
from mi_superposition.sae import save_sae
from mi_superposition.studies.neurons.contexts import RESULT, Comparison, measure
from mi_superposition.studies.neurons.readers import joined_directions
from mi_superposition.training import Stopped

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]
HOOKS = ["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"]
# Of a residual stream of 16 dimensions.
DIRECTIONS = 12


@pytest.fixture(scope="module")
def documents():
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, generator.integers(5, 12))) for _ in range(120)]


@pytest.fixture(scope="module")
def sae(tiny_gpt2, documents, tmp_path_factory):
    """A small autoencoder of the model, not trained: three of its features are active per token."""
    folder = tmp_path_factory.mktemp("sae")
    (folder / "words.txt").write_text("<|endoftext|>".join(documents))
    config = TopKSAEConfig(d_in=16, d_sae=24, k=3)
    config.metadata.hook_name = "blocks.1.hook_resid_pre"
    autoencoder = TopKSAE(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in autoencoder.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_sae(autoencoder, folder / "sae")
    return folder / "sae"


@pytest.fixture(scope="module")
def request_of(tiny_gpt2, sae):
    def request(out, *more):
        options = ["--model", tiny_gpt2.folder, "--corpus", sae.parent / "words.txt", "--sae", sae, "--out", out]
        small = ["--random-directions", DIRECTIONS, "--top-k", 5, "--shard", 50, "--threads", 1]
        return with_options(["neurons", "contexts", *options, *small], more)

    return request


@pytest.fixture(scope="module")
def run(request_of, tmp_path_factory):
    out = tmp_path_factory.mktemp("contexts") / "run"
    assert main(request_of(out)) == 0
    return out


def test_every_control_is_what_it_says(run, tiny_gpt2, documents):
    model, result = tiny_gpt2.hooked, ms.load_run(run)
    features = "blocks.1.hook_resid_pre.features"
    assert list(result.hooks) == [*HOOKS, features]
    batches = list(model_batches(model, documents, 32))
    trained = scan_neurons(model, batches, top_k=5)
    untrained = scan_neurons(untrained_copy(model, 0), batches, top_k=5)
    space = {"blocks.1.hook_resid_mid": along_random_directions(16, DIRECTIONS, seed=0)}
    random = scan_neurons(model, batches, top_k=5, hooks=space)
    for hook in HOOKS:
        measured = result.hooks[hook]
        torch.testing.assert_close(measured.contexts, trained.hooks[hook].contexts, rtol=1e-2, atol=1e-2)
        torch.testing.assert_close(measured.untrained, untrained.hooks[hook].contexts, rtol=1e-2, atol=1e-2)
        assert measured.often.all()
    assert result.hooks[HOOKS[1]].space == "blocks.1.hook_resid_mid"
    [wanted] = random.hooks.values()
    measured = result.hooks[HOOKS[1]].directions
    assert list(measured) == list(ENSEMBLES)
    torch.testing.assert_close(measured["isotropic"], wanted.contexts, rtol=1e-2, atol=1e-2)
    assert result.hooks[features].untrained is None
    assert result.hooks[features].space == "blocks.1.hook_resid_pre"
    assert {len(some) for some in result.hooks[features].directions.values()} == {DIRECTIONS}


def test_directions_are_drawn_as_they_are_called():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    # One direction along which nothing varies.
    mixing[:, 0] = 0
    mixing[0] = 0
    covariance, weights = mixing @ mixing.T, torch.randn(6, 30, generator=generator) + 3
    mean, tokens = torch.randn(6, generator=generator), torch.randn(50, 6, generator=generator)
    n = 40_000
    drawn = drawn_directions(n, covariance=covariance, tokens=tokens, mean=mean, weights=weights, seed=0)
    wanted = {
        "isotropic": torch.eye(6), "input covariance": covariance.float(), "weight covariance": torch.cov(weights, correction=0),
        "whitened": torch.linalg.pinv(covariance, hermitian=True, rtol=1e-6).float(),
    }  # fmt: skip
    for name, expected in wanted.items():
        found = drawn[name] @ drawn[name].T / n
        assert float((found - expected).norm()) < 0.05 * float(expected.norm()), name
    # Activations along whitened directions vary alike, whichever direction it is.
    torch.testing.assert_close(drawn["to a random token"], (tokens - mean).T)
    torch.testing.assert_close(drawn["isotropic"], along_random_directions(6, n, seed=0)(torch.eye(6)))
    without = drawn_directions(7, covariance=covariance, tokens=tokens, mean=mean, weights=None, seed=0)
    assert list(without) == [name for name in ENSEMBLES if name != "weight covariance"]


def test_what_survives_follows_from_the_numbers():
    kinds = {"isotropic": 10.3, "whitened": 13.0, "input covariance": 6.95}
    assert Comparison(8.2, kinds).survives().startswith("within the range")
    assert Comparison(6.0, kinds).survives() == "fewer than along random directions of any kind"
    assert Comparison(14.0, kinds).survives() == "more than along random directions of any kind"
    # What looks the same is no difference.
    assert Comparison(6.96, kinds).survives().startswith("within the range")
    assert Comparison(8.2, kinds).told() == "7.0 (input covariance), 10.3 (isotropic), 13.0 (whitened)"


def test_a_run_of_version_0_1_is_refused_in_one_line(run, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    tensors, metadata = read_tensors(old / RESULT)
    told = metadata.pop("record")
    record = json.loads(told)
    for measured in record["hooks"].values():
        measured["random"] = measured.pop("directions") and None
    write_tensors(old / RESULT, tensors, {"record": json.dumps(record)})
    manifest = json.loads((old / "manifest.json").read_text())
    manifest.pop("files", None)
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert main(["page", str(old), "--out", str(tmp_path / "page")]) == 2
    error = capsys.readouterr().err.strip()
    assert "directions" in error
    assert "run the command again in a new folder" in error
    assert error.count("\n") == 0


def test_a_run_shows_itself(run):
    result = ms.load_run(run)
    assert len(repr(result)) < 400
    assert "in an untrained model" in repr(result)
    frame = result.to_frame()
    assert frame.index.tolist() == list(result.hooks)
    assert frame["units"].tolist() == [48, 48, 24]
    assert np.isnan(frame["untrained"].iloc[2])
    assert "<table" in result._repr_html_()
    figure = result.plot()
    assert isinstance(figure, go.Figure)
    names = {trace.name for trace in figure.data}
    assert {"Layer 1, trained", "Layer 1, untrained", "blocks.1.hook_resid_mid, random directions: whitened"} <= names
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["blocks.1.mlp.hook_post/contexts_untrained_median"] == frame.loc[HOOKS[1], "untrained"]


def test_again_it_is_finished_and_shown_as_before(run, request_of, tmp_path, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(request_of(run)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {run}"
    assert main(["neurons", "contexts", "--config", str(run / "manifest.json"), "--out", str(run)]) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["page", str(run), "--out", str(tmp_path / "page")]) == 0
    html = (tmp_path / "page" / "contexts.html").read_text()
    assert html == (run / "page" / "contexts.html").read_text()
    assert "random directions of the residual stream that Layer 1 reads: " in html
    assert "Random directions, drawn in several ways" in html
    # Nothing leads to pages that are not there.
    assert 'href="neurons/' not in html


def test_the_pages_of_all_units_are_those_of_its_scan(run, tmp_path):
    assert main(["neurons", "pages", "--scan", str(run), "--out", str(tmp_path / "site")]) == 0
    pages = {path.name for path in (tmp_path / "site" / "neurons").glob("*.html")}
    assert {"L0N0.html", "L1N47.html", "blocks.1.hook_resid_pre.features.23.html"} <= pages
    scan = ms.load_run(run).scan
    html = (tmp_path / "site" / "neurons" / "L1N11.html").read_text()
    first = re.search(r'<li data-at="(\d+) (\d+) ', html)
    found = scan.hooks[HOOKS[1]].top
    assert tuple(map(int, first.groups())) == (int(found.document[11, 0]), int(found.position[11, 0]))


def test_stopped_in_any_scan_it_ends_with_the_same_bytes(run, request_of, tmp_path):
    config, out = read_config(run, ContextsConfig), tmp_path / "stopped"

    # In the first scan, in the second, and in the third.
    for questions in (2, 9, 9):
        with pytest.raises(Stopped):
            measure(config, out, StopsAfter(questions))
    assert (out / "random").is_dir()
    measure(config, out)
    kept = {path.name for path in run.iterdir()} - {"page"}
    assert {path.name for path in out.iterdir()} == kept
    for name in kept:
        assert (out / name).read_bytes() == (run / name).read_bytes(), name
    shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install -e '.[cluster]'")
def test_workers_of_ray_scan_the_controls_too(run, request_of, tmp_path):
    assert main(request_of(tmp_path / "ray", "--engine", "ray")) == 0
    for name in ("scan.safetensors", "contexts.safetensors", "metrics.json"):
        assert (tmp_path / "ray" / name).read_bytes() == (run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        (["--random-directions", "0"], "random_directions = 0"),
        (["--hook", "blocks.9.mlp.hook_post"], "blocks.9.mlp.hook_post"),
        (["--hook", "blocks.1.hook_resid_pre"], "--sae already scans the features of this hook"),
        (["--top-k", "0"], "top_k = 0"),
        (["--n-bins", "25"], "n_bins = 25"),
    ],
)
def test_wrong_requests_leave_nothing(request_of, tmp_path, options, quoted, capsys):
    assert main(request_of(tmp_path / "run", *options)) == 2
    error = capsys.readouterr().err
    assert quoted in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_worker_reads_the_directions_that_the_driver_reads(tmp_path):
    """Of each space one matrix, its ensembles in their order, whatever the order of the file."""
    drawn = {f"{space}/{name}": torch.randn(3, 2) for space in ("b.1", "a.0") for name in reversed(list(ENSEMBLES))}
    del drawn[f"a.0/{list(ENSEMBLES)[1]}"]
    write_tensors(tmp_path / "directions.safetensors", drawn)
    joined = joined_directions(tmp_path / "directions.safetensors")
    assert set(joined) == {"a.0", "b.1"}
    for space, found in joined.items():
        wanted = [drawn[f"{space}/{name}"] for name in ENSEMBLES if f"{space}/{name}" in drawn]
        assert torch.equal(found, torch.cat(wanted, dim=1))
