"""Train the bundled story model on TinyStories (real stories; they are not part of this package).

    python scripts/train_stories.py --out runs/stories                                # from the hub
    python scripts/train_stories.py --out runs/stories --train train.parquet --held-out validation.parquet
    python scripts/train_stories.py --out runs/stories ... --bundle                   # also replaces the bundled model

Stop and go on as you like. Prints the loss on the held-out stories in bits per character, and beside it those of a
model that knows only how often each token occurs and of the untrained model.
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
from collections import Counter
from pathlib import Path

import tyro
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mi_superposition import load_corpus
from mi_superposition.cli.terminal import StoppedByUser, terminal_progress
from mi_superposition.corpora import texts_of
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json
from mi_superposition.models import BUNDLED_MODELS
from mi_superposition.progress import Steps
from mi_superposition.runs import HISTORY, MANIFEST, METRICS, seal
from mi_superposition.stories.config import StoriesConfig
from mi_superposition.stories.evaluate import bits_per_character
from mi_superposition.stories.train import train_stories, untrained_story_model

HUB = "roneneldan/TinyStories"


def main(
    config: StoriesConfig,
    out: Path,
    train: str = HUB,
    held_out: str = HUB,
    documents: int | None = None,
    bundle: bool = False,
) -> None:
    """Train what is missing, measure, bundle if asked.

    Args:
        config: How to train.
        out: Run folder.
        train: Corpus to train on.
        held_out: Corpus to measure on; its split 'validation' if it has several.
        documents: Number of documents to train on, from the first on. Default: all.
        bundle: Replace the bundled model.
    """
    trained_on = list(itertools.islice(texts_of(load_corpus(train)), documents))
    known = set(trained_on)
    measured_on = [
        d for d in itertools.islice(texts_of(load_corpus(held_out, split="validation")), 1000) if d not in known
    ]
    with terminal_progress() as progress:
        progress.begin("step", config.n_steps)
        steps = Steps(progress)

        def on_log(row: dict[str, float]) -> None:
            steps.at(int(row["step"]), f"{row['held_out_bits_per_character']:.3f} bits per character")

        train_stories(config, trained_on, measured_on, out, on_log=on_log, should_stop=progress.should_stop)

    tokenizer = AutoTokenizer.from_pretrained(out)
    metrics = read_json(out / METRICS)
    untrained = untrained_story_model(config, tokenizer.eos_token_id)
    print(f"bits per character on {len(measured_on)} held-out stories")
    print(f"  trained          {metrics['held_out_bits_per_character']:.4f}")
    print(f"  token frequency  {unigram_bits_per_character(tokenizer, trained_on, measured_on):.4f}")
    print(f"  untrained        {bits_per_character(untrained, tokenizer, measured_on):.4f}")
    if bundle:
        copy_into_package(out, BUNDLED_MODELS["stories"])
        print("bundled")


def unigram_bits_per_character(tokenizer: PreTrainedTokenizerBase, documents: list[str], held_out: list[str]) -> float:
    """The loss of predicting every token by how often it occurs in the training text (add-one smoothing)."""
    count = Counter(token for tokens in tokenizer(documents)["input_ids"] for token in tokens)
    count[tokenizer.eos_token_id] += len(documents)
    total = sum(count.values()) + len(tokenizer)
    predicted = (token for tokens in tokenizer(held_out)["input_ids"] for token in (*tokens, tokenizer.eos_token_id))
    return -sum(math.log2((count[token] + 1) / total) for token in predicted) / sum(map(len, held_out))


def copy_into_package(run: Path, place: Path) -> None:
    """Copy a finished run into the package."""
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for name in (MANIFEST, METRICS, HISTORY, *names):
        shutil.copy(run / name, place / name)
    seal(place)


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
