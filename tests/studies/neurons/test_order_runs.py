"""The study of the order of neurons as a run folder, from the command line and from Python."""

import csv
import json
import shutil
import subprocess
import sys

import pytest
import torch
from robustness.workshop import with_options
from safetensors.torch import load_file
from transformers import GPTNeoConfig, GPTNeoForCausalLM

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.errors import RequestError
from mi_superposition.files import write_json, write_tensors
from mi_superposition.models import untrained_copy
from mi_superposition.neurons import (
    NeuronVectors,
    OrderConfig,
    control_vectors,
    cosine_similarity,
    neighbour_similarity,
    neuron_correlations,
    neuron_vectors,
    order_neurons,
)
from mi_superposition.neurons.control import WEIGHT_KINDS
from mi_superposition.parts import DevicePart, ModelPart
from mi_superposition.progress import Progress
from mi_superposition.studies.neurons import order as study
from mi_superposition.studies.neurons.packed import PackedSimilarity
from mi_superposition.training import Stopped


def order(out, model, *options):
    quick = ["--controls", "3", "--window", "4", "--seconds", "0.02", "--device", "cpu"]
    return main(with_options(["neurons", "order", "--model", model, "--out", out, *quick], options))


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    out = tmp_path_factory.mktemp("order") / "run"
    assert order(out, tiny_gpt2.folder) == 0
    return out


@pytest.fixture(scope="module")
def config(tiny_gpt2):
    model, device = ModelPart(model=str(tiny_gpt2.folder)), DevicePart(device="cpu")
    return OrderConfig(model=model, controls=3, window=4, seconds=0.02, device=device)


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
    path = tensors["order/order"]
    assert sorted(path.tolist()) == sorted(tensors["clusters/order"].tolist()) == list(range(48))
    similarity = neuron_vectors(tiny_gpt2.hooked, 1, "out").similarity()
    assert float(similarity[path[:-1], path[1:]].double().square().sum()) == pytest.approx(numbers["score"], rel=1e-5)
    rows = list(csv.DictReader((run / "spots.csv").open()))
    assert rows
    for row in rows:
        start = int(row["position"])
        assert row["neurons"] == " ".join(map(str, path[start : start + 4].tolist()))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["config"]["layer"] == 1
    assert manifest["config"]["device"] == "cpu"
    assert len(manifest["inputs"]["model"]["sha256"]) == 64


def test_the_result_is_read_back(run, tiny_gpt2):
    result = ms.load_run(run)
    similarity = neuron_vectors(tiny_gpt2.hooked, 1, "out").similarity()
    found = order_neurons(similarity, seconds=0.02)
    assert torch.equal(result.order.order, found.order)
    assert torch.equal(result.order.neighbours, neighbour_similarity(similarity, found.order))
    assert (result.order.score, result.order.upper_bound) == (found.score, found.upper_bound)
    assert (result.similarity.unpacked() - similarity).abs().max() <= 0.5 / 127 + 1e-6
    assert list(result.to_frame().index) == ["trained", *WEIGHT_KINDS]
    assert result.metrics() == metrics(run)


def test_the_example_of_a_control_is_its_first_sample(run, tiny_gpt2):
    result = ms.load_run(run)
    vectors = neuron_vectors(tiny_gpt2.hooked, 1, "out")
    kind = result.strictest.kind

    def untrained(seed):
        return neuron_vectors(untrained_copy(tiny_gpt2.hooked, seed), 1, "out")

    first = next(control_vectors(vectors, kind, 1, seed=0, untrained=untrained)).similarity()
    example = order_neurons(first, seconds=0.02, bound=False)
    assert torch.equal(result.strictest.example.order, example.order)
    assert torch.equal(result.strictest.example.neighbours, example.neighbours)
    assert float(result.strictest.scores[0]) == example.score
    assert result.example.largest == float(first.abs().fill_diagonal_(0).max())
    assert (result.example.unpacked() - first).abs().max() <= 0.5 / 127 + 1e-6


def test_effect_sizes_stand_beside_what_no_sample_can_score(run):
    result, numbers = ms.load_run(run), metrics(run)
    means = {kind: numbers[f"{kind}_score_mean"] for kind in WEIGHT_KINDS}
    hardest = max(means, key=means.get)
    assert result.hardest.kind == hardest
    assert numbers["gain"] == pytest.approx(numbers["score"] / means[hardest] - 1)
    assert numbers["highest_control"] == max(numbers[f"{kind}_upper_bound"] for kind in WEIGHT_KINDS)
    for control in result.controls:
        assert (control.bounds >= control.scores).all()
        counts = result.clusters_in(control.kind)
        assert len(counts) == 3
        assert counts[0] == result.example_clusters[control.kind]


def test_close_pairs_are_taken_out_and_the_controls_drawn_anew(tiny_gpt2, tmp_path):
    """The same by hand: rows, their control, its score."""
    similarity = neuron_vectors(tiny_gpt2.hooked, 1, "out").similarity()
    nearest = similarity.abs().fill_diagonal_(0).amax(dim=1)
    above = round(float(nearest.quantile(0.75)), 3)
    assert order(tmp_path / "run", tiny_gpt2.folder, "--without-above", above, 1.0) == 0
    [thinned] = ms.load_run(tmp_path / "run").thinned
    kept = (nearest <= above).nonzero().flatten()
    assert 0 < thinned.n_removed == 48 - len(kept)
    rest = NeuronVectors((neuron_vectors(tiny_gpt2.hooked, 1, "out").parts[0][kept],))
    assert thinned.score == order_neurons(rest.similarity(), seconds=0.02, bound=False).score

    def untrained(seed):
        return NeuronVectors((neuron_vectors(untrained_copy(tiny_gpt2.hooked, seed), 1, "out").parts[0][kept],))

    samples = control_vectors(rest, thinned.kind, 3, seed=0, untrained=untrained)
    scores = torch.tensor([order_neurons(one.similarity(), seconds=0.02).score for one in samples])
    assert thinned.mean == pytest.approx(float(scores.mean()), rel=1e-6)
    assert thinned.highest >= float(scores.max())
    numbers = metrics(tmp_path / "run")
    assert numbers[f"without_above_{above:g}_gain"] == pytest.approx(thinned.score / thinned.mean - 1)


def test_again_is_finished_and_otherwise_refused(run, tiny_gpt2, capsys):
    before = (run / "metrics.json").read_bytes()
    assert order(run, tiny_gpt2.folder) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"finished already: {run}"
    assert order(run, tiny_gpt2.folder, "--seed", "5") == 2
    assert "seed = 0, not 5" in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before


def test_the_same_request_gives_the_same_bytes(run, config, tmp_path):
    outcome = study.measure(config, tmp_path / "python")
    assert str(outcome) == f"results: {tmp_path / 'python'}"
    assert main(["neurons", "order", "--config", str(run / "manifest.json"), "--out", str(tmp_path / "config")]) == 0
    for name in ("metrics.json", "order.safetensors", "spots.csv"):
        assert (tmp_path / "python" / name).read_bytes() == (run / name).read_bytes()
        assert (tmp_path / "config" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize("weights", ["in", "both", "embed.W_E", "unembed.W_U.T"])
def test_other_weights(tiny_gpt2, tmp_path, weights):
    options = ["--weights", weights, "--layer", 0, "--measure", "inner"]
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 0
    result = ms.load_run(tmp_path / "run")
    found = order_neurons(neuron_vectors(tiny_gpt2.hooked, 0, weights).similarity("inner"), seconds=0.02)
    assert result.order.score == found.score


@pytest.mark.parametrize("option", ["--documents", "--rows"])
def test_activations_on_a_corpus_of_ones_own(tiny_gpt2, tmp_path, option):
    texts = [f"Once upon a time there was a {word}." for word in ("cat", "dog", "fox", "hen", "cow", "owl")]
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(texts))
    options = ["--weights", "activations", "--corpus", tmp_path / "text.txt", option, 5]
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 0
    numbers = metrics(tmp_path / "run")
    assert {name.removesuffix("_z") for name in numbers if name.endswith("_z")} == {"shifted", "untrained"}
    assert numbers["shifted_samples"] == 3
    model = tiny_gpt2.hooked

    def five_documents():
        for text in texts[:5]:
            tokens = model.to_tokens(text)
            yield tokens, torch.arange(tokens.shape[1])[None] > 0

    similarity = neuron_correlations(model, five_documents(), 1)
    path = ms.load_run(tmp_path / "run").order.order
    score = float(similarity[path[:-1], path[1:]].double().square().sum())
    assert numbers["score"] == pytest.approx(score, rel=1e-4)


def test_every_layer_is_ordered_too(tiny_gpt2, run, tmp_path):
    assert order(tmp_path / "run", tiny_gpt2.folder, "--every-layer") == 0
    result = ms.load_run(tmp_path / "run")
    cases = [(layer, weights) for layer in (0, 1) for weights in ("in", "out", "both")]
    assert [(short.layer, short.weights) for short in result.every_layer] == cases
    similarity = neuron_vectors(tiny_gpt2.hooked, 0, "both").similarity()
    short = result.every_layer[2]
    found = order_neurons(similarity, seconds=0.05)
    assert (short.score, short.gap) == (found.score, found.gap)
    numbers = metrics(tmp_path / "run")
    assert numbers["layer0_both_score"] == short.score
    assert numbers["layer0_both_spectrum_z"] == short.z["spectrum"]
    assert metrics(run).items() <= numbers.items()


class StopsAfter(Progress):
    """Asks to stop after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, by=1, state=""):
        self.left -= by

    def should_stop(self):
        return self.left <= 0


def test_it_stops_between_samples_and_the_same_command_gives_the_same_bytes(run, config, tmp_path):
    with pytest.raises(Stopped, match=r"^stopped after same row norms and spectrum, sample 2$"):
        study.measure(config, tmp_path / "run", StopsAfter(6))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "running"
    study.measure(config, tmp_path / "run")
    assert (tmp_path / "run" / "order.safetensors").read_bytes() == (run / "order.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layer", "9"], "layer = 9: the model has layers 0 to 1"),
        (["--weights", "W_out"], "weights = 'W_out': give 'out', 'in', 'gate', 'both'"),
        (["--controls", "1"], "controls = 1: must be at least 2"),
        (["--window", "1"], "window = 1: must be at least 2"),
        (["--window", "49"], "window = 49: must be 2 to the number of neurons, 48"),
        (["--seconds", "-1"], "seconds = -1.0: must be at least 0"),
        (["--documents", "0"], "documents = 0: must be at least 1"),
        (["--weights", "activations", "--corpus", "storie"], "did you mean 'stories'"),
        (["--device", "tpu"], "device = 'tpu'"),
        (["--pages", "/no/such/site"], "pages = '/no/such/site': there is no such folder"),
    ],
)
def test_wrong_requests_are_one_line_and_leave_nothing(tiny_gpt2, tmp_path, capsys, options, said):
    assert order(tmp_path / "run", tiny_gpt2.folder, *options) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("mi-superposition: ")
    assert said in message
    assert not (tmp_path / "run").exists()


def test_a_model_without_neurons(tmp_path, capsys):
    assert order(tmp_path / "run", "addition", "--layer", "0") == 2
    assert "attention only" in capsys.readouterr().err


def test_a_run_of_version_0_1_is_refused_in_one_line(run, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(run, old)
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["files"]
    names = ("layer", "weights", "measure", "controls", "window", "seed", "seconds")
    config = {name: manifest["config"][name] for name in names}
    write_json(old / "manifest.json", manifest | {"format": 1, "config": config})
    write_tensors(old / "order.safetensors", {"order": torch.arange(48)})
    with pytest.raises(RequestError, match="written by an older version, which kept other things"):
        ms.load_run(old)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_packed_similarity_is_that_of_the_tiles(n):
    from mi_superposition.site.tiles import quantised

    vectors = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    similarity = cosine_similarity(vectors)
    packed = PackedSimilarity.of(similarity)
    assert packed.triangle.shape == (n * (n + 1) // 2,)
    assert (quantised(packed.unpacked()) == quantised(similarity)).all()
    off_diagonal = similarity[~torch.eye(n, dtype=torch.bool)].abs()
    assert packed.largest == (float(off_diagonal.max()) if n > 1 else 0)


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
    assert (tmp_path / "run" / "order.safetensors").stat().st_size <= 20e6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_same_study(run, tiny_gpt2, tmp_path):
    quick = ["--controls", "3", "--window", "4", "--seconds", "0.02", "--device", "cuda"]
    assert main(["neurons", "order", "--model", str(tiny_gpt2.folder), "--out", str(tmp_path / "run"), *quick]) == 0
    assert metrics(tmp_path / "run")["score"] == pytest.approx(metrics(run)["score"], rel=1e-3)
