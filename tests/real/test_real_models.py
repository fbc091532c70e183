"""On two real pretrained models, in the folder that REAL_MODELS names: `smollm2-135m` (Llama) and `minilm` (BERT encoder).

`REAL_MODELS=FOLDER make real` runs these. Nothing is fetched.
"""

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from neurons.test_scan import check_against_brute_force
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.corpora import token_batches
from mi_superposition.files import read_json
from mi_superposition.models import load_check_of
from mi_superposition.models.encoders import load_encoder
from mi_superposition.neurons import ScanSettings
from mi_superposition.neurons.scan import UnitReader, calibrate, read_batches
from mi_superposition.runs import CHECKPOINT, METRICS

FOLDER = Path(os.environ.get("REAL_MODELS", "."))
SMOLLM2, MINILM = FOLDER / "smollm2-135m", FOLDER / "minilm"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "REAL_MODELS" not in os.environ, reason="REAL_MODELS does not name a folder with smollm2-135m and minilm"
    ),
]
MIDDLE = "blocks.15.mlp.hook_post"


@pytest.fixture(scope="module")
def texts():
    return list(itertools.islice(ms.load_corpus("stories", split="train"), 12))


@pytest.fixture(scope="module")
def model():
    return ms.load_model(SMOLLM2, device="cpu")


def test_it_predicts_what_transformers_predicts(model, texts):
    check = load_check_of(model)
    assert check.implementation == "HookedTransformer"
    network = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    for text in texts[:3]:
        tokens = tokenizer(text, return_tensors="pt").input_ids[:, :200]
        with torch.no_grad():
            wanted, found = network(tokens).logits.log_softmax(-1), model(tokens).log_softmax(-1)
        assert float((found - wanted).abs().max()) < 1e-3
        assert torch.equal(model.to_tokens(text, prepend_bos=False)[:, :200], tokens)


def test_a_scan_is_that_of_brute_force(model, texts):
    settings = ScanSettings(spare=3, per_tenth=2, reach=3, n_bins=20)
    batches = list(token_batches(texts, model.tokenizer, 4, 64))
    reader = UnitReader(model, {MIDDLE: None})
    found = ms.scan_neurons(model, batches, hooks=[MIDDLE], top_k=5, settings=settings)
    calibrations, _ = calibrate(lambda: read_batches(reader, batches))
    check_against_brute_force(model, batches, found, MIDDLE, 5, calibrations[MIDDLE])


def test_an_ablation_is_that_of_a_hook(model, texts):
    tokens = model.to_tokens(texts[0], prepend_bos=False)[:, :60]
    keep = ms.leave_out(model.cfg.n_heads)[[0, 4, 8]]
    found = ms.ablate_heads(model, tokens, keep, layer=15)
    for condition, head in zip(found, (0, 4, 8), strict=True):

        def zero(z, hook, head=head):
            z[:, :, head] = 0
            return z

        with torch.no_grad():
            wanted = model.run_with_hooks(tokens, fwd_hooks=[("blocks.15.attn.hook_z", zero)])
        assert torch.allclose(condition, wanted, atol=2e-3)


def test_an_order_is_above_its_control_and_below_its_bound(model):
    written = ms.neuron_vectors(model, layer=15, weights="out").parts[0].detach().float()
    unit = torch.nn.functional.normalize(written, dim=1).double()
    similarity = (unit @ unit.T).float()
    found = ms.order_neurons(similarity, seconds=0.5)
    path = found.order
    assert sorted(path.tolist()) == list(range(len(written)))
    # What its score says, added up again.
    score = float(similarity[path[:-1], path[1:]].double().square().sum())
    assert found.score == pytest.approx(score, rel=1e-5)
    assert score <= found.upper_bound
    # The same norms and spectrum in random directions.
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(len(written), written.shape[1], generator=generator))
    control = torch.nn.functional.normalize(left * torch.linalg.svdvals(written), dim=1)
    ordered = ms.order_neurons(control @ control.T, seconds=0.5)
    assert score > 1.3 * ordered.upper_bound


def test_an_encoder_gives_what_transformers_gives(texts):
    encoder = load_encoder(MINILM)
    pooled = ms.pool_texts(encoder, [text[:200] for text in texts])
    network, tokenizer = AutoModel.from_pretrained(MINILM).eval(), AutoTokenizer.from_pretrained(MINILM)
    last = [name for name in pooled if name.startswith("hidden_states.")][-1]
    for number, text in enumerate(texts):
        read = tokenizer(text[:200], return_tensors="pt")
        with torch.no_grad():
            states = network(**read).last_hidden_state[0]
        # Without the beginning and the end, which are no words.
        np.testing.assert_allclose(pooled[last][number], states[1:-1].mean(0), atol=1e-4)


def test_an_autoencoder_that_was_killed_ends_the_same(tmp_path):
    whole, killed, beginnings = tmp_path / "whole", tmp_path / "killed", tmp_path / "beginnings.txt"
    # Whole stories would take half an hour, most of it for the losses of those held out.
    stories = itertools.islice(ms.load_corpus("stories", split="train"), 300)
    beginnings.write_text("<|endoftext|>".join(story[:100] for story in stories))
    command = [
        *(sys.executable, "-m", "mi_superposition.cli", "sae", "train", "--model", str(SMOLLM2)),
        *("--corpus", str(beginnings)),
        *("--hook", "blocks.2.hook_resid_pre", "--d-sae", "1152", "--k", "16"),
        *("--tokens", "4000", "--batch-size", "64", "--buffer-batches", "4"),
        *("--device", "cpu", "--threads", "1", "--out"),
    ]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (killed / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    assert read_json(killed / METRICS) == read_json(whole / METRICS)
    weights = [path.relative_to(whole) for path in whole.rglob("*.safetensors")]
    assert weights
    for path in weights:
        assert (killed / path).read_bytes() == (whole / path).read_bytes()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -e '.[cluster]'")
@pytest.mark.parametrize("command", ["neurons scan", "heads scan"])
def test_workers_of_ray_give_the_same_bytes(command, tmp_path):
    """In float32 on one thread each."""
    hooks = ["--hook", MIDDLE] if command == "neurons scan" else []
    words = [*command.split(), "--model", str(SMOLLM2), "--corpus", "stories", *hooks]
    words += ["--documents", "8", "--shard", "2", "--device", "cpu", "--threads", "1"]
    for engine in ("local", "ray"):
        assert main([*words, "--engine", engine, "--out", str(tmp_path / engine)]) == 0
    results = [path.name for path in (tmp_path / "local").glob("*.safetensors")]
    assert results
    for name in (*results, METRICS):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
