"""Stringer's correlations of SST-2 with fifteen concept words, on a real encoder: its statistic, and the same masked and centred.

    python scripts/replicas/distilbert_words.py --model minilm --texts sst2/train.parquet --out words.json --picture words.html

The source reads DistilBERT and takes the mean over 128 positions (512 in its other version), padding included, of the first 1,000
sentences. A concept is the mean of five words, each read alone. Controls: lists of other words that are as frequent, and the
untrained encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.express as px
import torch
import tyro
from jaxtyping import Float
from replica import STRINGER, Number, Row, Verdict, report, spread
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mi_superposition.concepts import pool_texts
from mi_superposition.concepts.words import random_lists, words_of
from mi_superposition.files import write_file
from mi_superposition.models.encoders import Encoder, load_encoder

Lists = Mapping[str, Sequence[str]]
CONCEPTS: Lists = {
    "positive": ("good", "great", "excellent", "wonderful", "fantastic"),
    "negative": ("bad", "terrible", "awful", "horrible", "poor"),
    "neutral": ("okay", "fine", "average", "mediocre", "so-so"),
}
PRINTED: Mapping[str, Number] = {"positive": 0.33541, "negative": 0.33899, "neutral": "0.37209 (0.375)"}


@torch.no_grad()
def padded_means(encoder: Encoder, texts: Sequence[str], length: int | None) -> Float[Tensor, "text d"]:
    """The mean of the last layer over all positions; every text is padded to ``length``, or each is read alone, with its special tokens."""
    means, step = [], 1 if length is None else 32
    for start in range(0, len(texts), step):
        padding: dict[str, Any] = (
            {} if length is None else {"padding": "max_length", "truncation": True, "max_length": length}
        )
        tokens = encoder.tokenizer(list(texts[start : start + step]), return_tensors="pt", **padding)
        inputs = {name: values for name, values in tokens.items() if name in ("input_ids", "attention_mask")}
        means.append(encoder.network(**inputs).last_hidden_state.mean(dim=1))
    return torch.cat(means)


def masked_means(encoder: Encoder, texts: Sequence[str]) -> Float[Tensor, "text d"]:
    """The mean over a text's own tokens."""
    pooled = pool_texts(encoder, texts)
    return pooled[max((name for name in pooled if name.startswith("hidden_states.")), key=lambda name: int(name.split(".")[1]))]  # fmt: skip


def correlations(
    texts: Float[Tensor, "text d"], concepts: Float[Tensor, "concept d"], centred: bool
) -> Float[Tensor, "text concept"]:
    """Pearson correlation of every text with every concept; ``centred``: the mean text is taken out of both."""
    if centred:
        texts, concepts = texts - texts.mean(dim=0), concepts - texts.mean(dim=0)
    rows = [part - part.mean(dim=1, keepdim=True) for part in (texts, concepts)]
    unit = [part / part.norm(dim=1, keepdim=True) for part in rows]
    return unit[0] @ unit[1].T


def concept_vectors(vectors: Mapping[str, Tensor], lists: Lists) -> Float[Tensor, "concept d"]:
    """The mean of each list's words."""
    return torch.stack([torch.stack([vectors[word] for word in words]).mean(dim=0) for words in lists.values()])


def accuracy(points: np.ndarray, labels: np.ndarray) -> float:
    """Balanced accuracy of a linear classifier of points, five folds."""
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    return float(cross_val_score(model, points, labels, cv=5, scoring="balanced_accuracy").mean())


def main(
    model: str,
    texts: Path,
    documents: int = 1000,
    length: int = 128,
    other_length: int = 512,
    draws: int = 100,
    out: Path | None = None,
    picture: Path | None = None,
) -> None:
    """Measure.

    Args:
        model: Encoder: a folder in Hugging Face layout.
        texts: Parquet file of SST-2's training sentences.
        documents: Sentences, from the first; the source's are 1,000.
        length: Positions of every sentence, padding included; 128 in one version of the source.
        other_length: The same in its other version, for the trained encoder: 512.
        draws: Random word lists.
        out: JSON file of all numbers.
        picture: HTML file of the sentences on two principal components.
    """
    encoder = load_encoder(model)
    table = pd.read_parquet(texts)
    sentences, labels = table["sentence"][:documents].tolist(), table["label"][:documents].to_numpy()
    # Frequencies are those of the whole file.
    seen = [words_of(sentence) for sentence in table["sentence"]]
    others: list[Lists] = [
        dict(zip(CONCEPTS, random_lists(seen, list(CONCEPTS.values()), seed), strict=True)) for seed in range(draws)
    ]
    every = sorted({word for lists in (CONCEPTS, *others) for words in lists.values() for word in words})
    details: dict[str, Any] = {}
    right = torch.tensor(labels) == 1
    for state, network in (("trained", encoder), ("untrained", encoder.untrained(0))):
        whole, own = padded_means(network, sentences, length), masked_means(network, sentences)
        words = dict(zip(every, padded_means(network, every, None), strict=True))
        bare = dict(zip(every, masked_means(network, every), strict=True))
        ways = {"padded": (whole, words, False), "masked": (own, bare, False), "masked, centred": (own, bare, True)}
        for way, (points, vectors, centred) in ways.items():
            mine, *drawn = (correlations(points, concept_vectors(vectors, lists), centred) for lists in (CONCEPTS, *others))  # fmt: skip
            apart = mine[right].mean(dim=0) - mine[~right].mean(dim=0)
            details[f"{state}, {way}"] = {
                "correlation": dict(zip(CONCEPTS, mine.mean(dim=0).tolist(), strict=True)),
                "random_lists": [one.mean(dim=0).tolist() for one in drawn],
                "positive_minus_negative_sentences": dict(zip(CONCEPTS, apart.tolist(), strict=True)),
            }
        plane = PCA(2, random_state=0).fit_transform(whole.numpy())
        details[f"{state}, accuracy"] = {"two components": accuracy(plane, labels), "all dimensions, masked": accuracy(own.numpy(), labels)}  # fmt: skip
        if state == "trained" and picture is not None:
            colours = [("negative", "positive")[label] for label in labels]
            write_file(picture, px.scatter(x=plane[:, 0], y=plane[:, 1], color=colours).to_html().encode())
    rows, as_high = [], {}
    for way in ways:
        trained, fresh = details[f"trained, {way}"], details[f"untrained, {way}"]
        for number, (concept, value) in enumerate(trained["correlation"].items()):
            drawn_values = [lists[number] for lists in trained["random_lists"]]
            as_high[way, concept] = sum(other >= value for other in drawn_values)
            controls = f"random words {spread(drawn_values)}, untrained {fresh['correlation'][concept]:.3f}"
            verdict: Verdict = "cannot be tested here" if way == "padded" else "ours"
            rows.append(Row(f"{way}: {concept}", PRINTED[concept] if way == "padded" else None, value, controls, verdict, f"{as_high[way, concept]} of {draws} random lists are as high"))  # fmt: skip
        key = "positive_minus_negative_sentences"
        apart_told = " and ".join(f"{trained[key][concept]:+.3f}" for concept in ("positive", "negative"))
        control = " and ".join(f"{fresh[key][concept]:+.3f}" for concept in ("positive", "negative"))
        rows.append(Row(f"{way}: correlation with positive and with negative, of positive less negative sentences", None, apart_told, f"untrained {control}", "ours"))  # fmt: skip
    vectors = dict(zip(every, padded_means(encoder, every, None), strict=True))
    longer = padded_means(encoder, sentences, other_length)
    elsewhere = correlations(longer, concept_vectors(vectors, CONCEPTS), False).mean(dim=0).tolist()
    here = list(details["trained, padded"]["correlation"].values())
    details[f"trained, padded to {other_length}"] = dict(zip(CONCEPTS, elsewhere, strict=True))
    rows.append(Row(f"positive and negative are the same to 16 digits with {other_length} positions", "the same", " and ".join(f"{value:.4f}" for value in elsewhere[:2]), " and ".join(f"{value:.4f}" for value in here[:2]) + f" with {length}", "confirmed" if elsewhere[:2] == here[:2] else "refuted", "more padding is another mean: of its two versions one was not run as it is printed"))  # fmt: skip
    clear = all(as_high["padded", concept] <= 0.05 * draws for concept in CONCEPTS)
    said = ", ".join(f"{as_high['padded', concept]} for {concept}" for concept in CONCEPTS)
    two, before = details["trained, accuracy"], details["untrained, accuracy"]
    rows += [
        Row("high correlations mean that the concepts are encoded", "yes", f"random lists as high, of {draws}: {said}", None, "confirmed" if clear else "refuted", "" if clear else "words of no concept correlate as highly, as every text shares one mean direction"),
        Row("clusters of sentiment on two components (balanced accuracy)", "clusters", two["two components"], f"untrained {before['two components']:.3f}, chance 0.5", "confirmed" if two["two components"] > 0.75 else "not confirmed", f"all dimensions of the masked mean {two['all dimensions, masked']:.3f} (untrained {before['all dimensions, masked']:.3f})"),
    ]  # fmt: skip
    settings = {
        "model": Path(model).name,
        "sentences": len(sentences),
        "positions": f"{length}, {other_length}",
        "random lists": draws,
    }
    report("fifteen concept words and SST-2", STRINGER, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
