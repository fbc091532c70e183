"""Examples of a unit as plain data: cut right, and nothing hostile gets through where they are shown."""

import math
import re

import numpy as np
import pytest
import torch
from conftest import TINY_TEXT

from mi_superposition.corpora import token_batches
from mi_superposition.errors import RequestError
from mi_superposition.neurons import logit_effects, scan_neurons
from mi_superposition.neurons.scan.examples import Examples, UnitExamples, excerpts
from mi_superposition.neurons.scan.shading import shaded_html

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    '<img src=x onerror="window.broken = 2">',
    "it's & <b>",
    " word",
]
TEXT = {3: [f" w{number}" for number in range(20)]}


def one_example(position, reach=3):
    """Of document 3, whose activation at each position is that number; nothing is known beyond it."""
    at = np.arange(position - reach, position + reach + 1)
    window = torch.tensor([[[float(p) if 0 <= p < 20 else math.nan for p in at]]])
    return Examples(torch.tensor([[float(position)]]), torch.tensor([[3]]), torch.tensor([[position]]), window)


@pytest.mark.parametrize("position", [0, 1, 10, 18, 19])
@pytest.mark.parametrize("around", [(2, 1), (6, 6)])
@pytest.mark.parametrize("kept", [0, 3])
def test_every_token_has_its_own_activation(position, around, kept):
    [excerpt] = excerpts(one_example(position), 0, TEXT, around=around, kept=kept)
    assert excerpt.tokens[excerpt.position - excerpt.first] == f" w{position}"
    assert (excerpt.first, len(excerpt.tokens)) == (
        max(0, position - around[0]),
        min(20, position + around[1] + 1) - max(0, position - around[0]),
    )
    for token, value in zip(excerpt.tokens, excerpt.token_activations(), strict=True):
        number = int(token.removeprefix(" w"))
        assert math.isnan(value) if abs(number - position) > 3 else value == number
    first, last = excerpt.activations_first, excerpt.activations_first + len(excerpt.activations) - 1
    assert first == max(0, position - min(3, max(around[0], kept)))
    assert last == min(19, position + min(3, max(around[1], kept)))


def test_missing_examples_are_left_out():
    example = one_example(4)
    none = Examples(example.activation * math.nan, example.document * 0 - 1, example.position * 0 - 1, example.window)
    assert excerpts(none, 0, TEXT) == []


def unit_of(tokens):
    values = np.linspace(-1, 3, len(tokens)).astype(np.float32)
    window = torch.tensor(values)[None, None]
    middle = len(tokens) // 2
    examples = Examples(torch.tensor([[float(values[middle])]]), torch.tensor([[0]]), torch.tensor([[middle]]), window)
    return UnitExamples(
        hook="blocks.0.mlp.hook_post",
        unit=3,
        largest=tuple(excerpts(examples, 0, {0: tokens})),
        histogram=torch.tensor([0, 10, 2, 1, 0]),
        edges=torch.linspace(-1, 3, 4),
        maximum=3.0,
        mean=0.5,
        fraction_active=0.25,
        contexts=2.5,
        contexts_permuted=9.0,
    )


def test_a_notebook_shows_a_unit():
    html = unit_of([*HOSTILE, " end"])._repr_html_()
    assert "Layer 0, neuron 3: maximum 3.00" in html
    assert "2.5 contexts (9.0 when permuted across units)" in html
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("<span title=") == 5


def test_shading_is_deeper_the_larger_and_says_what_is_not_known():
    html = shaded_html(["a", "b", "c", "d"], [-3.0, 1.0, 3.0, math.nan], 3.0)
    depths = re.findall(r"rgba\(([\d, ]+), ([\d.]+)\)", html)
    assert [float(depth) for _, depth in depths] == [0.62, 0.21, 0.62, 0.0]
    assert depths[0][0] != depths[2][0]
    assert "no activation kept" in html


@pytest.mark.browser
def test_circuitsvis_draws_a_unit(browser, tmp_path):
    from mi_superposition.notebook import load_circuitsvis, topk_samples

    unit = unit_of([*HOSTILE, " end"])
    view = topk_samples({unit.name: unit.samples()})
    (tmp_path / "view.html").write_text(
        f"<!doctype html><meta charset='utf-8'>{load_circuitsvis().html}{view.html}", encoding="utf-8"
    )
    page = browser.new_page()
    page.goto((tmp_path / "view.html").as_uri())
    page.wait_for_selector("[id^=circuits-vis] *:has-text('word')")
    assert page.evaluate("window.broken") is None
    page.close()


def test_a_scan_in_memory_knows_its_tokens(tiny_gpt2):
    model = tiny_gpt2.hooked
    batches = list(token_batches(TINY_TEXT, model.tokenizer, 2, model.cfg.n_ctx))
    scan = scan_neurons(model, batches, top_k=2)
    assert scan.settings.top_k == 2
    hook = "blocks.1.mlp.hook_post"
    frame = scan.examples(hook, 5).to_frame()
    for _, row in frame.iterrows():
        assert row["before"] + row["token"] + row["after"] in TINY_TEXT[row["document"]]
    effects = logit_effects(model, 1, k=3)
    assert len([scan.vocabulary[token] for token in effects.top[5].tolist()]) == 3
    with pytest.raises(RequestError, match="option 'top'"):
        scan_neurons(model, batches, top=2)
