"""Train a small DistilBERT on the labels of texts, and save it in Hugging Face layout.

    python scripts/train_encoder.py --train train.parquet --test validation.parquet --tokenizer DIR --out runs/sst2-encoder

No pretrained encoder comes with this package; this one gives `mi-superposition concepts --model runs/sst2-encoder` something
to read. Run the same command again to resume.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from mi_superposition.cli.terminal import StoppedByUser, terminal_progress
from mi_superposition.concepts import EncoderConfig
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.files import read_json
from mi_superposition.runs import METRICS
from mi_superposition.studies.concepts.encoder import measure


def main(config: EncoderConfig, out: Path) -> None:
    """Train, test, save.

    Args:
        config: What to train on what.
        out: Folder for model and tokenizer.
    """
    with terminal_progress() as progress:
        measure(config, out, progress)
    metrics = read_json(out / METRICS)
    print(
        f"{metrics['texts']:,} texts, {config.epochs} epochs: accuracy {metrics['test_accuracy']:.3f} on {metrics['test_texts']:,} held-out "
        f"texts (untrained {metrics['test_accuracy_untrained']:.3f})"
    )


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
