"""Train a small DistilBERT to tell the labels of texts, and save it in Hugging Face layout.

    python scripts/train_encoder.py --train train.parquet --test validation.parquet --tokenizer DIR --out runs/sst2-encoder

No pretrained encoder comes with this package; this one gives `mi-superposition concepts --model runs/sst2-encoder` something
to read. Stopped, it goes on where it was. ``--epochs 0`` saves it untrained.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from transformers import AutoTokenizer

from mi_superposition.cli.command import StoppedByUser, progress, stop_on_signal
from mi_superposition.concepts.classifier import TextTraining, text_accuracy, train_text_classifier
from mi_superposition.corpora.labelled import load_labelled_texts
from mi_superposition.models.encoders import fresh_encoder
from mi_superposition.training import fixed_arithmetic


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
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    with progress("text") as on_row:
        texts = load_labelled_texts(options.train, on_row=on_row)
        held_out = load_labelled_texts(options.test, on_row=on_row)
    settings = {
        "model_type": "distilbert",
        "vocab_size": len(tokenizer),
        "dim": options.dim,
        "hidden_dim": 4 * options.dim,
        "n_layers": options.layers,
        "n_heads": options.dim // 64,
        "max_position_embeddings": 128,
    }
    network = fresh_encoder(settings, len(texts.classes), options.seed)
    training = TextTraining(epochs=max(options.epochs, 1), seed=options.seed)
    untrained = text_accuracy(network.eval(), tokenizer, held_out.texts, held_out.labels, training.context)
    if options.epochs:
        options.out.mkdir(parents=True, exist_ok=True)
        checkpoint = options.out / "checkpoint.safetensors"
        n_steps = training.epochs * -(-len(texts.texts) // training.batch_size)
        with fixed_arithmetic(options.threads), stop_on_signal() as stopping, progress("step", n_steps) as on_step:
            train_text_classifier(
                network, tokenizer, texts.texts, texts.labels, training,
                checkpoint=checkpoint, on_step=on_step, should_stop=stopping,
            )  # fmt: skip
        checkpoint.unlink()
    accuracy = text_accuracy(network.eval(), tokenizer, held_out.texts, held_out.labels, training.context)
    network.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(
        f"{len(texts.texts):,} texts, {options.epochs} epochs: {accuracy:.3f} of {len(held_out.texts):,} held-out texts right (untrained {untrained:.3f})"
    )


if __name__ == "__main__":
    try:
        main()
    except StoppedByUser as stop:
        sys.exit(str(stop))
