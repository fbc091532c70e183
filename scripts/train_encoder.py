"""Train a small DistilBERT to tell the labels of texts, and save it in Hugging Face layout.

    python scripts/train_encoder.py --train train.parquet --test validation.parquet --tokenizer DIR --out runs/sst2-encoder

No pretrained encoder comes with this package; this one gives `mi-superposition concepts --model runs/sst2-encoder` something
to read. Stopped, it goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from mi_superposition.cli.command import StoppedByUser, progress, stop_on_signal
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import METRICS, read_json
from mi_superposition.studies.concepts.encoder import EncoderRequest, train_encoder_run


@dataclass(frozen=True)
class Options:
    """What to train on what."""

    train: str
    """File or dataset id with texts and labels to train on."""
    test: str
    """The same to test on."""
    tokenizer: str
    """Folder or id on the hub of a DistilBERT tokenizer, such as distilbert-base-uncased."""
    out: Path
    """Folder for model and tokenizer."""
    layers: int = 3
    """Layers."""
    dim: int = 256
    """Hidden dimensions; the neurons are four times as many."""
    epochs: int = 1
    """Passes over the texts."""
    threads: int = 2
    """CPU threads."""
    seed: int = 0
    """Seed of weights, order and dropout."""


def main() -> None:
    """Train, test, save."""
    options = tyro.cli(Options, description=__doc__)
    request = EncoderRequest(
        options.train, options.test, options.tokenizer,
        layers=options.layers, dim=options.dim, epochs=options.epochs, threads=options.threads, seed=options.seed,
    )  # fmt: skip
    with progress("text") as on_row, progress("step") as on_step, stop_on_signal() as stopping:
        train_encoder_run(options.out, request, on_row=on_row, on_step=on_step, should_stop=stopping)
    found = read_json(options.out / METRICS)
    print(
        f"{found['texts']:,} texts, {options.epochs} epochs: {found['test_accuracy']:.3f} of {found['test_texts']:,} held-out texts "
        f"right (untrained {found['test_accuracy_untrained']:.3f})"
    )


if __name__ == "__main__":
    try:
        main()
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
