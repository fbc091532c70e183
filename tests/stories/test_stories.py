"""The story model: its loss against a direct computation, exact resume, and stories that are new."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from mi_superposition import load_model
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.runs import METRICS, read_history
from mi_superposition.stories.config import StoriesConfig
from mi_superposition.stories.evaluate import bits_per_character
from mi_superposition.stories.sample import sample_stories
from mi_superposition.stories.train import StoryRows, train_stories
from mi_superposition.training import Stopped

STORIES = [
    f"Once upon a time there was a {animal} who was {mood}. The end."
    for animal in ("cat", "dog", "fox", "owl")
    for mood in ("glad", "sad", "wet", "shy")
]
HELD_OUT = ["Once upon a time there was a hen who was glad. The end.", "Once there was a cat."]
CONFIG = dict(
    d_vocab=300, n_ctx=16, d_model=16, d_mlp=32, n_layers=1, n_heads=2, batch_size=4, n_steps=40, warmup_steps=4,
    log_every_steps=10, n_logged=2, threads=1, compile=False,
)  # fmt: skip


def config(**changes):
    return StoriesConfig(**{**CONFIG, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("stories") / "run"
    assert not train_stories(config(), STORIES, HELD_OUT, out).finished_already
    return out


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_the_run_is_a_model_for_everybody(trained):
    model = GPT2LMHeadModel.from_pretrained(trained, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained)
    hooked = load_model(trained, device="cpu")
    tokens = hooked.to_tokens("Once upon a time")
    assert tokens[0].tolist() == [tokenizer.eos_token_id, *tokenizer("Once upon a time")["input_ids"]]
    with torch.no_grad():
        assert torch.allclose(hooked(tokens), model(tokens).logits, atol=1e-4)
    assert tokenizer.decode(tokenizer("Größe 猫\n<b>")["input_ids"]) == "Größe 猫\n<b>"
    metrics = read_json(trained / METRICS)
    assert metrics["held_out_bits_per_character"] == pytest.approx(
        bits_per_character(model, tokenizer, HELD_OUT), rel=1e-4
    )
    assert metrics["tokens_seen"] == 40 * 4 * 16
    assert not (trained / "checkpoint.safetensors").exists()


def test_it_learns(trained):
    history = read_history(trained)
    assert [row["step"] for row in history] == [10, 20, 30, 40]
    assert history[-1]["held_out_bits_per_character"] < 0.85 * history[0]["held_out_bits_per_character"]


def test_again_says_finished(trained):
    before = weights(trained)
    assert train_stories(config(), STORIES, HELD_OUT, trained).finished_already
    assert weights(trained) == before


def test_stopped_and_gone_on_ends_the_same(trained, tmp_path):
    calls = iter(range(1000))
    with pytest.raises(Stopped):
        train_stories(config(), STORIES, HELD_OUT, tmp_path / "run", should_stop=lambda: next(calls) == 17)
    train_stories(config(), STORIES, HELD_OUT, tmp_path / "run")
    assert weights(tmp_path / "run") == weights(trained)
    assert read_history(tmp_path / "run") == read_history(trained)


@pytest.mark.slow
def test_killed_and_started_again_ends_the_same(trained, tmp_path):
    """A real process, killed after its first checkpoint."""
    code = (
        "import sys, json, time\n"
        "from pathlib import Path\n"
        "from mi_superposition.stories.config import StoriesConfig\n"
        "from mi_superposition.stories.train import train_stories\n"
        "given = json.loads(sys.argv[1])\n"
        "slow = lambda row: time.sleep(5) if row['step'] == 20 else None\n"
        "train_stories(StoriesConfig(**given['config']), given['stories'], given['held_out'], Path(sys.argv[2]), on_log=slow)\n"
    )
    import json

    given = json.dumps(dict(config=CONFIG, stories=STORIES, held_out=HELD_OUT))
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", code, given, str(out)], env=os.environ)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.safetensors").exists()
    train_stories(config(), STORIES, HELD_OUT, out)
    assert weights(out) == weights(trained)


def test_every_epoch_has_every_story_in_another_order():
    stories = [[number] * (number + 1) for number in range(1, 40)]
    rows = StoryRows(stories, config(), end=0)
    epochs = [
        torch.cat([rows(epoch * rows.steps_per_epoch + step)[:, :-1].flatten() for step in range(rows.steps_per_epoch)])
        for epoch in (0, 1)
    ]
    assert not torch.equal(epochs[0], epochs[1])
    counted = rows.tokens.bincount()
    for tokens in epochs:
        # All but what does not fill a last batch, each as often as it occurs or less.
        assert len(tokens) == rows.steps_per_epoch * 4 * 16
        assert (tokens.bincount(minlength=len(counted)) <= counted).all()
        # A story is never torn apart by the shuffling.
        text = " ".join(map(str, tokens.tolist()))
        assert sum(f"0 {' '.join([str(n)] * (n + 1))} 0" in text for n in range(1, 40)) > 25


def test_rows_overlap_by_the_token_to_predict():
    rows = StoryRows([[number] * 9 for number in range(1, 40)], config(), end=0)
    batch = rows(0)
    assert batch.shape == (4, 17)
    assert torch.equal(batch[:-1, -1], batch[1:, 0])


def test_bits_per_character_is_the_sum_over_tokens(trained):
    """Short documents: exactly the code length of the tokens and the end."""
    model = GPT2LMHeadModel.from_pretrained(trained, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained)
    texts = ["Once upon a time", "The end."]
    bits = 0.0
    for text in texts:
        tokens = [0, *tokenizer(text)["input_ids"], 0]
        assert len(tokens) <= 17
        with torch.no_grad():
            logs = model(torch.tensor([tokens[:-1]])).logits[0].double().log_softmax(-1)
        bits -= sum(float(logs[place, token]) for place, token in enumerate(tokens[1:])) / math.log(2)
    assert bits_per_character(model, tokenizer, texts) == pytest.approx(bits / sum(map(len, texts)), rel=1e-5)


def test_a_long_document_counts_every_token_once(trained):
    """With weights of zero every token costs log2 of the vocabulary, however the windows fall."""
    model = GPT2LMHeadModel.from_pretrained(trained, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for length in (1, 15, 16, 17, 24, 25, 40, 161):
        text = "z" * length
        n_tokens = len(tokenizer(text)["input_ids"]) + 1
        assert bits_per_character(model, tokenizer, [text]) == pytest.approx(
            n_tokens * math.log2(300) / length, rel=1e-5
        )
    with pytest.raises(RequestError, match="no characters"):
        bits_per_character(model, tokenizer, [""])


def test_samples_are_new_different_and_the_same_for_the_seed(trained):
    model = GPT2LMHeadModel.from_pretrained(trained, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    # Hot enough for a model that has seen sixteen sentences to say something else.
    first, again, other = (list(sample_stories(model, tokenizer, 20, seed=seed, temperature=1.5)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 20
    known = frozenset(first[:5])
    assert not known & set(sample_stories(model, tokenizer, 20, temperature=1.5, known=known))


def test_wrong_requests(tmp_path):
    with pytest.raises(RequestError, match="1 held-out documents are trained on too"):
        train_stories(config(), STORIES, STORIES[:1], tmp_path / "a")
    with pytest.raises(RequestError, match="both need at least one"):
        train_stories(config(), STORIES, [], tmp_path / "a")
    with pytest.raises(RequestError, match="do not fill a batch of 4000"):
        train_stories(config(batch_size=4000), STORIES, HELD_OUT, tmp_path / "a")
    with pytest.raises(RequestError, match="n_steps = 0"):
        config(n_steps=0)
    with pytest.raises(RequestError, match="d_vocab = 100"):
        config(d_vocab=100)
    with pytest.raises(RequestError, match="dropout = 1.5"):
        config(dropout=1.5)
