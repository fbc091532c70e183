"""Scans of heads as run folders: stopped, resumed and shared out among Ray's workers, always the same bytes; and their pages."""

import importlib.util
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from robustness.workshop import with_options
from stopping import StopsAfter

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.corpora import model_batches
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json, write_json
from mi_superposition.heads.scan import HeadScanSettings
from mi_superposition.heads.scan.config import HeadScanConfig
from mi_superposition.pages.heads.scan_ablation import HeadAblations, _by_head
from mi_superposition.studies.heads import scan as study
from mi_superposition.training import Stopped

RESULT = {"heads.safetensors", "calibration.safetensors", "metrics.json", "manifest.json"}
WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of one to forty words."""
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(WORDS, generator.integers(1, 40))) for _ in range(120)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("<|endoftext|>".join(documents))
    return path


@pytest.fixture(scope="module")
def config(tiny_gpt2, corpus):
    """A scan in four shards."""
    kept = HeadScanSettings(top_k=4, per_tenth=1, pairs=10, repeated_sequences=2)
    return HeadScanConfig(kept=kept).replace(
        model=str(tiny_gpt2.folder), corpus=str(corpus), documents=100, shard=25, threads=1
    )


@pytest.fixture(scope="module")
def request_of(tiny_gpt2, corpus):
    """The same as a command line."""

    def request(out, *more):
        options = {
            "--model": tiny_gpt2.folder, "--corpus": corpus, "--documents": 100, "--shard": 25, "--threads": 1, "--top-k": 4,
            "--per-tenth": 1, "--pairs": 10, "--repeated-sequences": 2, "--out": out,
        }  # fmt: skip
        return with_options(["heads", "scan", *(word for option in options.items() for word in option)], more)

    return request


@pytest.fixture(scope="module")
def whole(request_of, tmp_path_factory):
    """The scan, left alone."""
    out = tmp_path_factory.mktemp("scans") / "whole"
    assert main(request_of(out)) == 0
    return out


def same_bytes(a, b):
    for name in RESULT - {"manifest.json"}:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert {path.name for path in a.iterdir()} == {path.name for path in b.iterdir()} == RESULT


def test_stopped_anywhere_it_ends_with_the_same_bytes(whole, config, tmp_path):
    out = tmp_path / "stopped"
    stops = 0
    # Ever later, so that each time a shard is done.
    while not (out / "metrics.json").exists():
        stops += 1
        try:
            study.measure(config, out, StopsAfter(1 + stops))
        except Stopped:
            assert not (out / "metrics.json").exists()
    assert stops > 2
    same_bytes(whole, out)
    assert study.measure(config, out).finished_already


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'")
def test_workers_of_ray_give_the_same_bytes(whole, request_of, tmp_path):
    assert main(request_of(tmp_path / "ray", "--engine", "ray")) == 0
    same_bytes(whole, tmp_path / "ray")


def test_a_run_is_the_scan(whole, tiny_gpt2, corpus):
    """What the function gives on the same documents, to rounding: there the shards are one."""
    texts = ms.load_corpus(corpus, documents=100)
    found = ms.load_run(whole)
    model = tiny_gpt2.hooked
    wanted = ms.scan_heads(model, model_batches(model, texts, 32), top_k=4, per_tenth=1, pairs=10, repeated_sequences=2)
    assert (found.examples.n_documents, found.examples.n_tokens) == (
        wanted.examples.n_documents,
        wanted.examples.n_tokens,
    )
    for name, measured in wanted.measures.items():
        torch.testing.assert_close(found.measures[name].values, measured.values, rtol=1e-4, atol=1e-5)
        for control in ("untrained", "permuted"):
            one, other = getattr(found.measures[name], control), getattr(measured, control)
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    for hook, units in wanted.examples.hooks.items():
        assert torch.equal(found.examples.hooks[hook].top.document, units.top.document)
        assert torch.equal(found.excerpts[hook].query, wanted.excerpts[hook].query)
        torch.testing.assert_close(found.excerpts[hook].attention, wanted.excerpts[hook].attention, rtol=0, atol=2e-3)
    assert "heads on 100 documents" in repr(found)
    metrics = read_json(whole / "metrics.json")
    assert metrics["induction"] == found.measures["induction"].values.tolist()
    assert len(metrics["entropy/permuted"]) == metrics["heads"] == 4
    assert found.plot().data


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--context", 33), "context = 33"),
        (("--context", 4), "context = 4: repeated tokens need 5 positions"),
        (("--top-k", 0), "top_k = 0"),
        (("--query-share", 2), "query_share = 2"),
        (("--corpus", "nothing.txt"), "nothing.txt"),
        (("--device", "abacus"), "abacus"),
        (("--engine", "sail"), "sail"),
    ],
)
def test_wrong_requests_leave_nothing(request_of, tmp_path, capsys, options, said):
    assert main(request_of(tmp_path / "run", *options)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert not (tmp_path / "run").exists()


def test_a_corpus_too_short_is_refused(request_of, tmp_path, capsys):
    path = tmp_path / "short.txt"
    path.write_text("a<|endoftext|>a")
    assert main(request_of(tmp_path / "run", "--corpus", path)) == 2
    assert "too short: no token follows another" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_request_is_refused(request_of, whole, capsys):
    assert main(request_of(whole, "--seed", 1)) == 2
    assert "give another folder or the same options" in capsys.readouterr().err


def test_pages_of_a_run(whole, tmp_path, capsys):
    out = tmp_path / "site"
    assert main(["heads", "pages", "--scan", str(whole), "--out", str(out)]) == 0
    assert "4 pages" in capsys.readouterr().out
    assert {path.name for path in (out / "heads").iterdir()} == {
        f"L{layer}H{head}.html" for layer in (0, 1) for head in (0, 1)
    }
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert ms.write_page(whole, tmp_path / "again") == tmp_path / "again" / "index.html"
    assert {path.relative_to(out): content for path, content in before.items()} == {
        path.relative_to(tmp_path / "again"): path.read_bytes()
        for path in (tmp_path / "again").rglob("*")
        if path.is_file()
    }
    text = (out / "heads" / "L1H0.html").read_text()
    assert "random directions of equal covariance" in text
    assert "http" not in text.replace("http-equiv", "")


def test_readers_are_linked_to_the_pages_of_neurons(whole, tmp_path):
    pages = tmp_path / "neurons-site"
    (pages / "neurons").mkdir(parents=True)
    # Of one layer alone there are pages.
    for neuron in range(48):
        (pages / "neurons" / f"L1N{neuron}.html").write_text("a page")
    out = tmp_path / "site"
    assert main(["heads", "pages", "--scan", str(whole), "--out", str(out), "--neurons", str(pages)]) == 0
    for head, layers in (("L0H1", {"0", "1"}), ("L1H0", {"1"})):
        text = (out / "heads" / f"{head}.html").read_text()
        part = text[text.index("Neurons that read what it writes") :]
        part = part[: part.index("</section>")]
        named = re.findall(r"L(\d)N(\d+)(?:</a>)? [+-]", part)
        assert len(named) == 8
        # A head of layer 0 is read by both layers, one of layer 1 by its own.
        assert {layer for layer, _ in named} <= layers
        linked = re.findall(r'href="([^"]+)"', part)
        assert len(linked) == sum(layer == "1" for layer, _ in named)
        for address in linked:
            assert (out / "heads" / address).resolve().is_relative_to(pages)
            assert (out / "heads" / address).is_file()


def test_pages_refuse_what_does_not_belong(whole, tmp_path, capsys):
    out = tmp_path / "site"

    def refused(*options):
        assert main(["heads", "pages", "--scan", str(whole), "--out", str(out), *map(str, options)]) in (1, 2)
        assert not out.exists()
        return capsys.readouterr().err

    assert "no such folder" in refused("--neurons", tmp_path / "none")
    assert "none" in refused("--ablation", tmp_path / "none")
    assert (
        main(["heads", "ablate", "--n-problems", "20", "--random-sets", "2", "--out", str(tmp_path / "ablation")]) == 0
    )
    capsys.readouterr()
    assert "is of another model than the scan" in refused("--ablation", tmp_path / "ablation")
    changed = tmp_path / "changed"
    shutil.copytree(whole, changed)
    manifest = read_json(changed / "manifest.json")
    manifest["inputs"]["model"]["sha256"] = "0" * 64
    write_json(changed / "manifest.json", manifest)
    assert main(["heads", "pages", "--scan", str(changed), "--out", str(out)]) == 2
    assert "has changed since" in capsys.readouterr().err


def test_an_ablation_stands_on_the_pages(whole, tiny_gpt2, corpus, tmp_path):
    run, out = tmp_path / "ablation", tmp_path / "site"
    small = ["--documents", 10, "--reference-documents", 10, "--resamples", 100, "--pair-heads", 0, "--task-sets", 1, "--threads", 1]  # fmt: skip
    words = ["heads", "ablate", "--model", tiny_gpt2.folder, "--corpus", corpus, *small, "--out", run]
    assert main(list(map(str, words))) == 0
    assert main(["heads", "pages", "--scan", str(whole), "--out", str(out), "--ablation", str(run)]) == 0
    frame = ms.load_run(run).to_frame()
    for layer, head in ((0, 1), (1, 0)):
        text = (out / "heads" / f"L{layer}H{head}.html").read_text()
        value, error = re.search(
            r"ablated \(mean\): loss \(nats a token\)</th><td>([-\d.e]+) ± ([\d.e-]+)<", text
        ).groups()
        assert float(value) == pytest.approx(frame.loc[(layer, head), "mean_loss"], rel=0.05, abs=1e-3)
        assert float(error) == pytest.approx(frame.loc[(layer, head), "mean_loss_error"], rel=0.05, abs=1e-3)
        assert "ablated: logit difference of the task" in text


def test_the_table_of_an_ablation_becomes_numbers_by_head(whole, tmp_path):
    scan = ms.load_run(whole)
    heads = [(layer, head) for layer in (1, 0) for head in (0, 1)]
    rows = [
        {"layer": layer, "head": head, "replacement": kind, "loss": 10 * layer + head + shift}
        for kind, shift in (("zero", 0.0), ("mean", 0.5))
        for layer, head in heads
    ]
    found = _by_head(pd.DataFrame(rows).set_index(["layer", "head", "replacement"]), scan, tmp_path)
    assert found == {"loss (zero)": [0.0, 1.0, 10.0, 11.0], "loss (mean)": [0.5, 1.5, 10.5, 11.5]}
    several = HeadAblations.of({"zero loss": [1.0], "zero loss error": [0.1], "other error": [2.0]})
    assert (several.values, several.errors) == ({"zero loss": [1.0], "other error": [2.0]}, {"zero loss": [0.1]})
    # A row about all heads of a layer is left aside.
    plain = pd.DataFrame([*rows[:4], {"layer": 0, "head": "all", "replacement": "zero", "loss": 9.0}])
    assert _by_head(plain, scan, tmp_path) == {"loss (zero)": [0.0, 1.0, 10.0, 11.0]}
    with pytest.raises(RequestError, match="every head of the scan"):
        _by_head(pd.DataFrame(rows[:3]), scan, tmp_path)
    with pytest.raises(RequestError, match="of which layer and head"):
        _by_head(pd.DataFrame({"loss": [1.0]}), scan, tmp_path)
