"""A folder that brings Python code of its own: it is never run, and nobody is asked whether to."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)

from mi_superposition import load_model
from mi_superposition.cli import main
from mi_superposition.models.encoders import load_encoder

CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForImageClassification")


@pytest.fixture
def bring_code(tmp_path, monkeypatch):
    """Has a folder bring code, which leaves a file when it runs; that file."""
    ran = tmp_path / "ran"
    # Whoever asks is answered.
    monkeypatch.setattr("builtins.input", lambda *_: "y")

    def bring(folder, *, only_own):
        code = f"open({str(ran)!r}, 'w').close()\n"
        (folder / "own.py").write_text(code + "class Model: pass\nclass Config: pass\nclass Words: pass\n")
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {**dict.fromkeys(CLASSES, "own.Model"), "AutoConfig": "own.Config"}
        if only_own:
            config |= {"model_type": "own", "architectures": ["Model"]}
        (folder / "config.json").write_text(json.dumps(config))
        return ran

    return bring


def with_tokenizer(folder):
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]").save_pretrained(folder)
    return folder


def language_model(folder, tiny_gpt2):
    tiny_gpt2.transformers.save_pretrained(folder)
    return folder


def encoder(folder, _):
    torch.manual_seed(0)
    sizes = dict(vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    return with_tokenizer(folder)


def classifier(folder, _):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 4], depths=[1, 1], num_labels=2)
    ResNetForImageClassification(config).save_pretrained(folder)
    return folder


COMMANDS = [
    (language_model, "neurons order"),
    (language_model, "neurons scan"),
    (language_model, "spectra"),
    (encoder, "concepts"),
    (classifier, "spectra"),
]


@pytest.mark.parametrize(("make", "command"), COMMANDS, ids=lambda one: getattr(one, "__name__", one))
def test_it_is_refused_in_one_line(make, command, bring_code, tiny_gpt2, tmp_path, capsys):
    ran = bring_code(make(tmp_path / "model", tiny_gpt2), only_own=True)
    capsys.readouterr()
    assert main([*command.split(), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert not ran.exists()
    assert not (tmp_path / "run").exists()


def test_a_model_that_transformers_has_is_read_without_the_code(bring_code, tiny_gpt2, tmp_path):
    ran = bring_code(language_model(tmp_path / "model", tiny_gpt2), only_own=False)
    model = load_model(tmp_path / "model", device="cpu")
    assert torch.allclose(model.W_E, tiny_gpt2.hooked.W_E, atol=1e-3)
    assert not ran.exists()


def test_a_tokenizer_of_its_own_is_not_run(bring_code, tmp_path):
    """Where transformers knows the model, it reads the files with a tokenizer that it has."""
    ran = bring_code(encoder(tmp_path / "model", None), only_own=False)
    settings = {"auto_map": {"AutoTokenizer": ["own.Words", None]}, "tokenizer_class": "Words"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_encoder(tmp_path / "model").tokenizer
    assert type(tokenizer).__module__.startswith("transformers.")
    assert not ran.exists()
