"""Every command on a model that only TransformerLens's bridge can hold: the numbers are those of the same weights as a HookedTransformer."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as T
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from mi_superposition import load_model
from mi_superposition.cli import main
from mi_superposition.files import read_json
from mi_superposition.models import hugging_face

WORDS = ["cat", "dog", "fox", "time", "there", "was", "liked", "to", "run", "play"]
HOOK = "blocks.1.hook_resid_pre"
SMALL_SAE = [
    "--d-sae",
    "32",
    "--k",
    "4",
    "--tokens",
    "2000",
    "--batch-size",
    "64",
    "--buffer-batches",
    "8",
    "--warmup-steps",
    "5",
    "--threads",
    "1",
]


@pytest.fixture(scope="module")
def llama(tiny_gpt2, tmp_path_factory):
    """Grouped queries, a gated MLP, rotary positions, and a tokenizer."""
    folder = tmp_path_factory.mktemp("bridged") / "llama"
    config = T.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = T.LlamaForCausalLM(config)
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    for file in tiny_gpt2.folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents, and lines that are none: three broken ones, two without text, one empty."""
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, generator.integers(5, 30))) for _ in range(150)]
    lines = [json.dumps({"text": text}) for text in texts]
    path = tmp_path_factory.mktemp("corpus") / "words.jsonl"
    path.write_text("\n".join([*lines, "{", "{", "[1]", '{"text": null}', '{"text": 3}', '{"text": " "}']))
    return path


def as_bridge(monkeypatch):
    def unknown(*_):
        raise ValueError("not known")

    monkeypatch.setattr(hugging_face, "_hooked_config", unknown)


def commands(llama, corpus, out):
    """Command lines by the folder, in ``out``, of the run that each makes; in their order."""
    read = ["--model", llama, "--corpus", corpus]
    some = ["--documents", "40"]
    return {
        "order": ["neurons", "order", "--model", llama, "--weights", "out", "--seconds", "0.1", "--controls", "2"],
        "in": ["neurons", "order", "--model", llama, "--weights", "gate", "--seconds", "0.1", "--controls", "2"],
        "activations": ["neurons", "order", *read, *some, "--weights", "activations", "--seconds", "0.1", "--controls", "2"],
        "scan": ["neurons", "scan", *read, "--threads", "1"],
        "contexts": ["neurons", "contexts", *read, *some, "--threads", "1", "--random-directions", "8"],
        "sae": ["sae", "train", *read, "--hook", HOOK, *SMALL_SAE],
        "evaluation": ["sae", "evaluate", "--sae", out / "sae", "--corpus", corpus, "--control-tokens", "600"],
        "features": ["neurons", "scan", *read, *some, "--sae", out / "sae", "--threads", "1"],
        "spectra": ["spectra", *read, *some],
    }  # fmt: skip


def run_all(llama, corpus, out):
    for name, command in commands(llama, corpus, out).items():
        assert main([*map(str, command), "--out", str(out / name)]) == 0, command
    return out


@pytest.fixture(scope="module")
def bridged(llama, corpus, tmp_path_factory):
    """Every command, the model held in a bridge."""
    with pytest.MonkeyPatch.context() as patch:
        as_bridge(patch)
        assert isinstance(load_model(llama, device="cpu"), TransformerBridge)
        return run_all(llama, corpus, tmp_path_factory.mktemp("bridge"))


@pytest.fixture(scope="module")
def hooked(llama, corpus, tmp_path_factory):
    """The same commands on the same weights."""
    assert isinstance(load_model(llama, device="cpu"), HookedTransformer)
    return run_all(llama, corpus, tmp_path_factory.mktemp("hooked"))


NAMES = list(commands("", "", Path()))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_a_hooked_transformer(bridged, hooked, name):
    found, wanted = (read_json(runs / name / "metrics.json") for runs in (bridged, hooked))
    assert found.keys() == wanted.keys()
    for number, value in wanted.items():
        # Each is initialised, and its weights are counted, as its own library does it.
        if "untrained" in number or "shuffled" in number:
            continue
        # Differences of the last bits are trained on.
        tolerance = 0.05 if name in ("sae", "evaluation") else 0.01
        assert found[number] == pytest.approx(value, rel=tolerance, abs=tolerance), number


@pytest.mark.parametrize("name", ["scan", "contexts", "sae", "evaluation"])
def test_what_the_corpus_lost_is_among_the_numbers(bridged, name):
    run = bridged / name
    numbers = read_json(run / "metrics.json")
    assert numbers["corpus/documents"] == (40 if name == "contexts" else 150)
    lost = {kind: numbers[f"corpus/{kind}"] for kind in ("empty", "broken", "missing", "repaired")}
    whole = {"empty": 1, "broken": 3, "missing": 2, "repaired": 0}
    # Forty documents end before what is lost.
    assert lost == (dict.fromkeys(whole, 0) if name == "contexts" else whole)


@pytest.mark.parametrize("name", NAMES)
def test_pages(bridged, name, tmp_path, monkeypatch):
    as_bridge(monkeypatch)
    assert main(["page", str(bridged / name), "--out", str(tmp_path / "page")]) == 0
    text = "".join(path.read_text() for path in (tmp_path / "page").glob("*.html"))
    lossy = read_json(bridged / name / "metrics.json").get("corpus/broken", 0)
    assert ("3 that could not be read, 2 without text" in text) == bool(lossy)


def test_a_neuron_on_a_text(llama, monkeypatch, capsys):
    command = ["neurons", "try", "--model", str(llama), "--neuron", "1.3", "there was a cat"]
    printed = []
    for _ in range(2):
        assert main(command) == 0
        printed.append(capsys.readouterr().out)
        as_bridge(monkeypatch)
    first, second = printed
    assert first == second
    assert "cat" in first
