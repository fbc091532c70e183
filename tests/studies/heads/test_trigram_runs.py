"""The study of superposition among heads as run folders: stopped and resumed, its page, and requests that cannot be met."""

import re

import numpy as np
import pytest
import torch
from robustness.workshop import with_options
from transformers import AutoTokenizer

import mi_superposition as ms
from mi_superposition.cli import main
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.heads.trigrams.edges import check_has_attention
from mi_superposition.models import build_attention_only_model, load_model, save_model
from mi_superposition.progress import Progress
from mi_superposition.stories.train import train_tokenizer
from mi_superposition.studies.heads import trigrams as study
from mi_superposition.training import Stopped

RESULT = {"trigrams.safetensors", "metrics.json", "manifest.json"}
WORDS = [
    "cat",
    "dog",
    "fox",
    "time",
    "there",
    "was",
    "liked",
    "to",
    "run",
    "play",
    "who",
    "and",
    "sun",
    "tree",
    "red",
    "one",
]
# A earlier, B now, C next; the first two are carried by head 0, the others by head 1.
PLANTED = [("cat", "to", "fox"), ("run", "to", "dog"), ("dog", "was", "run"), ("play", "was", "time"), ("time", "and", "play"), ("fox", "liked", "there")]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model with the planted trigrams by hand: every word a token and a dimension, one layer of two heads."""
    folder = tmp_path_factory.mktemp("models")
    train_tokenizer([" " + " ".join(WORDS)] * 20, 330).save_pretrained(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    token = {word: tokenizer.encode(" " + word)[0] for word in WORDS}
    assert all(len(tokenizer.encode(" " + word)) == 1 for word in WORDS)
    size = len(tokenizer)
    model = build_attention_only_model(
        n_layers=1, n_heads=2, d_head=4, d_model=size, n_ctx=32, d_vocab=size, d_vocab_out=size, seed=0
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E.copy_(torch.eye(size))
        model.unembed.W_U.copy_(torch.eye(size))
        attn = model.blocks[0].attn
        for number, (a, b, c) in enumerate(PLANTED):
            head, at = (0, number) if number < 2 else (1, number - 2)
            attn.W_Q[head, token[b], at] = attn.W_K[head, token[a], at] = 3.0
            attn.W_V[head, token[a], at], attn.W_O[head, at, token[c]] = 1.0, 5.0
    model.set_tokenizer(tokenizer)
    save_model(model, folder / "planted")
    return folder / "planted"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Random words, with one or two planted skip trigrams in each document."""
    generator = np.random.default_rng(0)
    documents = []
    for number in range(400):
        words = list(generator.choice(WORDS, 14))
        for start, planted in ((0, number % 6), (7, (number + 1 + number // 6) % 6)):
            a, b, c = PLANTED[planted]
            words[start + 1], words[start + 4], words[start + 5] = a, b, c
        documents.append(" " + " ".join(words))
    path = tmp_path_factory.mktemp("corpus") / "planted.txt"
    path.write_text("<|endoftext|>".join(documents))
    return path


@pytest.fixture(scope="module")
def options(model, corpus):
    """What is asked for, by option."""
    return {
        "model": str(model), "corpus": str(corpus), "documents": 400, "tried": 60, "features": 30, "occurrences": 8,
        "controls": 6, "permutations": 2, "threads": 1, "window": 8,
    }  # fmt: skip


@pytest.fixture(scope="module")
def request_of(options):
    """The command line."""

    def request(out, *more):
        given = [word for name, value in options.items() for word in (f"--{name}", value)]
        return with_options(["heads", "trigrams", *given, "--out", out], more)

    return request


@pytest.fixture(scope="module")
def whole(request_of, tmp_path_factory):
    """The study, left alone."""
    out = tmp_path_factory.mktemp("trigrams") / "whole"
    assert main(request_of(out)) == 0
    return out


class StopsAtOnce(Progress):
    """Asks to stop whenever it is asked."""

    def should_stop(self):
        return True


def test_stopped_and_resumed_it_ends_with_the_same_bytes(whole, options, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_FEATURES_AT_ONCE", 2)
    out, stops = tmp_path / "stopped", 0
    while not (out / "metrics.json").exists():
        try:
            study.measure(TrigramsConfig.of(**options), out, StopsAtOnce())
        except Stopped:
            stops += 1
            assert not (out / "trigrams.safetensors").exists()
    assert stops >= 3
    for name in ("trigrams.safetensors", "metrics.json"):
        assert (whole / name).read_bytes() == (out / name).read_bytes()
    assert {path.name for path in out.iterdir()} >= RESULT
    assert study.measure(TrigramsConfig.of(**options), out).finished_already


def test_what_was_planted_is_found_with_its_heads(whole):
    found = ms.load_run(whole)
    words = [tuple(word.strip() for word in row) for row in found.words]
    assert sorted(words) == sorted(PLANTED)
    assert found.n_random_kept == 0
    assert found.carried.tolist() == [[PLANTED.index(row) < 2, PLANTED.index(row) >= 2] for row in words]
    assert found.heads_per_feature.tolist() == pytest.approx([1] * 6, abs=1e-3)
    assert found.parts == pytest.approx({"direct": 1, "later heads": 0, "MLPs": 0}, abs=1e-5)
    assert found.additive_share == pytest.approx(1, abs=1e-5)
    assert float(found.untrained.together.abs().mean()) < 0.1 * float(found.edges.together.mean())
    numbers = read_json(whole / "metrics.json")
    assert numbers["features_by_head"] == [2, 4]
    assert numbers["n_features"] == 6 <= numbers["n_tested"] <= numbers["n_in_text"] <= numbers["n_tried"]
    assert "6 attentional features" in found.summary()
    assert len(found.to_frame()) == 6
    assert found.plot().data


def test_the_page_shows_every_item_beside_its_control(whole, tmp_path):
    ms.write_page(whole, tmp_path / "page")
    page = (tmp_path / "page" / "trigrams.html").read_text()
    assert set(re.findall(r'data-figure="([\w-]+)-data"', page)) == {"matrix", "by-head", "groups"}
    for title in (
        "From text to features",
        "How an edge reaches the logit",
        "Interference",
        "More features than heads?",
    ):
        assert title in page
    assert page.count("Control:") >= 3
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--document-tokens", 33), "33"),
        (("--window", 1), "window = 1"),
        (("--level", 0.9), "level = 0.9"),
        (("--occurrences", 2), "occurrences = 2"),
        (("--correction", "none"), "none"),
        (("--cut", "half"), "half"),
        (("--corpus", "nothing.txt"), "nothing.txt"),
        (("--device", "abacus"), "abacus"),
        (("--documents", 3), "give 4 or more"),
    ],
)
def test_wrong_requests_leave_nothing(request_of, tmp_path, capsys, more, said):
    assert main(request_of(tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mi-superposition: ")
    assert said in error
    assert not (tmp_path / "run").exists()


def test_another_request_is_refused(request_of, whole, capsys):
    assert main(request_of(whole, "--seed", 1)) == 2
    assert "give another folder or the same options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b c d e<|endoftext|>a b c d e", "give 4 or more"),
        ("<|endoftext|>".join(["a"] * 8), "8 documents, 0 of 4 or more tokens"),
    ],
)
def test_a_corpus_too_short_is_refused(request_of, tmp_path, capsys, text, said):
    path = tmp_path / "short.txt"
    path.write_text(text)
    assert main(request_of(tmp_path / "run", "--corpus", path)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mi-superposition: ")
    assert said in error
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_structure_gives_a_page_that_says_so(request_of, tmp_path):
    generator = np.random.default_rng(1)
    path = tmp_path / "random.txt"
    path.write_text("<|endoftext|>".join(" " + " ".join(generator.choice(WORDS[:6], 14)) for _ in range(60)))
    assert main(request_of(tmp_path / "run", "--corpus", path, "--correction", "holm")) == 0
    assert read_json(tmp_path / "run" / "metrics.json")["n_features"] == 0
    ms.write_page(tmp_path / "run", tmp_path / "page")
    assert "0 features" in (tmp_path / "page" / "index.html").read_text()
    assert "data-figure" not in (tmp_path / "page" / "trigrams.html").read_text()


def test_a_model_without_attention_is_refused(model, monkeypatch):
    """Nothing is cut where the model has no pattern."""
    loaded = load_model(model, device="cpu")
    hooks = {name: hook for name, hook in loaded.hook_dict.items() if not name.endswith("hook_pattern")}
    monkeypatch.setattr(loaded, "hook_dict", hooks)
    with pytest.raises(RequestError, match=re.escape("no hook 'blocks.0.attn.hook_pattern': edges of attention")):
        check_has_attention(loaded)
