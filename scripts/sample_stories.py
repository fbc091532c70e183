"""Sample the bundled corpus from the bundled story model; seeded, different stories only.

    python scripts/sample_stories.py --out runs/sampled/stories.parquet --not-in train.parquet
    python scripts/sample_stories.py ... --bundle          # also replaces the bundled corpus

``--not-in`` names the corpus the model was trained on: a story it repeats word for word is drawn again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm
from transformers import AutoTokenizer, GPT2LMHeadModel

from mi_superposition import load_corpus
from mi_superposition.corpora import texts_of
from mi_superposition.corpora.corpus import BUNDLED_CORPORA
from mi_superposition.models import BUNDLED_MODELS
from mi_superposition.stories.sample import sample_stories


def main() -> None:
    """Sample and write, bundle if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write")
    parser.add_argument("--model", default=str(BUNDLED_MODELS["stories"]), help="folder in Hugging Face layout")
    parser.add_argument("--stories", type=int, default=2500)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--not-in", help="corpus whose documents must not be repeated")
    parser.add_argument("--bundle", action="store_true", help="replace the bundled corpus")
    options = parser.parse_args()

    model = GPT2LMHeadModel.from_pretrained(options.model, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    known = frozenset(texts_of(load_corpus(options.not_in))) if options.not_in else frozenset()
    with tqdm(total=options.stories, unit="story") as bar:
        stories = list(
            sample_stories(
                model,
                tokenizer,
                options.stories,
                seed=options.seed,
                temperature=options.temperature,
                known=known,
                on_story=bar.update,
            )
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": stories}), options.out, compression="zstd", compression_level=19)
    print(f"{len(stories)} stories, {sum(map(len, stories)):,} characters: {options.out}")
    if options.bundle:
        place = BUNDLED_CORPORA["stories"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(options.out, place)
        print("bundled")


if __name__ == "__main__":
    main()
