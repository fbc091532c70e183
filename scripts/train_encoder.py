"""Train a small DistilBERT to tell the labels of texts, and save it in Hugging Face layout.

    python scripts/train_encoder.py --train train.parquet --test validation.parquet --tokenizer DIR --out runs/sst2-encoder

No pretrained encoder comes with this package; this one gives `mi-superposition concepts --model runs/sst2-encoder` something
to read. Stopped, it goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from transformers import AutoTokenizer

from mi_superposition.cli.command import StoppedByUser, progress, stop_on_signal
from mi_superposition.concepts.classifier import TextTraining, text_accuracy, train_text_classifier
from mi_superposition.corpora.labelled import load_labelled_texts
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.models.encoders import fresh_encoder
from mi_superposition.runs import open_run
from mi_superposition.training import fixed_arithmetic

_D_HEAD = 64


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
    with progress("text") as on_row:
        texts = load_labelled_texts(options.train, on_row=on_row)
        held_out = load_labelled_texts(options.test, on_row=on_row)
    inputs = {"train": texts.identity(), "test": held_out.identity()}
    with open_run(options.out, "train encoder", {**asdict(options), "out": None}, inputs) as run:
        if run.finished:
            print(f"finished already: {options.out}")
            return
        network, tokenizer = _fresh(options, len(texts.classes))
        training = TextTraining(epochs=options.epochs, seed=options.seed)

        def accuracy() -> float:
            return text_accuracy(network.eval(), tokenizer, held_out.texts, held_out.labels, training.context)

        untrained = accuracy()
        checkpoint = run.path / "checkpoint.safetensors"
        n_steps = training.epochs * -(-len(texts.texts) // training.batch_size)
        with fixed_arithmetic(options.threads), stop_on_signal() as stopping, progress("step", n_steps) as on_step:
            train_text_classifier(
                network, tokenizer, texts.texts, texts.labels, training,
                checkpoint=checkpoint, on_step=on_step, should_stop=stopping,
            )  # fmt: skip
        network.save_pretrained(run.path)
        tokenizer.save_pretrained(run.path)
        trained = accuracy()
        run.finish({"test_accuracy": trained, "test_accuracy_untrained": untrained, "texts": len(texts.texts)})
        checkpoint.unlink(missing_ok=True)
    print(
        f"{len(texts.texts):,} texts, {options.epochs} epochs: {trained:.3f} of {len(held_out.texts):,} held-out texts right "
        f"(untrained {untrained:.3f})"
    )


def _fresh(options: Options, n_labels: int) -> tuple[Any, Any]:
    """An untrained network and its tokenizer. Raises ``RequestError`` for dimensions that heads of 64 cannot share."""
    if options.dim < _D_HEAD or options.dim % _D_HEAD:
        raise RequestError(f"dim = {options.dim}: must be a multiple of {_D_HEAD}, the dimensions of a head")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    settings = {
        "model_type": "distilbert",
        "vocab_size": len(tokenizer),
        "dim": options.dim,
        "hidden_dim": 4 * options.dim,
        "n_layers": options.layers,
        "n_heads": options.dim // _D_HEAD,
        "max_position_embeddings": 128,
    }
    return fresh_encoder(settings, n_labels, options.seed), tokenizer


if __name__ == "__main__":
    try:
        main()
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
