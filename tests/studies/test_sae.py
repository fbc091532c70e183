"""Sparse autoencoders from the command line: trained, killed, gone on with, shared out, evaluated, and their pages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from mi_superposition.cli import main
from mi_superposition.runs import read_json, read_manifest, read_state
from mi_superposition.sae import ActivationStream, load_sae, save_sae
from mi_superposition.studies.neuron_scan import load_scan
from mi_superposition.studies.sae.evaluation import load_evaluation
from mi_superposition.studies.sae.rows import FOREIGN, KINDS, LARGEST, PCA, RANDOM, SHUFFLED
from mi_superposition.studies.sae.rows import SAE as ITSELF

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]
HOOK = "blocks.1.hook_resid_pre"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents of five to thirty words, one in ten of which is held out."""
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(WORDS, generator.integers(5, 30))) for _ in range(300)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("<|endoftext|>".join(documents))
    return path


@pytest.fixture(scope="module")
def train(tiny_gpt2, corpus):
    """The command line of a small training."""

    def arguments(out, *more):
        options = {
            "--model": tiny_gpt2.folder, "--corpus": corpus, "--d-sae": 48, "--k": 4, "--tokens": 4000, "--batch-size": 64,
            "--buffer-batches": 8, "--warmup-steps": 5, "--learning-rate": 0.01, "--threads": 1, "--out": out,
        }  # fmt: skip
        given = {str(word) for word in more}
        kept = [str(word) for name, value in options.items() if name not in given for word in (name, value)]
        return ["sae", "train", *kept, *map(str, more)]

    return arguments


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """One autoencoder, left alone."""
    out = tmp_path_factory.mktemp("saes") / "one"
    assert main(train(out)) == 0
    return out


@pytest.fixture(scope="module")
def grid(train, tmp_path_factory):
    """Two hooks with two sparsities, in one pass over the text."""
    out = tmp_path_factory.mktemp("saes") / "grid"
    assert main(train(out, "--hook", HOOK, "blocks.0.mlp.hook_post", "--k", 2, 4)) == 0
    return out


def weights(folder):
    return dict(SAE.load_from_disk(str(folder)).state_dict())


def same_weights(a, b):
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def test_a_trained_run(trained, tiny_gpt2):
    metadata = SAE.load_from_disk(str(trained)).cfg.metadata
    assert metadata.hook_name == HOOK
    assert metadata.model_name == str(tiny_gpt2.folder)
    assert metadata.training["tokens"] == 4000
    metrics = read_json(trained / "metrics.json")
    assert metrics["sae/l0"] == 4
    assert 0.3 < metrics["sae/explained_variance"] < 1
    assert metrics["sae/ce_clean"] > 0
    rows = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 63
    assert set(rows[-1]["saes"]["sae"]) == {"loss", "l0", "explained_variance", "dead_features"}
    assert not (trained / "checkpoint.safetensors").exists()


def test_it_says_its_sizes_first_and_a_table_last(train, tmp_path, capfd):
    assert main(train(tmp_path / "one")) == 0
    captured = capfd.readouterr()
    assert "63 steps of 64 tokens; buffer of 512 tokens, 0 MiB" in captured.err
    assert captured.out.splitlines()[0].split()[:4] == ["held-out", "text", "L0", "explained"]
    assert captured.out.splitlines()[-1] == f"results: {tmp_path / 'one'}"
    assert main(train(tmp_path / "one")) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("finished already")


def test_killed_it_goes_on_to_the_same_weights(train, trained, tmp_path):
    out = tmp_path / "killed"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    # A checkpoint every ten steps: there is one to go on from long before the end.
    command = [sys.executable, "-m", "mi_superposition.cli", *train(out)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # It was in the middle.
    assert read_json(out / "manifest.json")["status"] == "running"
    assert 0 < read_state(out / "checkpoint.safetensors")["step"] < 63
    assert main(train(out)) == 0
    assert same_weights(out, trained)
    assert (out / "history.jsonl").read_bytes() == (trained / "history.jsonl").read_bytes()


def test_every_batch_is_read_with_the_threads_asked_for(train, tmp_path, monkeypatch):
    """Threads decide the order of sums, and so the last bits: also of the first batch, read before there is a folder."""
    seen, batch = [], ActivationStream.batch

    def watched(stream, index):
        seen.append((index, torch.get_num_threads()))
        return batch(stream, index)

    monkeypatch.setattr(ActivationStream, "batch", watched)
    torch.set_num_threads(2)
    try:
        assert main(train(tmp_path / "one", "--tokens", 300)) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert {index for index, _ in seen} >= set(range(5))
    assert {threads for _, threads in seen} == {1}


def test_activations_kept_on_disk_change_nothing(train, trained, tmp_path):
    kept = tmp_path / "activations"
    assert main(train(tmp_path / "one", "--activations", kept)) == 0
    assert same_weights(tmp_path / "one", trained)
    written = {path: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")}
    assert main(train(tmp_path / "wider", "--activations", kept, "--d-sae", 64)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")} == written


def test_a_grid_is_one_folder_each_and_each_what_it_is_alone(grid, train, trained):
    names = {path.parent.name for path in grid.glob("*/cfg.json")}
    assert names == {f"{hook}-48-k{k}" for hook in (HOOK, "blocks.0.mlp.hook_post") for k in (2, 4)}
    assert same_weights(grid / f"{HOOK}-48-k4", trained)
    metrics = read_json(grid / "metrics.json")
    assert metrics[f"{HOOK}-48-k2/l0"] == 2
    assert metrics[f"{HOOK}-48-k2/explained_variance"] < metrics[f"{HOOK}-48-k4/explained_variance"]


def test_with_ray_every_autoencoder_is_a_task_with_the_same_weights(grid, train, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "ray"
    arguments = train(out, "--hook", HOOK, "blocks.0.mlp.hook_post", "--k", 2, 4, "--engine", "ray")
    assert main(arguments) == 0
    for folder in grid.glob("*/cfg.json"):
        assert same_weights(out / folder.parent.name, folder.parent)
    assert read_json(out / "metrics.json") == read_json(grid / "metrics.json")


@pytest.fixture(scope="module")
def evaluated(trained):
    assert main(["sae", "evaluate", "--sae", str(trained), "--corpus", corpus_of(trained), "--threads", "1"]) == 0
    return trained / "evaluation"


def corpus_of(run):
    return read_manifest(run)["inputs"]["corpus"]["name"]


def test_the_evaluation_has_every_baseline(evaluated):
    rows = {row.kind: row.numbers for row in load_evaluation(evaluated)}
    assert set(rows) == set(KINDS)
    for kind in set(KINDS) - {ITSELF}:
        assert rows[kind]["l0"] == pytest.approx(rows[ITSELF]["l0"], abs=0.05)
    assert rows[ITSELF]["explained_variance"] > rows[FOREIGN]["explained_variance"]
    # A shuffled model expects nothing sensible: no loss of its is told.
    assert "ce" not in rows[SHUFFLED]
    assert 0 < rows[SHUFFLED]["explained_variance"] < 1


def test_an_evaluation_is_not_done_twice(evaluated, trained, capsys):
    assert main(["sae", "evaluate", "--sae", str(trained), "--corpus", corpus_of(trained), "--threads", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"finished already: {evaluated}"


def test_a_whole_grid_is_evaluated(grid, tmp_path):
    out = tmp_path / "evaluation"
    arguments = ["sae", "evaluate", "--sae", str(grid), "--corpus", corpus_of(grid), "--out", str(out)]
    assert main([*arguments, "--control-tokens", "0", "--documents", "5"]) == 0
    rows = load_evaluation(out)
    assert len(rows) == 4 * (len(KINDS) - 2)
    assert {row.hook for row in rows} == {HOOK, "blocks.0.mlp.hook_post"}


def test_features_are_scanned_and_have_pages(trained, tiny_gpt2, tmp_path):
    scan, site = tmp_path / "scan", tmp_path / "site"
    options = ["--model", str(tiny_gpt2.folder), "--corpus", corpus_of(trained), "--sae", str(trained), "--top-k", "5"]
    assert main(["neurons", "scan", *options, "--hook", "blocks.0.mlp.hook_post", "--out", str(scan)]) == 0
    found = load_scan(scan).hooks[f"{HOOK}.features"]
    assert found.n_units == 48
    sae = load_sae(trained)
    # Its most active features are those that fire on the most tokens.
    assert 0 < float(found.fraction_active.max()) <= 1
    assert float(found.fraction_active.sum()) == pytest.approx(4, abs=0.2)
    # Where it is not active it has no example, however few there are.
    shown = found.top.document >= 0
    assert (found.top.activation[shown] > 0).all()
    assert not shown.all()
    assert not (found.bottom.document >= 0).any()
    assert main(["neurons", "pages", "--scan", str(scan), "--out", str(site)]) == 0
    page = (site / "neurons" / f"{HOOK}.features.7.html").read_text()
    for heading in ("Raises the logits of", "Most alike by decoder (cosine)", "Reads from (cosine)"):
        assert heading in page
    assert 'href="L0N' in page
    neuron = (site / "neurons" / "L0N3.html").read_text()
    assert "Read by (cosine)" in neuron
    assert f'href="{HOOK}.features.' in neuron
    # The strongest reader of neuron 3, by brute force.
    written = tiny_gpt2.hooked.blocks[0].mlp.W_out[3]
    cosines = torch.cosine_similarity(sae.W_enc.T, written[None], dim=1)
    best = int(cosines.abs().argmax())
    assert f'<a href="{HOOK}.features.{best}.html">' in neuron
    assert f"{float(cosines[best]):+.2f}" in neuron


def test_a_scan_of_features_alone(trained, tiny_gpt2, tmp_path):
    options = ["--model", str(tiny_gpt2.folder), "--corpus", corpus_of(trained), "--sae", str(trained)]
    assert main(["neurons", "scan", *options, "--documents", "40", "--out", str(tmp_path / "scan")]) == 0
    assert list(load_scan(tmp_path / "scan").hooks) == [f"{HOOK}.features"]


def test_pages_of_an_autoencoder_that_is_another_one_by_now(train, tiny_gpt2, tmp_path, capsys):
    sae = tmp_path / "sae"
    assert main(train(sae, "--tokens", 500)) == 0
    options = ["--model", str(tiny_gpt2.folder), "--corpus", corpus_of(sae), "--sae", str(sae), "--documents", "40"]
    assert main(["neurons", "scan", *options, "--out", str(tmp_path / "scan")]) == 0
    for path in sae.iterdir():
        path.unlink()
    assert main(train(sae, "--tokens", 600)) == 0
    assert main(["neurons", "pages", "--scan", str(tmp_path / "scan"), "--out", str(tmp_path / "site")]) == 2
    assert "is another autoencoder than the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hook", "blocks.1.hook_resid_pro"], "did you mean 'blocks.1.hook_resid_pre'?"),
        (["--k", "49"], "k = 49: there are only 48 features"),
        (["--k", "2", "2"], "the same hook, width and sparsity twice"),
        (["--sparsity", "3"], "sparsity = 3.0: 'topk' is made sparse by k"),
        (["--architecture", "standard"], "k = 4: 'standard' is made sparse by sparsity"),
        (["--architecture", "matryoshka", "--d-sae", "8", "--k", "1"], "'matryoshka' nests widths down to an eighth"),
        (["--buffer-batches", "1000"], "fewer than a buffer of 64,000"),
        (["--tokens", "0"], "tokens = 0: must be at least 1"),
        (["--context", "5000"], "context = 5000: must be 2 to 32"),
        (["--precision", "int8"], "precision"),
    ],
)
def test_wrong_requests_are_one_line(train, tmp_path, capsys, more, message):
    assert main(train(tmp_path / "run", *more)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mi-superposition:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_a_checkpoint_of_another_request(trained, train, capsys):
    assert main(train(trained, "--d-sae", 64)) == 2
    assert "was made with saes = " in capsys.readouterr().err


def test_an_autoencoder_of_another_model(trained, capsys, tmp_path):
    arguments = ["sae", "evaluate", "--sae", str(trained), "--out", str(tmp_path / "out"), "--model", "stories"]
    assert main(arguments) == 2
    assert "was trained on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_request_that_fails_leaves_no_folder_in_the_way(train, tmp_path):
    assert main(train(tmp_path / "run", "--buffer-batches", 1000)) == 2
    assert not (tmp_path / "run").exists()
    assert main(train(tmp_path / "run", "--tokens", 300)) == 0


def test_activations_of_another_column_are_not_taken(train, tmp_path, capsys):
    generator = np.random.default_rng(1)
    columns = {name: [" ".join(generator.choice(WORDS, 20)) for _ in range(150)] for name in ("text", "other")}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "two.parquet")
    options = ["--corpus", tmp_path / "two.parquet", "--activations", tmp_path / "kept", "--tokens", 600]
    assert main(train(tmp_path / "one", *options)) == 0
    assert main(train(tmp_path / "two", *options, "--column", "other")) == 2
    assert "was made with corpus = " in capsys.readouterr().err
    assert main(train(tmp_path / "three", *options, "--activations-dtype", "float16")) == 2


@pytest.mark.parametrize(
    "options", [["--architecture", "standard", "--sparsity", "0.3"], ["--architecture", "batchtopk"],
                ["--architecture", "jumprelu", "--sparsity", "0.5", "--normalize", "layer_norm"]], ids=lambda some: some[1]
)  # fmt: skip
def test_other_architectures_are_evaluated_too(train, options, tmp_path):
    k = [] if options[1] == "batchtopk" else ["--k"]
    arguments = (
        [word for word in train(tmp_path / "run", *options, *k) if word != "--k"]
        if k
        else train(tmp_path / "run", *options)
    )
    assert main(arguments) == 0
    corpus = corpus_of(tmp_path / "run")
    assert main(["sae", "evaluate", "--sae", str(tmp_path / "run"), "--corpus", corpus, "--threads", "1"]) == 0
    rows = {row.kind: row.numbers for row in load_evaluation(tmp_path / "run" / "evaluation")}
    assert set(rows) == set(KINDS)
    wanted = min(np.ceil(rows[ITSELF]["l0"]), 16)
    for kind in (PCA, LARGEST, RANDOM):
        assert rows[kind]["l0"] == pytest.approx(wanted, abs=0.05)
    assert rows[FOREIGN]["l0"] <= wanted + 1e-6


def test_nothing_active_is_evaluated_without_a_share_of_nothing(train, trained, tmp_path):
    sae = load_sae(trained)
    with torch.no_grad():
        sae.b_enc.fill_(-1e4)
    save_sae(sae, tmp_path / "silent")
    arguments = [
        "sae",
        "evaluate",
        "--sae",
        str(tmp_path / "silent"),
        "--corpus",
        corpus_of(trained),
        "--control-tokens",
        "0",
    ]
    assert main(arguments) == 0
    numbers = load_evaluation(tmp_path / "silent" / "evaluation")[0].numbers
    assert (numbers["l0"], numbers["dead"]) == (0, 48)
    assert "relative_bias" not in numbers


def test_an_autoencoder_that_does_not_name_its_hook(trained, tmp_path, capsys):
    sae = load_sae(trained)
    sae.cfg.metadata.hook_name = None
    save_sae(sae, tmp_path / "unnamed")
    arguments = [
        "sae",
        "evaluate",
        "--sae",
        str(tmp_path / "unnamed"),
        "--corpus",
        corpus_of(trained),
        "--control-tokens",
        "0",
    ]
    assert main(arguments) == 2
    assert "does not say which hook it reads" in capsys.readouterr().err
    assert main([*arguments, "--hook", HOOK]) == 0
    assert "features of a sentence" in (tmp_path / "unnamed" / "evaluation" / "page" / "sae.html").read_text()


def test_a_bundled_one_needs_a_place_for_its_evaluation(capsys):
    assert main(["sae", "evaluate", "--sae", "stories"]) == 2
    assert "'stories' is bundled: name a folder for its evaluation (--out)" in capsys.readouterr().err


def test_a_run_folder_of_another_model(trained, train, capsys):
    assert main(train(trained, "--model", "stories")) == 2
    assert "was made with" in capsys.readouterr().err


def test_activations_that_are_not_finite_fail_in_one_line(train, tiny_gpt2, tmp_path, capsys):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_gpt2.folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.mlp.c_proj.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert main(train(tmp_path / "run", "--model", folder)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mi-superposition:")]
    assert lines == ["mi-superposition: the activations at 'blocks.1.hook_resid_pre' hold a NaN or an infinity"]
    assert not (tmp_path / "run").exists()


def test_an_evaluation_stopped_goes_on_with_its_controls(trained, evaluated, tmp_path):
    from mi_superposition.studies.sae.evaluation import EvaluationRequest, write_sae_evaluation
    from mi_superposition.studies.sae.training import TextRequest
    from mi_superposition.training import Stopped

    request = EvaluationRequest(str(trained), TextRequest(model="", corpus=corpus_of(trained)), threads=1)
    seen = []

    def on_progress(by, state):
        seen.append(state)

    with pytest.raises(Stopped):
        write_sae_evaluation(
            tmp_path / "out", request, on_progress=on_progress, should_stop=lambda: "autoencoders" in seen
        )
    assert "control, training" in seen
    seen.clear()
    assert write_sae_evaluation(tmp_path / "out", request, on_progress=on_progress)
    assert "control, training" not in seen
    assert load_evaluation(tmp_path / "out") == load_evaluation(evaluated)


def test_the_page_of_an_evaluation(evaluated, grid, tmp_path):
    html = (evaluated / "page" / "sae.html").read_text()
    for text in (
        "autoencoder of a shuffled model, on that model",
        "principal components",
        "median cosine with the nearest",
    ):
        assert text in html
    # One alone has no frontier.
    assert "frontier" not in html
    out = tmp_path / "evaluation"
    assert (
        main(["sae", "evaluate", "--sae", str(grid), "--corpus", corpus_of(grid), "--out", str(out), "--threads", "1"])
        == 0
    )
    html = (out / "page" / "sae.html").read_text()
    assert html.count('data-figure="frontier-') == 2
