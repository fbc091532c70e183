"""An encoder trained to tell the labels of texts, saved in Hugging Face layout: something to look for concepts in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_superposition.concepts.classifier import TextTraining, text_accuracy, train_text_classifier
from mi_superposition.corpora.labelled import load_labelled_texts
from mi_superposition.errors import RequestError
from mi_superposition.models.encoders import fresh_encoder, load_tokenizer, save_encoder
from mi_superposition.runs import open_run
from mi_superposition.training import fixed_arithmetic

_COMMAND = "train encoder"
_D_HEAD = 64


@dataclass(frozen=True)
class EncoderRequest:
    """A small DistilBERT: what it is trained and tested on (files or ids on the hub), whose tokenizer it has, how large it is."""

    train: str
    test: str
    tokenizer: str
    layers: int = 3
    dim: int = 256
    epochs: int = 1
    threads: int = 2
    seed: int = 0
    train_split: str = "train"
    test_split: str = "train"

    def __post_init__(self) -> None:
        if self.dim < _D_HEAD or self.dim % _D_HEAD:
            raise RequestError(f"dim = {self.dim}: must be a multiple of {_D_HEAD}, the dimensions of a head")
        for name in ("layers", "epochs", "threads"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least 1")

    def fresh(self, n_labels: int) -> tuple[Any, Any]:
        """An untrained network and its tokenizer."""
        tokenizer = load_tokenizer(self.tokenizer)
        settings = {
            "model_type": "distilbert",
            "vocab_size": len(tokenizer),
            "dim": self.dim,
            "hidden_dim": 4 * self.dim,
            "n_layers": self.layers,
            "n_heads": self.dim // _D_HEAD,
            "max_position_embeddings": 128,
        }
        return fresh_encoder(settings, n_labels, self.seed), tokenizer


def train_encoder_run(
    out: Path,
    request: EncoderRequest,
    *,
    on_row: Callable[[int, str], None] = lambda by, state: None,
    on_step: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train, test and save into a run folder, or go on with it; false when it was finished already.

    ``on_row`` is told of rows read, ``on_step`` of steps trained. Raises as the loaders and ``open_run`` do, and
    ``training.Stopped`` when asked to stop.
    """
    texts = load_labelled_texts(request.train, split=request.train_split, on_row=on_row)
    held_out = load_labelled_texts(request.test, split=request.test_split, on_row=on_row)
    inputs = {"train": texts.identity(), "test": held_out.identity()}
    with open_run(out, _COMMAND, asdict(request), inputs) as run:
        if run.finished:
            return False
        network, tokenizer = request.fresh(len(texts.classes))
        training = TextTraining(epochs=request.epochs, seed=request.seed)

        def accuracy() -> float:
            return text_accuracy(network.eval(), tokenizer, held_out.texts, held_out.labels, training.context)

        checkpoint = run.path / "checkpoint.safetensors"
        with fixed_arithmetic(request.threads):
            untrained = accuracy()
            train_text_classifier(
                network, tokenizer, texts.texts, texts.labels, training,
                checkpoint=checkpoint, on_step=on_step, should_stop=should_stop,
            )  # fmt: skip
            save_encoder(network, tokenizer, run.path)
            trained = accuracy()
        run.finish(
            {
                "test_accuracy": trained,
                "test_accuracy_untrained": untrained,
                "texts": len(texts.texts),
                "test_texts": len(held_out.texts),
            }
        )
        checkpoint.unlink(missing_ok=True)
    return True
