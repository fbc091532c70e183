"""Train the bundled story model on TinyStories (real stories; they are not part of this package).

    python scripts/train_stories.py --out runs/stories                                # from the hub
    python scripts/train_stories.py --out runs/stories --train train.parquet --held-out validation.parquet
    python scripts/train_stories.py --out runs/stories ... --bundle                   # also replaces the bundled model

Stop and go on as you like. Prints the loss on the held-out stories in bits per character, and beside it those of a
model that knows only how often each token occurs and of the untrained model.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
from collections import Counter
from pathlib import Path

import torch
from mi_superposition.cli.command import StoppedByUser, stop_on_signal
from tqdm import tqdm
from transformers import AutoTokenizer

from mi_superposition import load_corpus
from mi_superposition.files import read_json
from mi_superposition.models import BUNDLED_MODELS
from mi_superposition.runs import HISTORY, MANIFEST, METRICS
from mi_superposition.stories.evaluate import bits_per_character
from mi_superposition.stories.train import StoriesConfig, train_stories, untrained_story_model

HUB = "roneneldan/TinyStories"


def main() -> None:
    """Train what is missing, measure, bundle if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--train", default=HUB, help="corpus to train on (default: %(default)s)")
    parser.add_argument("--held-out", default=HUB, help="corpus to measure on (default: its validation split)")
    parser.add_argument("--documents", type=int, help="train on the first so many documents")
    parser.add_argument("--steps", type=int, default=StoriesConfig.n_steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="where there is no C++ compiler; half as fast")
    parser.add_argument("--bundle", action="store_true", help="replace the bundled model")
    options = parser.parse_args()

    documents = list(itertools.islice(load_corpus(options.train), options.documents))
    known = set(documents)
    held_out = [d for d in itertools.islice(load_corpus(options.held_out, split="validation"), 1000) if d not in known]
    config = StoriesConfig(
        seed=options.seed, n_steps=options.steps, device=options.device, compile=not options.no_compile
    )
    with stop_on_signal() as stopping, tqdm(total=config.n_steps, unit="step") as bar:

        def on_log(row: dict[str, float]) -> None:
            bar.set_postfix_str(f"{row['held_out_bits_per_character']:.3f} bits per character", refresh=False)
            bar.update(int(row["step"]) - bar.n)

        train_stories(config, documents, held_out, options.out, on_log=on_log, should_stop=stopping)

    tokenizer = AutoTokenizer.from_pretrained(options.out)
    metrics = read_json(options.out / METRICS)
    untrained = untrained_story_model(config, tokenizer.eos_token_id)
    print(f"bits per character on {len(held_out)} held-out stories")
    print(f"  trained          {metrics['held_out_bits_per_character']:.4f}")
    print(f"  token frequency  {unigram_bits_per_character(tokenizer, documents, held_out):.4f}")
    print(f"  untrained        {bits_per_character(untrained, tokenizer, held_out):.4f}")
    if options.bundle:
        bundle(options.out, BUNDLED_MODELS["stories"])
        print("bundled")


def unigram_bits_per_character(tokenizer, documents: list[str], held_out: list[str]) -> float:
    """The loss of predicting every token by how often it occurs in the training text (add-one smoothing)."""
    count = Counter(token for tokens in tokenizer(documents)["input_ids"] for token in tokens)
    count[tokenizer.eos_token_id] += len(documents)
    total = sum(count.values()) + len(tokenizer)
    predicted = (token for tokens in tokenizer(held_out)["input_ids"] for token in (*tokens, tokenizer.eos_token_id))
    return -sum(math.log2((count[token] + 1) / total) for token in predicted) / sum(map(len, held_out))


def bundle(run: Path, place: Path) -> None:
    """Copy a finished run into the package."""
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    for name in (MANIFEST, METRICS, HISTORY, *names):
        shutil.copy(run / name, place / name)


if __name__ == "__main__":
    try:
        main()
    except StoppedByUser as stop:
        sys.exit(str(stop))
