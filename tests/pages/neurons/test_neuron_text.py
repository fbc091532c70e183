"""A text through one neuron: on a terminal, and as plain data."""

import re

import plotly.graph_objects as go
import pytest
import torch

from mi_superposition.cli import main
from mi_superposition.errors import RequestError
from mi_superposition.neurons import neuron_on_text


def test_try_prints_activations(tiny_gpt2, capsys):
    request = ["neurons", "try", "a cat ran", "--neuron", "1.3", "--model", str(tiny_gpt2.folder)]
    assert main(request) == 0
    plain = capsys.readouterr().out
    assert main([*request, "--colour", "always"]) == 0
    coloured = capsys.readouterr().out
    model = tiny_gpt2.hooked
    tokens = [0, *model.tokenizer("a cat ran", add_special_tokens=False)["input_ids"]]
    _, cache = model.run_with_cache(torch.tensor([tokens]))
    wanted = [f"[{value:.2f}]" for value in cache["blocks.1.mlp.hook_post"][0, 1:, 3].tolist()]
    assert re.findall(r"\[-?\d+\.\d\d\]", plain) == wanted
    assert re.sub(r"\x1b\[[\d;]+m", "", coloured).startswith("a cat ran")
    assert "\x1b[48;5;" in coloured
    measured = neuron_on_text(model, "a cat ran", 1, 3)
    assert [f"[{value:.2f}]" for value in measured.to_frame()["activation"]] == wanted
    assert "".join(measured.to_frame()["token"]) == "a cat ran"
    assert repr(measured).startswith("TextActivations(Layer 1, neuron 3 on ")
    assert len(repr(measured)) < 400
    assert "<span" in measured._repr_html_()
    assert isinstance(measured.plot(), go.Figure)


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["x", "--neuron", "3"], "neuron = '3'"),
        (["x", "--neuron", "1.48"], "0 to 47"),
        (["x", "--neuron", "2.0"], "layers 0 to 1"),
        ([" ", "--neuron", "1.0"], "text = ' '"),
        (["cat " * 200, "--neuron", "1.0"], "context of 32"),
    ],
)
def test_try_refuses(tiny_gpt2, arguments, quoted, capsys):
    assert main(["neurons", "try", *arguments, "--model", str(tiny_gpt2.folder)]) == 2
    error = capsys.readouterr().err
    assert quoted in error
    assert error.count("\n") == 1


def test_a_neuron_that_is_not_there(tiny_gpt2):
    with pytest.raises(RequestError, match="neuron = 48: layer 0 has neurons 0 to 47"):
        neuron_on_text(tiny_gpt2.hooked, "a cat", 0, 48)


def test_tokens_in_place_of_a_text(tiny_gpt2):
    model = tiny_gpt2.hooked
    tokens = model.to_tokens("a cat ran")
    wanted = neuron_on_text(model, "a cat ran", 1, 3)
    for given in (tokens, tokens[0]):
        found = neuron_on_text(model, given, 1, 3)
        assert found.tokens == wanted.tokens
        assert found.activations == pytest.approx(wanted.activations, abs=1e-5)
    with pytest.raises(RequestError, match="give something to read"):
        neuron_on_text(model, torch.zeros(1, 5, dtype=torch.long), 1, 3)
    with pytest.raises(RequestError, match=r"tokens of shape \(2, 4\): give those of one text"):
        neuron_on_text(model, tokens[:, :4].repeat(2, 1), 1, 3)
