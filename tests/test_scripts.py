"""The study scripts run on a model of one's own, from top to bottom."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from conftest import small_config
from transformers import BertTokenizerFast

from mi_superposition import load_corpus
from mi_superposition.addition.train import train_addition
from mi_superposition.cli import main
from mi_superposition.loading import load_run
from mi_superposition.sae import load_sae
from mi_superposition.sae.catalogue import BUNDLED_SAES
from mi_superposition.studies.concepts.measure import load as load_concepts
from mi_superposition.studies.toy.study import result_class
from mi_superposition.toy.config import StudyName

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run_script(tmp_path, monkeypatch, capsys):
    """Runs a script as its name does, in a folder of the test's own; what it says."""
    monkeypatch.chdir(tmp_path)

    def run(script, *arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_a_script_needs_nothing_but_python(tmp_path):
    train_addition(small_config(epochs=2), tmp_path / "run")
    command = [sys.executable, str(ROOT / "scripts" / "head_ablation.py"), "--model", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "less accurate" in done.stdout


def test_projections_of_a_folder(run_script, tmp_path):
    train_addition(small_config(epochs=2), tmp_path / "run")
    assert "roundness" in run_script("head_projections.py", "--model", "run")


def test_the_order_of_neurons_of_a_folder(tiny_gpt2, run_script):
    quick = ["--samples", 2, "--seconds", 0.02, "--layer", 0]
    said = run_script("neuron_order.py", "--model", tiny_gpt2.folder, *quick)
    assert "48 neurons: score" in said
    assert said.count("z = ") == 4
    assert "spots" in said


def test_the_neuroscope_of_a_folder(tiny_gpt2, run_script, tmp_path):
    documents = [f"a cat ran to dog {n} and there was play" for n in range(40)]
    (tmp_path / "words.txt").write_text("<|endoftext|>".join(documents))
    options = ["--model", tiny_gpt2.folder, "--corpus", "words.txt", "--documents", 30]
    said = run_script("neuroscope.py", "--out", "run", *options)
    assert said.startswith("30 documents")
    assert said.count("fires on") == 20
    assert (tmp_path / "run" / "page" / "neurons" / "L1N47.html").exists()


@pytest.mark.slow
def test_stories_are_trained_measured_and_sampled(run_script, tmp_path):
    words = ["cat", "dog", "fox", "owl", "hen", "cow", "pig"]
    stories = [
        f"Once there was a {a} and a {b}. They ran {n} miles to the {c}. " * 4
        for a in words
        for b in words
        for n, c in enumerate(words)
    ]
    (tmp_path / "train.txt").write_text("<|endoftext|>".join(stories))
    (tmp_path / "held-out.txt").write_text("Once there was a hen.<|endoftext|>" + stories[0])
    options = ["--train", "train.txt", "--held-out", "held-out.txt", "--n-steps", 2, "--no-compile"]
    said = run_script("train_stories.py", "--out", "run", *options)
    # The held-out story that is also trained on does not count.
    assert "on 1 held-out stories" in said
    assert "token frequency" in said
    said = run_script("sample_stories.py", "--model", "run", "--out", "new/s.parquet", "--stories", 3)
    assert said.startswith("3 stories")
    assert len(list(load_corpus(tmp_path / "new" / "s.parquet"))) == 3


def test_autoencoders_are_trained_evaluated_and_bundled(tiny_gpt2, run_script, tmp_path, monkeypatch):
    monkeypatch.setitem(BUNDLED_SAES, "stories", tmp_path / "bundled")
    documents = [f"a cat ran to dog {n} and there was play, said the {n % 7} owl" for n in range(200)]
    (tmp_path / "words.txt").write_text("<|endoftext|>".join(documents))
    options = ["--model", tiny_gpt2.folder, "--corpus", "words.txt", "--evaluate-on", "words.txt", "--tokens", 3000]
    size = ["--batch-size", 64, "--buffer-batches", 4, "--d-sae", 32, "--k", 2, 4]
    said = run_script("train_sae.py", "--out", "run", *options, *size, "--bundle", "--bundled-k", 2)
    assert said.count(" autoencoder ") == 2
    assert said.count(" SAE of a weight-shuffled model ") == 2
    assert said.count(" principal components ") == 2
    assert (tmp_path / "run" / "evaluation" / "page" / "index.html").exists()
    # The package has a finished run with the features of the one that is bundled, whichever explains most.
    bundled = load_run(tmp_path / "bundled" / "evaluation")
    assert bundled.main.sae == bundled.features.sae == "blocks.1.hook_resid_pre-32-k2"
    assert bundled.config.sae == "saes"
    assert load_sae("stories").cfg.k == 2


def test_effective_ranks_are_printed_and_bundled(run_script, tmp_path, monkeypatch):
    monkeypatch.setattr("mi_superposition.studies.spectra.measure.BUNDLED", tmp_path)
    said = run_script("effective_rank.py", "--epochs", "1", "--bundle", "mine")
    assert "simplenet on digits, 1 epochs, test accuracy" in said
    assert said.count("energy rank / largest possible, mean over layers") == 2
    assert list(load_run(tmp_path / "mine").spectra["trained"].weights) == ["fc1", "fc2", "fc3"]
    assert not (tmp_path / "mine" / "network.safetensors").exists()


def test_an_encoder_is_trained_and_its_concepts_printed(run_script, tmp_path, monkeypatch):
    words = ["good", "fine", "bad", "dull"]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", *words]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    rows = [{"text": f"a {words[n % 4]} film {n}", "label": ("good", "bad")[n % 4 // 2]} for n in range(200)]
    (tmp_path / "films.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = [
        "--train",
        "films.jsonl",
        "--test",
        "films.jsonl",
        "--tokenizer",
        "tokenizer",
        "--layers",
        1,
        "--dim",
        64,
    ]
    said = run_script("train_encoder.py", *options, "--out", "encoder")
    assert said.startswith("200 texts, 1 epochs: ")
    assert not (tmp_path / "encoder" / "checkpoint.safetensors").exists()
    monkeypatch.setattr("mi_superposition.studies.concepts.measure.BUNDLED", tmp_path)
    said = run_script("concepts.py", "--model", "encoder", "--corpus", "films.jsonl", "--bundle", "mine")
    assert "hidden_states.1" in said
    assert load_concepts(tmp_path / "mine").concepts == ("bad", "good")


@pytest.mark.parametrize("study", get_args(StudyName))
def test_toy_studies_at_the_smallest_size(study, run_script, tmp_path):
    run = str(tmp_path / "run")
    assert main(["toy", "study", study, "--n-instances", "1", "--n-steps", "2", "--threads", "1", "--out", run]) == 0
    said = run_script(f"toy_{study}.py", "--run", run)
    assert len(said.splitlines()) > 3
    assert said.splitlines()[-1] == load_run(tmp_path / "run").summary()


def test_toy_studies_are_trained_and_bundled(run_script, tmp_path, monkeypatch):
    """Into a package of one's own, and with trainings as short as can be."""
    trained = result_class("penalties").trainings(False)
    short = {name: training.replace(n_steps=2, n_instances=1, n_kept=1) for name, training in trained.items()}
    monkeypatch.setattr(result_class("penalties"), "trainings", staticmethod(lambda full: short))
    monkeypatch.setattr("mi_superposition.toy.models._BUNDLED", tmp_path / "package")
    said = run_script("train_toy.py", "--out", str(tmp_path / "runs"), "--studies", "penalties", "--bundle")
    bundled = tmp_path / "package" / "penalties"
    assert said.splitlines()[-1] == f"penalties: {load_run(bundled).summary()}"
    assert sorted(path.name for path in bundled.rglob("*") if path.is_file()) == sorted(
        ["manifest.json", "metrics.json"] * 3 + ["weights.safetensors"] * 2
    )


@pytest.mark.parametrize(
    "path",
    sorted(ROOT.glob("scripts/*.py")) + sorted(set(ROOT.glob("benchmarks/*.py")) - {ROOT / "benchmarks" / "timing.py"}),
    ids=lambda p: p.name,
)
def test_every_script_says_what_it_does(path, monkeypatch, capsys):
    # As when it is called by its name: what stands beside it can be imported.
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(path), run_name="__main__")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage:")
