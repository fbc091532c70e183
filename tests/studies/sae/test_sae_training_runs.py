"""Sparse autoencoders trained from the command line: killed, gone on with, shared out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import plotly.graph_objects as go
import pyarrow
import pyarrow.parquet
import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from studies.sae.sae_runs import HOOK, NEURONS, WORDS

from mi_superposition import load_run
from mi_superposition.cli import main
from mi_superposition.errors import WorkError
from mi_superposition.files import read_json, read_state, write_json
from mi_superposition.sae import ActivationStream
from mi_superposition.studies.sae.train import load


def weights(folder):
    return dict(SAE.load_from_disk(str(folder)).state_dict())


def same_weights(a, b):
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def test_a_trained_run(trained_sae, tiny_gpt2):
    metadata = SAE.load_from_disk(str(trained_sae)).cfg.metadata
    assert metadata.hook_name == HOOK
    assert metadata.model_name == str(tiny_gpt2.folder)
    assert metadata.training["tokens"] == 4000
    metrics = read_json(trained_sae / "metrics.json")
    assert metrics["sae/l0"] == 4
    assert 0.3 < metrics["sae/explained_variance"] < 1
    assert metrics["sae/ce_clean"] > 0
    rows = [json.loads(line) for line in (trained_sae / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 63
    assert set(rows[-1]["saes"]["sae"]) == {"loss", "l0", "explained_variance", "dead_features"}
    assert not (trained_sae / "checkpoint.safetensors").exists()


def test_what_saved_autoencoders_remember_keeps_its_names(trained_sae):
    """Other programs read them: the names of version 0.1."""
    metadata = read_json(trained_sae / "cfg.json")["metadata"]
    assert list(metadata["trained_with"])[1:] == [
        "architecture", "d_sae", "k", "sparsity", "normalize", "learning_rate", "warmup_steps", "decay_share", "dead_after", "seed",
    ]  # fmt: skip
    assert list(metadata["training"]) == [
        "model", "corpus", "split", "column", "context", "batch", "precision", "device", "tokens", "batch_size", "buffer_batches",
        "threads", "seed", "activations_dtype",
    ]  # fmt: skip


def test_it_says_its_sizes_first_and_a_table_last(sae_command, tmp_path, capfd):
    assert main(sae_command(tmp_path / "one")) == 0
    captured = capfd.readouterr()
    assert "63 steps of 64 tokens; buffer of 512 tokens, 0 MiB" in captured.err
    assert captured.out.splitlines()[0].split()[:2] == ["l0", "explained_variance"]
    assert captured.out.splitlines()[-1] == f"results: {tmp_path / 'one'}"
    metrics = (tmp_path / "one" / "metrics.json").read_bytes()
    assert main(sae_command(tmp_path / "one")) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("finished already")
    assert (tmp_path / "one" / "metrics.json").read_bytes() == metrics


@pytest.mark.parametrize(("run", "n"), [("trained_sae", 1), ("sae_grid", 4)])
def test_the_result_of_a_training(run, n, request):
    result = load_run(request.getfixturevalue(run))
    assert len(repr(result)) < 400
    assert "held-out variance" in result._repr_html_()
    frame = result.to_frame()
    assert len(frame) == len(result.history) == n
    assert frame.loc[result.best, "explained_variance"] == frame["explained_variance"].max()
    assert isinstance(result.plot(), go.Figure)
    assert len(result.plot().data) == n


def test_a_manifest_is_a_configuration(trained_sae, tmp_path):
    assert main(["sae", "train", "--config", str(trained_sae / "manifest.json"), "--out", str(tmp_path / "again")]) == 0
    assert same_weights(tmp_path / "again", trained_sae)
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (trained_sae / "metrics.json").read_bytes()


def recorded_by_version_0_1(run, folder):
    """The run with the manifest that version 0.1 wrote of it."""
    shutil.copytree(run, folder)
    manifest = read_json(folder / "manifest.json")
    now, jobs = manifest["config"], load(run).config.jobs
    text = {name: now[name] for name in ("model", "corpus", "split", "context", "precision", "device")}
    stream = {name: now[name] for name in ("tokens", "batch_size", "buffer_batches", "threads", "seed")}
    manifest |= {
        "format": 1,
        "config": {
            "text": text | {"column": "text", "batch": now["forward_batch"]},
            "stream": stream,
            "saes": {job.name: {"hook": job.hook} | job.config.flat() for job in jobs},
            "activations_dtype": now["activations_dtype"],
        },
    }
    write_json(folder / "manifest.json", manifest)


@pytest.mark.parametrize("run", ["trained_sae", "sae_grid"])
def test_a_run_of_version_0_1_is_read(run, sae_command, request, tmp_path, capsys):
    run = request.getfixturevalue(run)
    recorded_by_version_0_1(run, tmp_path / "old")
    assert load(tmp_path / "old").config == load(run).config
    grid = ["--hook", HOOK, NEURONS, "--k", 2, 4] if "grid" in run.name else []
    assert main(sae_command(tmp_path / "old", *grid)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("finished already")
    assert main(["page", str(tmp_path / "old"), "--out", str(tmp_path / "page")]) == 0


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_weights(sae_command, trained_sae, tmp_path):
    out = tmp_path / "killed"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    # A checkpoint every ten steps: there is one to go on from long before the end.
    command = [sys.executable, "-m", "mi_superposition.cli", *sae_command(out)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # It was in the middle.
    assert read_json(out / "manifest.json")["status"] == "running"
    assert 0 < read_state(out / "checkpoint.safetensors")["step"] < 63
    assert main(sae_command(out)) == 0
    assert same_weights(out, trained_sae)
    assert (out / "history.jsonl").read_bytes() == (trained_sae / "history.jsonl").read_bytes()


def test_every_batch_is_read_with_the_threads_asked_for(sae_command, tmp_path, monkeypatch):
    """Threads decide the order of sums, and so the last bits: also of the first batch, read before there is a folder."""
    seen, batch = [], ActivationStream.batch

    def watched(stream, index):
        seen.append((index, torch.get_num_threads()))
        return batch(stream, index)

    monkeypatch.setattr(ActivationStream, "batch", watched)
    torch.set_num_threads(2)
    try:
        assert main(sae_command(tmp_path / "one", "--tokens", 300)) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert {index for index, _ in seen} >= set(range(5))
    assert {threads for _, threads in seen} == {1}


def test_activations_kept_on_disk_change_nothing(sae_command, trained_sae, tmp_path):
    kept = tmp_path / "activations"
    assert main(sae_command(tmp_path / "one", "--activations", kept)) == 0
    assert same_weights(tmp_path / "one", trained_sae)
    written = {path: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")}
    assert main(sae_command(tmp_path / "wider", "--activations", kept, "--d-sae", 64)) == 0
    assert {path: path.stat().st_mtime_ns for path in kept.glob("*.safetensors")} == written


def test_where_activations_are_kept_is_no_part_of_the_request(sae_command, tmp_path, capsys):
    assert main(sae_command(tmp_path / "one", "--tokens", 300)) == 0
    assert main(sae_command(tmp_path / "one", "--tokens", 300, "--activations", tmp_path / "kept")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("finished already")


def test_only_the_first_documents_are_trained_on(sae_command, trained_sae, tmp_path, capsys):
    few = ["--documents", 100]
    assert main(sae_command(tmp_path / "few", *few)) == 0
    assert not same_weights(tmp_path / "few", trained_sae)
    assert read_json(tmp_path / "few" / "cfg.json")["metadata"]["training"]["documents"] == 100
    # All that there are is the same as no such limit.
    assert main(sae_command(tmp_path / "all", "--documents", 300)) == 0
    assert same_weights(tmp_path / "all", trained_sae)
    assert main(sae_command(tmp_path / "none", "--documents", 1)) == 2
    assert "fewer than a buffer of 512" in capsys.readouterr().err


def test_a_grid_is_one_folder_each_and_each_what_it_is_alone(sae_grid, trained_sae):
    names = {path.parent.name for path in sae_grid.glob("*/cfg.json")}
    assert names == {f"{hook}-48-k{k}" for hook in (HOOK, NEURONS) for k in (2, 4)}
    assert same_weights(sae_grid / f"{HOOK}-48-k4", trained_sae)
    metrics = read_json(sae_grid / "metrics.json")
    assert metrics[f"{HOOK}-48-k2/l0"] == 2
    assert metrics[f"{HOOK}-48-k2/explained_variance"] < metrics[f"{HOOK}-48-k4/explained_variance"]


@pytest.mark.slow
def test_with_ray_every_autoencoder_is_a_task_with_the_same_weights(sae_grid, sae_command, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "ray"
    arguments = sae_command(out, "--hook", HOOK, NEURONS, "--k", 2, 4, "--engine", "ray")
    assert main(arguments) == 0
    for folder in sae_grid.glob("*/cfg.json"):
        assert same_weights(out / folder.parent.name, folder.parent)
    assert read_json(out / "metrics.json") == read_json(sae_grid / "metrics.json")
    assert load(out).history == load(sae_grid).history


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--hook", "blocks.1.hook_resid_pro"], "did you mean 'blocks.1.hook_resid_pre'?"),
        (["--k", "49"], "k = 49: there are only 48 features"),
        (["--k", "2", "2"], "two grid entries are identical"),
        (["--sparsity", "3"], "sparsity = 3.0: 'topk' is made sparse by k"),
        (["--architecture", "standard"], "k = 4: 'standard' is made sparse by sparsity"),
        (["--architecture", "matryoshka", "--d-sae", "8", "--k", "1"], "'matryoshka' nests widths down to an eighth"),
        (["--buffer-batches", "1000"], "fewer than a buffer of 64,000"),
        (["--tokens", "0"], "tokens = 0: must be at least 1"),
        (["--batch-size", "1"], "batch_size = 1: must be at least 2"),
        (["--context", "5000"], "context = 5000: must be 2 to 32"),
        (["--device", "mps"], "device = 'mps': has no float64"),
        (["--precision", "int8"], "precision"),
        (
            ["--k", "2", "4", "--engine", "ray", "--activations", "kept"],
            "activations = 'kept': tasks of Ray read the text themselves",
        ),
    ],
)
def test_wrong_requests_are_one_line(sae_command, tmp_path, capsys, more, message):
    assert main(sae_command(tmp_path / "run", *more)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mi-superposition:")]
    assert len(lines) == 1
    assert message in lines[0]
    # A request that fails leaves no folder in the way of a better one.
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_request(trained_sae, sae_command, capsys):
    assert main(sae_command(trained_sae, "--d-sae", 64)) == 2
    assert "was made with d_sae = [48], not [64]" in capsys.readouterr().err


def test_activations_of_another_column_are_not_taken(sae_command, tmp_path, capsys):
    generator = np.random.default_rng(1)
    columns = {name: [" ".join(generator.choice(WORDS, 20)) for _ in range(150)] for name in ("text", "other")}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "two.parquet")
    options = ["--corpus", tmp_path / "two.parquet", "--activations", tmp_path / "kept", "--tokens", 600]
    assert main(sae_command(tmp_path / "one", *options)) == 0
    assert main(sae_command(tmp_path / "two", *options, "--column", "other")) == 2
    assert "was made with corpus = " in capsys.readouterr().err
    assert main(sae_command(tmp_path / "three", *options, "--activations-dtype", "float16")) == 2


def test_a_run_folder_of_another_model(trained_sae, sae_command, capsys):
    assert main(sae_command(trained_sae, "--model", "stories")) == 2
    assert "was made with" in capsys.readouterr().err


def test_activations_that_are_not_finite_fail_in_one_line(sae_command, tiny_gpt2, tmp_path, capsys):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_gpt2.folder, folder)
    broken = load_file(folder / "model.safetensors")
    broken["transformer.h.0.mlp.c_proj.bias"][3] = float("nan")
    save_file(broken, folder / "model.safetensors", {"format": "pt"})
    assert main(sae_command(tmp_path / "run", "--model", folder)) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mi-superposition:")]
    said = (
        "transformers reads NaN or infinity as the model's logits: transformer.h.0.mlp.c_proj.bias holds such numbers"
    )
    assert lines == [f"mi-superposition: {said}"]
    assert not (tmp_path / "run").exists()


def test_a_history_that_lacks_the_autoencoder_is_refused(trained_sae, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(trained_sae, copy)
    # As version 0.1 left it: with hashes the change itself is refused.
    manifest = read_json(copy / "manifest.json")
    del manifest["files"]
    write_json(copy / "manifest.json", manifest)
    first, *rows = (copy / "history.jsonl").read_text().splitlines()
    (copy / "history.jsonl").write_text(
        "\n".join([first, json.dumps(json.loads(rows[0]) | {"saes": {}}), *rows[1:]]) + "\n"
    )
    with pytest.raises(WorkError, match=r"history\.jsonl' is damaged: line 2: saes lacks 'sae'"):
        load(copy)
