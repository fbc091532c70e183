"""Which model reads which text, and which of it is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mi_superposition.corpora import Corpus, TokenBatches, check_readable, corpus_of, model_batches
from mi_superposition.corpora.files import TEXT_COLUMNS
from mi_superposition.corpora.tokens import tokenizer_identity
from mi_superposition.errors import RequestError
from mi_superposition.models import load_model, model_record
from mi_superposition.models.protocol import HookedModel
from mi_superposition.parts import TextPart
from mi_superposition.sae import Documents


@dataclass(frozen=True)
class ReadText:
    """A model and a corpus, and how the one reads the other."""

    model_name: str
    model: HookedModel
    corpus: Corpus
    text: TextPart
    forward_batch: int
    context: int | None
    # Whether rows begin with the beginning token; ``None``: as the model was trained.
    prepend_bos: bool | None = None

    @property
    def device(self) -> str:
        """The device that the model is on."""
        return str(self.model.W_E.device)

    @property
    def column(self) -> str:
        """The column asked for; "text" stands for the usual one, whatever it is called."""
        return self.text.column or TEXT_COLUMNS[0]

    def batches(self, *, held_out: bool, documents: int | None = None) -> TokenBatches:
        """The text trained on, or the text held out (the first ``documents`` of it), as the model reads it."""
        chosen = Documents(self.corpus, held_out=held_out, limit=documents)
        return model_batches(self.model, chosen, self.forward_batch, context=self.context, prepend_bos=self.prepend_bos)

    def check_held_out(self) -> None:
        """Raise ``RequestError`` for a corpus that holds nothing out."""
        if next(iter(self.batches(held_out=True)), None) is None:
            raise RequestError("the corpus has no held-out document (one in ten is held out): give a longer corpus")

    def identity(self) -> dict[str, Any]:
        """What activations depend on beside how they are read: recorded in run folders."""
        check_readable(self.model, self.corpus, self.text.corpus, context=self.context, prepend_bos=self.prepend_bos)
        return {
            "model": model_record(self.model_name, self.model),
            "tokenizer": tokenizer_identity(self.model.tokenizer),
            "corpus": self.corpus.identity() | {"split": self.text.split, "column": self.column},
        }


def open_text(
    model_name: str,
    text: TextPart,
    *,
    forward_batch: int,
    context: int | None,
    device: str,
    process_weights: Mapping[str, bool] | None = None,
    prepend_bos: bool | None = None,
) -> ReadText:
    """Load the model and the corpus. Raises ``RequestError`` for one that is not there."""
    model = load_model(model_name, device=device, process_weights=process_weights or False)
    return ReadText(model_name, model, open_corpus(text.corpus, text), text, forward_batch, context, prepend_bos)


def open_corpus(name: str, text: TextPart) -> Corpus:
    """Another corpus, read as this text is. Raises ``RequestError`` for one that is not there."""
    return corpus_of(text.replace(corpus=name))
