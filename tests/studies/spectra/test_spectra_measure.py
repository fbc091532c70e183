"""The command on images and on text: what it leaves, what its numbers are, and that it goes on exactly."""

import itertools
import math
import shutil
from pathlib import Path

import plotly.graph_objects as go
import pytest
import torch
from conftest import small_config

from mi_superposition.addition.train import train_addition
from mi_superposition.cli import main
from mi_superposition.corpora.images import load_images
from mi_superposition.errors import RequestError
from mi_superposition.files import content_hash, read_json, read_tensors, write_json
from mi_superposition.loading import load_run
from mi_superposition.models import load_model, weights_of
from mi_superposition.models.classifiers import build_classifier, logits
from mi_superposition.progress import Progress
from mi_superposition.runs import read_history
from mi_superposition.spectra import SpectraConfig, effective_ranks, weight_spectrum
from mi_superposition.spectra.classifier import Pixels, measured_steps
from mi_superposition.studies.spectra.measure import BUNDLED, RANDOM, load, measure
from mi_superposition.studies.spectra.network import STATES
from mi_superposition.training import Stopped

QUICK = SpectraConfig().replace(epochs=2, threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """SimpleNet on digits, by the command."""
    out = tmp_path_factory.mktemp("spectra") / "run"
    assert main(["spectra", "--epochs", "2", "--threads", "1", "--out", str(out)]) == 0
    return out


def test_what_the_command_leaves(run, capsys):
    metrics = read_json(run / "metrics.json")
    assert 0.6 < metrics["test_accuracy"] < 1
    assert metrics["test_accuracy_untrained"] < 0.3
    assert {f"fc{n}.{kind}.energy_rank" for n in (1, 2, 3) for kind in ("weights", "activations")} <= set(metrics)
    assert (metrics["fc1.weights.n"], metrics["fc3.weights.n"]) == (64, 10)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["spectra", "--epochs", "2", "--threads", "1", "--out", str(run)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"finished already: {run}"
    assert "fc1" in printed
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_manifest_asks_for_the_same_run(run, tmp_path):
    assert main(["spectra", "--config", str(run / "manifest.json"), "--out", str(tmp_path / "run")]) == 0
    for name in ("metrics.json", "network.safetensors", "history.jsonl", "manifest.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name


def test_the_result_is_short_a_table_and_a_figure(run):
    result = load_run(run)
    assert len(repr(result)) < 400
    assert "untrained" in result.summary()
    assert result._repr_html_().startswith("<p>SpectraResult")
    frame, metrics = result.to_frame(), read_json(run / "metrics.json")
    assert len(frame) == 6
    assert frame.loc[("fc1", "weights"), "entropy_rank_random"] == metrics["fc1.weights.random.entropy_rank"]
    assert frame.loc[("fc2", "activations"), "energy_rank"] == metrics["fc2.activations.energy_rank"]
    assert isinstance(result.plot(), go.Figure)


def test_a_run_of_version_0_1_is_read_and_continued(run, tmp_path, capsys):
    """Options in groups, under other names, and no corpus where none was named."""
    shutil.copytree(run, tmp_path / "run")
    manifest = read_json(run / "manifest.json")
    options = manifest["config"]
    training = {name: options[name] for name in ("epochs", "batch_size", "learning_rate", "weight_decay", "seed")}
    manifest["format"] = 1
    manifest["config"] = {
        "network": "simplenet", "images": None, "corpus": None, "split": "train", "column": "text", "image_column": None,
        "label_column": None, "layers": ["*"], "training": training, "stem": "imagenet", "measured_on": "test", "most": None,
        "energy": 0.99, "threads": 1, "device": options["device"],
    }  # fmt: skip
    write_json(tmp_path / "run" / "manifest.json", manifest)
    assert load(tmp_path / "run").config == load(run).config
    words = ["spectra", "--network", "simplenet", "--epochs", "2", "--threads", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("finished already")
    assert main(["page", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 0


def test_the_numbers_are_those_of_the_weights_and_of_all_test_images(run):
    digits = load_images("digits")
    network = build_classifier("simplenet", shape=digits.shape, n_classes=10)
    network.load_state_dict(read_tensors(run / "network.safetensors")[0])
    metrics = read_json(run / "metrics.json")
    ranks = effective_ranks(weight_spectrum(network.fc2.weight.detach()))
    assert metrics["fc2.weights.energy_rank"] == ranks.energy_rank
    assert metrics["fc2.weights.entropy_rank"] == pytest.approx(ranks.entropy_rank, rel=1e-5)
    pixels = Pixels(digits.train)
    with torch.no_grad():
        images = pixels(digits.test.pixels)
        hidden = network.fc1(images.flatten(1)).double()
        right = (logits(network, images).argmax(dim=1) == digits.test.labels).double().mean()
    assert metrics["test_accuracy"] == pytest.approx(float(right))
    whole = effective_ranks(torch.linalg.svdvals(hidden - hidden.mean(dim=0)))
    assert metrics["fc1.activations.energy_rank"] == whole.energy_rank
    assert metrics["fc1.activations.stable_rank"] == pytest.approx(whole.stable_rank, rel=1e-4)


def test_controls_are_untrained_and_random(run):
    result = load(run)
    untrained = build_classifier("simplenet", shape=(1, 8, 8), n_classes=10)
    torch.testing.assert_close(
        result.spectra["untrained"].weights["fc1"].values,
        weight_spectrum(untrained.fc1.weight.detach()).float(),
    )
    random = result.random.activations["fc1"]
    # As many samples, as large entries, none of the structure.
    assert (random.rows, random.columns) == (359, 128)
    assert random.deviation == result.spectra["trained"].activations["fc1"].deviation
    energy = random.values.square().sum()
    assert float(energy) == pytest.approx(128 * random.deviation**2, rel=0.05)
    assert float(random.values[0]) == pytest.approx(random.edge, rel=0.1)
    metrics = read_json(run / "metrics.json")
    ranks = [metrics[f"fc1.activations.{state}energy_rank"] for state in ("", "untrained.", "random.")]
    assert ranks[0] < ranks[2]
    assert ranks[1] < ranks[2]


def test_history_follows_the_ranks(run):
    rows = read_history(run)
    assert [row["step"] for row in rows] == measured_steps(2 * (1438 // 64))
    assert rows[0]["loss"] is None
    assert math.isfinite(rows[-1]["loss"])
    assert rows[-1]["watched_accuracy"] == read_json(run / "metrics.json")["test_accuracy"]
    assert rows[-1]["weights"]["fc1"][0] == read_json(run / "metrics.json")["fc1.weights.energy_rank"]


class StopOnce(Progress):
    """Asks to stop when it is asked for the n-th time."""

    def __init__(self, n):
        self.n, self.calls = n, itertools.count(1)

    def should_stop(self):
        return next(self.calls) == self.n


@pytest.mark.parametrize("stop_after", [7, 43, 46])
def test_stopped_anywhere_it_ends_with_the_same_bytes(run, tmp_path, stop_after):
    """While training, in its last steps, and while activations are measured."""
    with pytest.raises(Stopped):
        measure(QUICK, tmp_path / "run", StopOnce(stop_after))
    assert not measure(QUICK, tmp_path / "run").finished_already
    for name in ("network.safetensors", "trained.safetensors", "pictures.safetensors", "metrics.json", "history.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_network_with_batch_norms_is_trained_and_goes_on(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    # Of some random weights a layer of four channels uses three.
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1])
    ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    results = []
    for stop_after in (None, 5):
        config = SpectraConfig().replace(
            model=str(tmp_path / "net"), images="digits", epochs=1, batch_size=128, stem="small", documents=60, threads=1,
            layers=("*convolution",),
        )  # fmt: skip
        out = tmp_path / f"run {stop_after}"
        if stop_after:
            with pytest.raises(Stopped):
                measure(config, out, StopOnce(stop_after))
        measure(config, out)
        results.append((out / "network.safetensors").read_bytes())
        result = load(out)
        assert len(result.spectra["trained"].weights) == 8
        assert result.spectra["trained"].activations["resnet.embedder.embedder.convolution"].rows == 60 * 64
        assert -1 <= result.depth_correlation("trained", "activations", of_channels=True) <= 1
        # Of what is possible, every layer of so small a network uses all.
        assert set(result.ratios("trained", "activations").values()) == {1.0}
    assert results[0] == results[1]


def test_a_language_model_on_text(tiny_gpt2, tmp_path, capsys):
    (tmp_path / "words.txt").write_text(
        "<|endoftext|>".join(f"a cat ran to dog {n} and there was play" for n in range(40))
    )
    arguments = [
        "spectra",
        "--model",
        str(tiny_gpt2.folder),
        "--corpus",
        str(tmp_path / "words.txt"),
        "--documents",
        "30",
    ]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert "test_accuracy" not in metrics
    assert metrics["blocks.0.mlp.W_in.weights.n"] == 16
    assert metrics["blocks.1.mlp.hook_post.activations.untrained.energy_rank"] > 0
    assert "without training, on" in capsys.readouterr().out
    assert len(load(tmp_path / "run").to_frame()) == 14 + 7
    only = [*arguments, "--layers", "blocks.0.*", "--out", str(tmp_path / "some")]
    assert main(only) == 0
    spectra = load(tmp_path / "some").spectra["trained"]
    assert all(name.startswith("blocks.0.") for name in (*spectra.weights, *spectra.activations))
    assert "blocks.0.mlp.hook_post" in capsys.readouterr().out


def test_of_a_model_without_text_the_weights(tmp_path, capsys):
    """The addition model: attention only, no tokenizer."""
    train_addition(small_config(epochs=2), tmp_path / "run")
    assert main(["spectra", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert "weights only" in capsys.readouterr().out
    result = load(tmp_path / "out")
    assert not result.spectra["trained"].activations
    names = list(result.spectra["trained"].weights)
    assert names == ["embed.W_E", *(f"blocks.0.attn.W_{one}" for one in "QKVO"), "unembed.W_U"]
    (tmp_path / "words.txt").write_text("a cat ran")
    options = ["--model", str(tmp_path / "run"), "--corpus", str(tmp_path / "words.txt"), "--out", str(tmp_path / "o")]
    assert main(["spectra", *options]) == 2
    assert "came without a tokenizer: it cannot read a text" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_some_matrices_of_a_language_model(tiny_gpt2, tmp_path):
    options = ["--model", str(tiny_gpt2.folder), "--layers", "*.W_Q", "--out", str(tmp_path / "run")]
    assert main(["spectra", *options]) == 0
    assert list(load(tmp_path / "run").spectra["untrained"].weights) == [
        "blocks.0.attn.W_Q",
        "blocks.1.attn.W_Q",
    ]


def test_another_network_under_the_same_name_is_another_request(tmp_path, capsys):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_channels=1)
    options = ["spectra", "--model", str(tmp_path / "net"), "--images", "digits", "--epochs", "0", "--documents", "40"]
    for seed, code in ((0, 0), (1, 2)):
        torch.manual_seed(seed)
        ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
        assert main([*options, "--out", str(tmp_path / "run")]) == code
    assert "was made with network" in capsys.readouterr().err


def test_dropout_is_the_steps(tmp_path):
    """Stopped or not, in whatever state the global generator is: the same weights."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_channels=1, hidden_dropout_prob=0.3, num_labels=10,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(tmp_path / "net")
    config = SpectraConfig().replace(
        model=str(tmp_path / "net"), images="digits", epochs=1, batch_size=256, documents=20, threads=1
    )
    weights = []
    for number, stop_after in enumerate((None, 3)):
        torch.manual_seed(number)
        out = tmp_path / f"run {number}"
        if stop_after:
            with pytest.raises(Stopped):
                measure(config, out, StopOnce(stop_after))
        measure(config, out)
        weights.append((out / "network.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "simplnet"], "'simplnet' is no model"),
        (["--model", "simplnet", "--images", "digits"], "did you mean 'simplenet'"),
        (["--images", "nowhere"], "'nowhere' is not there"),
        (["--layers", "conv*"], "layers = 'conv*' matches nothing in 'simplenet': it has 'fc1', 'fc2', 'fc3'"),
        (["--stem", "small"], "only a ResNet has one"),
        (["--corpus", "words.txt"], "corpus = 'words.txt': 'simplenet' reads images ('digits')"),
        (["--images", "digits", "--model", "stories"], "'stories' is a language model"),
        (["--images", "digits", "--model", "net", "--corpus", "words.txt"], "'net' reads images"),
        (["--energy", "1.5"], "energy = 1.5: must be above 0 and at most 1"),
        (["--documents", "0"], "documents = 0: must be at least 1"),
        (["--batch-size", "5000"], "batch_size = 5000: there are 1438 images to train on"),
        (["--epochs", "-1"], "epochs = -1: must be at least 0"),
        (["--learning-rate", "0"], "learning_rate = 0.0: must be above 0"),
        (["--device", "tpu"], "device = 'tpu'"),
        (["--device", "mps"], "device = 'mps': has no float64"),
    ],
)
def test_wrong_requests_are_one_line_and_leave_nothing(options, said, tmp_path, capsys):
    assert main(["spectra", "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_is_work_that_failed(tmp_path, capsys):
    options = ["--learning-rate", "1e12", "--epochs", "2", "--threads", "1"]
    assert main(["spectra", "--out", str(tmp_path / "run"), *options]) == 1
    assert "try a lower learning rate" in capsys.readouterr().err.splitlines()[-1]


def test_without_training_it_is_as_untrained(tmp_path):
    measure(QUICK.replace(epochs=0), tmp_path / "run")
    result = load(tmp_path / "run")
    assert result.ratios("trained", "weights") == result.ratios("untrained", "weights")
    assert not result.history
    with pytest.raises(RequestError, match="is not a run folder"):
        load(tmp_path)


def test_what_is_bundled_is_what_its_page_says():
    docs = (Path(__file__).parents[3] / "docs" / "effective-rank.md").read_text()
    metrics = read_json(BUNDLED / "simplenet-mnist" / "metrics.json")
    assert metrics["test_accuracy"] >= 0.975
    assert f"Test accuracy: {100 * metrics['test_accuracy']:.1f} %" in docs
    for layer in ("fc1", "fc2"):
        for kind in ("weights", "activations"):
            ranks = [metrics[f"{layer}.{kind}.{state}energy_rank"] for state in ("", "untrained.", "random.")]
            # By Stringer's count too, of the weights.
            stringers = [ranks[0] - 1] if kind == "weights" else [metrics[f"{layer}.activations.n"]]
            assert f"| {' | '.join(map(str, [*stringers, *ranks]))} |" in docs
    for kind, name in (("weights", "fc1"), ("activations", "fc2")):
        assert str(metrics[f"{name}.{kind}.sum_rank"]) in docs
    resnet = load(BUNDLED / "resnet50-cifar100")
    assert f"Test accuracy: {100 * resnet.numbers['test_accuracy']:.1f} %" in docs
    for kind in ("weights", "activations"):
        means = [f"{resnet.mean_ratio(state, kind):.3f}" for state in (*STATES, RANDOM)]
        depth = [f"{resnet.depth_correlation(state, kind):+.2f}" for state in STATES]
        assert f"| {kind} | {' | '.join([*means, *depth])} |" in docs
    means = [f"{resnet.mean_ratio(state, 'activations', of_channels=True):.3f}" for state in (*STATES, RANDOM)]
    depth = [f"{resnet.depth_correlation(state, 'activations', of_channels=True):+.2f}" for state in STATES]
    assert f"| activations, divided by channels | {' | '.join([*means, *depth])} |" in docs
    assert f"{resnet.bounded('activations')} of the {len(resnet.ratios('trained', 'activations'))} layers" in docs
    for name in ("resnet50-cifar100", "simplenet-mnist", "stories"):
        assert load(BUNDLED / name).metrics() == pytest.approx(read_json(BUNDLED / name / "metrics.json"), rel=1e-6)
    model = read_json(BUNDLED / "stories" / "manifest.json")["inputs"]["model"]
    assert model["sha256"] == content_hash(weights_of(load_model("stories", device="cpu")))
