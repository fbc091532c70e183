"""The bundled story model and corpus are what their card says."""

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GPT2LMHeadModel

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora.corpus import BUNDLED_CORPORA
from mi_superposition.files import read_json
from mi_superposition.models import BUNDLED_MODELS
from mi_superposition.runs import METRICS, read_manifest
from mi_superposition.stories.evaluate import bits_per_character

CARD = (Path(__file__).parent.parent.parent / "mi_superposition" / "bundled" / "README.md").read_text()


def test_the_model_has_the_shape_of_its_card():
    model = load_model("stories", device="cpu")
    cfg = model.cfg
    assert (cfg.n_layers, cfg.d_model, cfg.d_mlp, cfg.n_heads, cfg.n_ctx, cfg.d_vocab) == (2, 256, 1024, 8, 256, 4096)
    assert model.generate("Once upon a time", max_new_tokens=3, verbose=False, do_sample=False).startswith(
        "Once upon a"
    )


def test_the_loss_of_the_card_is_the_loss_of_the_run():
    manifest = read_manifest(BUNDLED_MODELS["stories"], "stories train")
    metrics = read_json(BUNDLED_MODELS["stories"] / METRICS)
    assert metrics["held_out_bits_per_character"] <= 0.85
    assert metrics["n_held_out"] == 1000
    assert f"**{metrics['held_out_bits_per_character']:.3f} bits per character**" in CARD
    assert f"{metrics['tokens_seen'] / 1e6:.1f} million tokens" in CARD
    assert manifest["config"]["n_steps"] * manifest["config"]["batch_size"] * 256 == metrics["tokens_seen"]


def test_the_corpus_is_large_enough_different_and_the_models_own():
    stories = list(load_corpus("stories"))
    assert len(stories) >= 2000
    assert len(set(stories)) == len(stories)
    assert 1e6 < sum(map(len, stories)) < 2.2e6
    model = GPT2LMHeadModel.from_pretrained(BUNDLED_MODELS["stories"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODELS["stories"])
    # Sampled below temperature 1, so surer than real text; and far surer than of the same words in another order.
    own = bits_per_character(model, tokenizer, stories[:100])
    scrambled = [" ".join(sorted(story.split())) for story in stories[:100]]
    assert own < 0.7
    assert bits_per_character(model, tokenizer, scrambled) > 2 * own


def test_everything_bundled_is_small():
    folder = BUNDLED_MODELS["stories"].parent
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert total < 20e6
    assert sum(path.stat().st_size for path in BUNDLED_MODELS["stories"].iterdir()) < 12e6
    assert BUNDLED_CORPORA["stories"].is_file()


@pytest.mark.skipif(
    "TINYSTORIES_HELD_OUT" not in os.environ, reason="TINYSTORIES_HELD_OUT names no file of real stories"
)
def test_the_loss_on_real_stories():
    held_out = list(load_corpus(os.environ["TINYSTORIES_HELD_OUT"]))
    model = GPT2LMHeadModel.from_pretrained(BUNDLED_MODELS["stories"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODELS["stories"])
    assert bits_per_character(model, tokenizer, held_out) <= 0.85
