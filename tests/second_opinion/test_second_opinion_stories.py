"""Numbers of the README and the docs about the story model, computed a second time by other means.

The model is transformers' own GPT-2, which nothing of the package touches; the rest is NumPy, SciPy and scikit-learn. Nothing of the package
is imported but the place of its files and the word lists, which are data. Where a number depends on a random draw, another one is drawn here.
"""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression, orthogonal_mp
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, GPT2LMHeadModel

from mi_superposition.concepts.words import STORY_CONCEPTS

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "mi_superposition" / "bundled"
CARDS = json.loads((ROOT / "docs" / "findings.json").read_text())["sections"]
CONTEXT, END = 256, 0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stories():
    """The bundled stories, in their order."""
    return pq.read_table(BUNDLED / "stories-corpus" / "stories.parquet")["text"].to_pylist()


class Reader:
    """Transformers' GPT-2 and tokenizer; what it computes at some of its modules, a row of tokens at a time."""

    def __init__(self):
        folder = BUNDLED / "stories"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.seen = {}
        blocks = self.model.transformer.h
        blocks[1].ln_2.register_forward_pre_hook(self._keep("middle"))
        blocks[1].mlp.c_proj.register_forward_pre_hook(self._keep("neurons"))

    def _keep(self, name):
        return lambda _, inputs: self.seen.__setitem__(name, inputs[0][0].numpy())

    def rows(self, text):
        """The rows of a document: a beginning token, and as many of its tokens as there is room for."""
        tokens = self.tokenizer(text)["input_ids"]
        return [[END, *tokens[start : start + CONTEXT - 1]] for start in range(0, len(tokens), CONTEXT - 1)]

    @torch.no_grad()
    def read(self, row):
        """Of each token but the first: the residual stream before each block and after the last, the stream before layer 1's MLP, and its neurons."""
        states = self.model.transformer(torch.tensor([row]), output_hidden_states=True).hidden_states
        return [state[0, 1:].numpy() for state in states[:2]], self.seen["middle"][1:], self.seen["neurons"][1:]


@pytest.fixture(scope="module")
def reader():
    return Reader()


# 8. Contexts.


def test_contexts_of_neurons(reader, stories):
    """Median of layer 1, of the same documents, with another random projection and duplicates by exact comparison of all five-grams."""
    projection = np.random.default_rng(3).standard_normal((64, 256)) / 8
    largest, where, runs, first = [], [], [], []
    for text in stories[:500]:
        peaks, at, grams = np.full(1024, -np.inf), np.zeros((1024, 64)), set()
        for row in reader.rows(text):
            _, middle, neurons = reader.read(row)
            projected = middle @ projection.T
            if len(first) < 32:
                first.append(projected)
            best = neurons.argmax(axis=0)
            better = neurons[best, range(1024)] > peaks
            peaks[better], at[better] = neurons[best, range(1024)][better], projected[best[better]]
        tokens = reader.tokenizer(text)["input_ids"]
        grams = {tuple(tokens[start : start + 5]) for start in range(len(tokens) - 4)}
        largest.append(peaks)
        where.append(at)
        runs.append(grams)
    largest, where, mean = np.array(largest), np.array(where), np.concatenate(first).mean(axis=0)
    contexts = []
    for neuron in range(1024):
        kept = []
        for document in np.argsort(-largest[:, neuron]):
            if all(2 * len(runs[document] & runs[other]) < len(runs[document] | runs[other]) for other in kept):
                kept.append(document)
            if len(kept) == 20:
                break
        u = where[kept, neuron] - mean
        u /= np.linalg.norm(u, axis=1, keepdims=True)
        shares = np.linalg.eigvalsh((u @ u.T + (u @ u.T) ** 2) / 2 / len(u))
        shares = shares[shares > 1e-12]
        contexts.append(np.exp(-(shares * np.log(shares)).sum()))
    told = float(CARDS["neuroscope"]["number"].split()[0])
    # Between two projections to 64 dimensions single neurons differ by a tenth, and their median by much less.
    assert np.median(contexts) == pytest.approx(told, rel=0.02)


# 9. and 10. The sparse autoencoder and an untrained dictionary.


def told_on_bundled_text():
    """Tokens, and explained variance of the SAE, of training activations searched, and of its directions searched, as docs have them."""
    text = (ROOT / "docs" / "sae.md").read_text().replace("\n", " ")
    found = re.search(
        r"On ([\d,]+) tokens that the model wrote itself .*?: ([\d.]+) for the SAE, ([\d.]+) for training activations and ([\d.]+) for",
        text,
    )
    return [float(one.replace(",", "")) for one in found.groups()]


def never_trained_on(text):
    return int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "little") % 10 == 0


@pytest.fixture(scope="module")
def activations(reader, stories):
    """What layer 1 reads: on the first 60 held-out stories, and on others."""
    held_out = [text for text in stories if never_trained_on(text)][:60]
    others = [text for text in stories if not never_trained_on(text)][:300]
    return [
        np.concatenate([reader.read(row)[0][1] for text in some for row in reader.rows(text)])
        for some in (held_out, others)
    ]


def test_variance_that_the_autoencoder_explains(activations):
    """Its encoder, the 32 largest, its decoder: in NumPy, on all held-out tokens."""
    x, _ = activations
    tokens, explained, *_ = told_on_bundled_text()
    assert len(x) == tokens
    assert explained_by_encoder(x)[0] == pytest.approx(explained, abs=0.00051)


@pytest.mark.skipif("REAL_DATA" not in os.environ, reason="set REAL_DATA to the folder that report --data takes")
def test_variance_of_real_stories(reader):
    """The headline itself: stories that neither the model nor the autoencoder was trained on."""
    texts = pq.read_table(Path(os.environ["REAL_DATA"]) / "tinystories" / "validation.parquet")["text"].to_pylist()
    rows = [row for text in texts if text.strip() and never_trained_on(text) for row in reader.rows(text)]
    x = np.concatenate([reader.read(row)[0][1] for row in rows])
    assert explained_by_encoder(x)[0] == pytest.approx(float(CARDS["sae"]["number"].split()[0]), abs=0.00051)


def explained_by_encoder(x):
    """Share of the variance, and what is left of each token."""
    sae = {
        name: value.astype(np.float32)
        for name, value in load_file(BUNDLED / "stories-sae" / "sae_weights.safetensors").items()
    }
    before = (x - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"]
    least = np.partition(before, -32, axis=1)[:, -32, None]
    features = np.where(before >= least, before, 0).clip(0)
    rest = x - (features @ sae["W_dec"] + sae["b_dec"])
    return 1 - np.square(rest).sum() / np.square(x - x.mean(axis=0)).sum(), rest


# The search ends early for a token that is in the dictionary, such as the first of a story.
@pytest.mark.filterwarnings("ignore:Orthogonal matching pursuit ended prematurely")
def test_an_untrained_dictionary_by_matching_pursuit(activations):
    """2,048 activations of other stories, drawn here anew, and the SAE's own directions, searched by scikit-learn on a sample of the tokens."""
    held_out, others = activations
    _, _, *told = told_on_bundled_text()
    rng = np.random.default_rng(5)
    mean = others.mean(axis=0, dtype=np.float64)
    drawn = others[rng.choice(len(others), 2048, replace=False)] - mean
    decoder = load_file(BUNDLED / "stories-sae" / "sae_weights.safetensors")["W_dec"].astype(np.float64)
    x = held_out[rng.choice(len(held_out), 800, replace=False)].astype(np.float64)
    spread = np.square(x - held_out.mean(axis=0)).sum(axis=1)
    for dictionary, expected in zip((drawn, decoder), told, strict=True):
        atoms = (dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)).T
        weights = orthogonal_mp(atoms, (x - mean).T, n_nonzero_coefs=32, precompute=True)
        rest = np.square(x - mean - (atoms @ weights).T).sum(axis=1)
        explained = 1 - rest.sum() / spread.sum()
        error = (rest - (1 - explained) * spread).std() / len(x) ** 0.5 / spread.mean()
        assert error < 0.003
        assert explained == pytest.approx(expected, abs=3 * error + 0.0005)


# 11. Concepts.


def test_a_probe_of_concepts(reader, stories):
    """Other sentences, other halvings and another solver; layers by two folds without a common word. Within three standard errors of both means."""
    said = [
        sentence.strip()
        for text in stories
        for line in text.splitlines()
        for sentence in re.split(r"(?<=[.!?])[\"”’']?\s+", line)
        if len(sentence.split()) >= 3
    ]
    owner = {word: (number, word) for number, words in enumerate(STORY_CONCEPTS.values()) for word in words}
    found = []
    for sentence in said:
        hits = {owner[word] for word in re.findall(r"[a-z]+(?:'[a-z]+)?", sentence.lower()) if word in owner}
        # One concept word, so that it is clear which half a sentence is of.
        if len(hits) == 1:
            found.append((sentence, *hits.pop()))
    rng = np.random.default_rng(11)
    rng.shuffle(found)
    kept, often = [], Counter()
    for sentence, concept, word in found:
        often[word] += 1
        if often[word] <= 60:
            kept.append((sentence, int(concept), word))
    pooled = []
    for sentence, *_ in kept:
        [row] = reader.rows(sentence)
        pooled.append([state.mean(axis=0) for state in reader.read(row)[0]])
    layers = np.array(pooled).transpose(1, 0, 2)
    labels, words = np.array([concept for _, concept, _ in kept]), np.array([word for *_, word in kept])
    accuracies = [halved(layers, labels, words, rng) for _ in range(12)]
    told, deviation = map(float, re.match(r"([\d.]+) ± ([\d.]+)", CARDS["concepts"]["number"]).groups())
    error = 3 * ((deviation**2 + np.var(accuracies, ddof=1)) / 12) ** 0.5
    assert np.mean(accuracies) == pytest.approx(told, abs=error)
    # And above the hardest control, whatever the halves and sentences.
    hardest = max(float(one.split()[0]) for one in CARDS["concepts"]["control"].split(", "))
    assert np.mean(accuracies) > hardest + np.std(accuracies, ddof=1)


def halved(layers, labels, words, rng):
    """Balanced accuracy on a random half of each concept's words of a probe of the other half, at the layer that is best within that half."""
    side = {}
    for concept in STORY_CONCEPTS.values():
        families = sorted({word[:3] for word in concept})
        for place, family in enumerate(rng.permutation(families)):
            side |= {word: (place % 2, place // 2 % 2) for word in concept if word[:3] == family}
    test, fold = (np.array([side[word][part] for word in words], bool) for part in range(2))

    def accuracy(x, learnt, asked):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", solver="newton-cg"))
        probe.fit(x[learnt], labels[learnt])
        return balanced_accuracy_score(labels[asked], probe.predict(x[asked]))

    best = max(
        layers, key=lambda x: accuracy(x, ~test & fold, ~test & ~fold) + accuracy(x, ~test & ~fold, ~test & fold)
    )
    return accuracy(best, ~test, test)
