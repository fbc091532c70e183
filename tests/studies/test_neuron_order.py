"""The study of the order of neurons, from the command to the page; and its verdict, which can go either way."""

import csv
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from mi_superposition.cli import main
from mi_superposition.neurons import NeuronVectors, control_vectors, neuron_correlations, neuron_vectors
from mi_superposition.neurons.control import KINDS, WEIGHT_KINDS
from mi_superposition.site.neuron_records import neuron_address
from mi_superposition.studies.neuron_order_study import Source, hardest, neuron_order_study, verdict


def order(out, model, *options):
    quick = ["--controls", "3", "--window", "4", "--seconds", "0.02", "--device", "cpu"]
    return main(["neurons", "order", "--model", str(model), "--out", str(out), *quick, *options])


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    out = tmp_path_factory.mktemp("order") / "run"
    assert order(out, tiny_gpt2.folder) == 0
    return out


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def test_the_run_folder_says_everything(run, tiny_gpt2):
    numbers = metrics(run)
    assert numbers["n_neurons"] == 48
    assert numbers["unordered_score"] < numbers["score"] <= numbers["upper_bound"]
    for kind in WEIGHT_KINDS:
        assert numbers[f"{kind}_samples"] == 3
        assert numbers[f"{kind}_z"] == pytest.approx(
            (numbers["score"] - numbers[f"{kind}_score_mean"]) / numbers[f"{kind}_score_sd"], rel=1e-6
        )
    tensors = load_file(run / "order.safetensors")
    assert sorted(tensors["order"].tolist()) == sorted(tensors["cluster_order"].tolist()) == list(range(48))
    similarity = neuron_vectors(tiny_gpt2.hooked, 1, "out").similarity()
    path = tensors["order"]
    assert float(similarity[path[:-1], path[1:]].double().square().sum()) == pytest.approx(numbers["score"], rel=1e-5)
    rows = list(csv.DictReader((run / "spots.csv").open()))
    assert rows
    for row in rows:
        place = int(row["place"])
        assert row["neurons"] == " ".join(map(str, path[place : place + 4].tolist()))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert len(manifest["inputs"]["model"]["sha256"]) == 64


def test_the_page_is_there_and_names_its_control(run):
    html = (run / "page" / "order.html").read_text()
    assert all(KINDS[kind] in html for kind in WEIGHT_KINDS)
    assert (run / "page" / "matrix" / "similarity" / "trained" / "0" / "0-0.png").is_file()
    assert (run / "page" / "matrix" / "similarity" / "control" / "values" / "0-0.js").is_file()


def test_again_is_finished_and_otherwise_refused(run, tiny_gpt2, capsys):
    assert order(run, tiny_gpt2.folder) == 0
    assert "finished already" in capsys.readouterr().out
    assert order(run, tiny_gpt2.folder, "--seed", "5") == 2
    assert "seed = 0, not 5" in capsys.readouterr().err


def test_the_same_request_gives_the_same_numbers(run, tiny_gpt2, tmp_path):
    assert order(tmp_path / "run", tiny_gpt2.folder) == 0
    assert metrics(tmp_path / "run") == metrics(run)


@pytest.mark.parametrize("weights", ["in", "both", "embed.W_E", "unembed.W_U.T"])
def test_other_weights(tiny_gpt2, tmp_path, weights):
    (tmp_path / "site" / "neurons").mkdir(parents=True)
    (tmp_path / "site" / neuron_address(0, 7)).write_text("a page")
    options = ["--weights", weights, "--layer", "0", "--measure", "inner", "--pages", str(tmp_path / "site")]
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 0
    # The rows of an embedding are tokens, not neurons.
    html = (tmp_path / "run" / "page" / "order.html").read_text()
    assert (neuron_address(0, 7) in html) == (weights in ("in", "both"))


def test_the_hardest_control_is_the_one_with_the_smallest_z(run):
    numbers = metrics(run)
    smallest = min(WEIGHT_KINDS, key=lambda kind: numbers[f"{kind}_z"])
    assert f"hardest control ({KINDS[smallest]})" in (run / "page" / "index.html").read_text()


def test_activations_on_a_corpus_of_ones_own(tiny_gpt2, tmp_path):
    texts = [f"Once upon a time there was a {word}." for word in ("cat", "dog", "fox", "hen", "cow", "owl")]
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(texts))
    options = ["--weights", "activations", "--corpus", str(tmp_path / "text.txt"), "--rows", "5"]
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 0
    numbers = metrics(tmp_path / "run")
    assert {name.removesuffix("_z") for name in numbers if name.endswith("_z")} == {"shifted", "untrained"}
    model = tiny_gpt2.hooked

    def five_rows():
        for text in texts[:5]:
            tokens = model.to_tokens(text)
            yield tokens, torch.arange(tokens.shape[1])[None] > 0

    similarity = neuron_correlations(model, five_rows(), 1)
    path = load_file(tmp_path / "run" / "order.safetensors")["order"]
    score = float(similarity[path[:-1], path[1:]].double().square().sum())
    assert numbers["score"] == pytest.approx(score, rel=1e-4)


def test_neuron_pages_are_linked_where_they_are(tiny_gpt2, tmp_path):
    site = tmp_path / "site"
    (site / "neurons").mkdir(parents=True)
    (site / neuron_address(1, 7)).write_text("a page")
    assert order(tmp_path / "run", tiny_gpt2.folder, "--pages", str(site)) == 0
    page = tmp_path / "run" / "page"
    html = (page / "order.html").read_text()
    address = f"../../site/{neuron_address(1, 7)}"
    assert f'"7":"{address}"' in html
    assert (page / address).is_file()
    assert "L1N8" not in html


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layer", "9"], "layer = 9: the model has layers 0 to 1"),
        (["--weights", "W_out"], "weights = 'W_out': give 'out', 'in', 'both'"),
        (["--controls", "1"], "controls = 1: a z-score needs at least 2"),
        (["--window", "1"], "window = 1: must be at least 2"),
        (["--window", "49"], "window = 49: must be 2 to the number of neurons, 48"),
        (["--seconds", "-1"], "seconds = -1.0"),
        (["--rows", "0"], "rows = 0"),
        (["--weights", "activations", "--corpus", "storie"], "did you mean 'stories'"),
        (["--device", "tpu"], "device = 'tpu'"),
    ],
)
def test_wrong_requests_are_one_line(tiny_gpt2, tmp_path, capsys, options, said):
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("mi-superposition: ")
    assert said in message


def test_a_model_without_neurons(tmp_path, capsys):
    assert order(tmp_path / "run", "addition", "--layer", "0") == 2
    assert "attention only" in capsys.readouterr().err


def source_of(vectors):
    held = NeuronVectors((vectors,))

    def sampler(kind):
        return lambda n: (sample.similarity() for sample in control_vectors(held, kind, n, seed=0))

    return Source(held.similarity, {kind: sampler(kind) for kind in ("gaussian", "spectrum")}, few=False)


def test_the_verdict_on_noise_is_no_more_than_chance():
    noise = torch.randn(100, 40, generator=torch.Generator().manual_seed(5))
    study = neuron_order_study(source_of(noise), n_controls=10, seconds=0.05)
    assert verdict(study).startswith("No more than chance")


def test_the_verdict_on_planted_pairs_is_more_than_sorting():
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(100, 40, generator=generator)
    vectors[50:] = vectors[:50] + 0.4 * torch.randn(50, 40, generator=generator)
    study = neuron_order_study(source_of(vectors), n_controls=10, seconds=0.05)
    assert verdict(study).startswith("Neighbours lie more nearly along one line than sorting alone makes them")
    assert hardest(study).z_score(study.found.score) > 3


def test_the_verdict_on_an_orthogonal_frame_is_less_than_chance():
    frame = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(5)))[0]
    spread = torch.cat(
        [frame, frame @ torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(6)))[0]]
    )
    source = source_of(spread)
    source.samples.pop("spectrum")
    study = neuron_order_study(source, n_controls=10, seconds=0.05)
    assert verdict(study).startswith("Neighbours lie less along one line")


MEASURED = """
import resource, sys
from mi_superposition.cli import main
code = main(sys.argv[1:])
print("MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


@pytest.mark.slow
def test_the_full_shape_of_tiny_stories_fits_in_six_gigabytes(tmp_path):
    folder = tmp_path / "TinyStories-2Layers-33M"
    config = GPTNeoConfig(
        vocab_size=50257, hidden_size=1024, num_layers=2, num_heads=16, attention_types=[[["global", "local"], 1]]
    )
    GPTNeoForCausalLM(config).save_pretrained(folder)
    asked = ["neurons", "order", "--model", str(folder), "--out", str(tmp_path / "run"), "--controls", "2"]
    done = subprocess.run([sys.executable, "-c", MEASURED, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("MiB")[1]) < 6 * 1024
    size = sum(path.stat().st_size for path in (tmp_path / "run" / "page").rglob("*") if path.is_file())
    assert size <= 40e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_same_study(run, tiny_gpt2, tmp_path):
    quick = ["--controls", "3", "--window", "4", "--seconds", "0.02", "--device", "cuda"]
    assert main(["neurons", "order", "--model", str(tiny_gpt2.folder), "--out", str(tmp_path / "run"), *quick]) == 0
    assert metrics(tmp_path / "run")["score"] == pytest.approx(metrics(run)["score"], rel=1e-3)
