"""An encoder trained on the labels of texts, saved in Hugging Face layout: a model to look for concepts in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mi_superposition.concepts.classifier import text_accuracy, train_text_classifier
from mi_superposition.concepts.config import EncoderConfig
from mi_superposition.corpora import load_labelled_texts
from mi_superposition.models.encoders import fresh_encoder, load_tokenizer, save_encoder
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import CHECKPOINT, Outcome, open_run
from mi_superposition.training import fixed_arithmetic

COMMAND = "train encoder"


def measure(config: EncoderConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train, test and save into a run folder, or resume. Raises as the loaders and ``open_run`` do, and ``training.Stopped`` when
    asked to stop.
    """
    progress.begin("text")
    texts = load_labelled_texts(config.train, split=config.train_split, on_row=progress.advance)
    held_out = load_labelled_texts(config.test, split=config.test_split, on_row=progress.advance)
    inputs = {"train": texts.identity(), "test": held_out.identity()}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        network, tokenizer = _untrained(config, len(texts.classes))

        def accuracy() -> float:
            return text_accuracy(network.eval(), tokenizer, held_out.texts, held_out.labels, config.context)

        checkpoint = out / CHECKPOINT
        with fixed_arithmetic(config.threads.number):
            untrained = accuracy()
            progress.begin("step", config.epochs * config.steps_per_epoch(len(texts.texts)))
            train_text_classifier(
                network, tokenizer, texts.texts, texts.labels, config,
                checkpoint=checkpoint, on_step=progress.advance, should_stop=progress.should_stop,
            )  # fmt: skip
            save_encoder(network, tokenizer, out)
            trained = accuracy()
        run.finish(
            {
                "test_accuracy": trained,
                "test_accuracy_untrained": untrained,
                "texts": len(texts.texts),
                "test_texts": len(held_out.texts),
            }
        )
    return Outcome(out, finished_already=False)


def _untrained(config: EncoderConfig, n_labels: int) -> tuple[nn.Module, Any]:
    """A freshly initialised network, and its tokenizer."""
    tokenizer = load_tokenizer(config.tokenizer)
    settings = {
        "model_type": "distilbert",
        "vocab_size": len(tokenizer),
        "dim": config.dim,
        "hidden_dim": 4 * config.dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "max_position_embeddings": 128,
    }
    return fresh_encoder(settings, n_labels, config.random.seed), tokenizer
