"""Models of any small size, and with weights that are no numbers: every command gives a right result or says in one line why not."""

import contextlib
import io
import json
import shutil
import warnings

import pytest
import torch
import transformers as T
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from robustness.fixtures import FULL

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.errors import WorkError
from mi_superposition.runs import METRICS

WEIGHTS = {
    "as they are": lambda weights: None,
    "a NaN": lambda weights: weights.view(-1)[-1].fill_(float("nan")),
    "an infinity": lambda weights: weights.view(-1)[0].fill_(float("inf")),
    "too large": lambda weights: weights.mul_(1e30),
    "zero": lambda weights: weights.zero_(),
}


@st.composite
def models(draw):
    """A configuration, and what is done to which of its weights."""
    heads = draw(st.sampled_from([1, 2]))
    d_model = heads * draw(st.sampled_from([1, 2, 5]))
    sizes = dict(
        vocab_size=draw(st.sampled_from([2, 300, 303])), n_positions=draw(st.sampled_from([2, 3, 32])), n_embd=d_model,
        n_layer=draw(st.sampled_from([1, 2])), n_head=heads, n_inner=draw(st.sampled_from([1, 2, 9])),
    )  # fmt: skip
    return sizes, draw(st.sampled_from(list(WEIGHTS))), draw(st.integers(0, 20))


def commands(model, texts, out):
    read = ["--model", model, "--corpus", texts]
    hook = ["--hook", "blocks.0.hook_resid_post"]
    small = ["--d-sae", "8", "--k", "2", "--tokens", "128", "--batch-size", "32", "--buffer-batches", "2"]
    return [
        ["neurons", "order", "--model", model, "--controls", "2", "--seconds", "0.01", "--window", "2", "--out", out],
        ["neurons", "scan", *read, "--threads", "1", "--out", out],
        ["neurons", "scan", *read, *hook, "--threads", "1", "--out", out],
        ["heads", "scan", *read, "--repeated-sequences", "2", "--threads", "1", "--out", out],
        ["spectra", *read, "--out", out],
        ["sae", "train", *read, *hook, *small, "--out", out],
        ["neurons", "try", "--model", model, "--neuron", "0.0", "a cat"],
    ]


def test_a_small_model_is_measured_or_refused(tiny_gpt2, tmp_path_factory, counts):
    root = tmp_path_factory.mktemp("small")
    texts = root / "texts.txt"
    texts.write_text("<|endoftext|>".join(f"The dog {n} saw a cat, and it was happy {n * 7}." for n in range(40)))
    codes = set()

    @settings(
        max_examples=60 if FULL else 6,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def check(drawn):
        sizes, kind, which = drawn
        folder, out = root / "model", root / "out"
        shutil.rmtree(folder, ignore_errors=True)
        with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            network = T.GPT2LMHeadModel(T.GPT2Config(**sizes))
            parameters = list(network.parameters())
            for weights in parameters:
                weights.add_(0.2 * torch.randn_like(weights))
            WEIGHTS[kind](parameters[which % len(parameters)])
            network.save_pretrained(folder)
        for file in tiny_gpt2.folder.glob("tokenizer*"):
            shutil.copy(file, folder)
        for words in commands(folder, texts, out):
            shutil.rmtree(out, ignore_errors=True)
            said, error = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):
                code = main([str(word) for word in words])
            counts["small models times commands"] += 1
            codes.add(code)
            last = (error.getvalue().splitlines() or [""])[-1]
            assert code in (0, 1, 2), (drawn, words)
            if code:
                assert last.startswith("mi-superposition: "), (drawn, words, error.getvalue())
                assert len(last) < 400, (drawn, words, last)
            elif "--out" in words:
                # JSON has neither NaN nor infinity.
                json.loads((out / METRICS).read_text(), parse_constant=pytest.fail)
            if kind in ("a NaN", "an infinity"):
                assert code == 1, (drawn, words)

    check()
    assert codes >= {0, 1}


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "holds such numbers"), (1e25, "they overflow")])
def test_weights_that_are_no_numbers_are_named(tiny_gpt2, tmp_path, value, said):
    network = T.AutoModelForCausalLM.from_pretrained(tiny_gpt2.folder, dtype=torch.float32)
    with torch.no_grad():
        network.transformer.h[1].mlp.c_fc.weight[2, 3] = value
        network.transformer.h[1].mlp.c_proj.weight.mul_(abs(value))
    network.save_pretrained(tmp_path)
    with pytest.raises(WorkError, match=said):
        ms.load_model(tmp_path, device="cpu")


def test_saved_models_too(tiny_gpt2, tmp_path):
    model = ms.load_model(tiny_gpt2.folder, device="cpu")
    with torch.no_grad():
        model.W_E[-1, 0] = float("inf")
    ms.save_model(model, tmp_path / "saved")
    with pytest.raises(WorkError, match=r"the weights of '.*saved' hold a NaN or an infinity: embed\.W_E"):
        ms.load_model(tmp_path / "saved", device="cpu")
