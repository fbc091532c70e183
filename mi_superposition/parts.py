"""Options that several commands share, with one name, one meaning and one default."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from mi_superposition.config import AtLeast1, AtLeast2, Config, SeedNumber, Threads
from mi_superposition.errors import RequestError

Engine = Literal["local", "ray"]
DigitOrder = Literal["ones first", "ones last"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class ModelPart(Config):
    """Which model."""

    model: str = "stories"
    """Model: bundled name ('stories', 'addition', 'addition-exact'), run folder, Hugging Face folder, or Hub id."""

    @property
    def name(self) -> str:
        """The model's name, as it was asked for."""
        return self.model


@dataclass(frozen=True)
class AdditionModelPart(ModelPart):
    """Which addition model, and how it writes numbers."""

    model: str = "addition"
    """Model: bundled name ('addition', 'addition-exact'), run folder of 'addition train', or folder of ms.save_model that holds a model of the same form."""
    digit_order: DigitOrder = "ones first"
    """Order of the digits in every number that the model reads and writes; people write 'ones last'."""


@dataclass(frozen=True)
class TextPart(Config):
    """Which text."""

    corpus: str = "stories"
    """Text: bundled corpus 'stories', .txt, .jsonl or .parquet file, save_to_disk folder, or Hub dataset id."""
    split: str = "train"
    """Split of the corpus, if it has several."""
    column: str | None = None
    """Text column of the corpus. Default: 'text', or 'sentence' if there is no 'text'."""
    separator: str = "<|endoftext|>"
    """Text between two documents of a .txt file; \\n for one document per line."""
    documents: AtLeast1 | None = None
    """Number of documents to use, from the start of the corpus. Default: all."""


@dataclass(frozen=True)
class BatchPart(Config):
    """How much text the model reads at once."""

    forward_batch: AtLeast1 = 32
    """Sequences in each forward pass of the model."""


@dataclass(frozen=True)
class ForwardPart(BatchPart):
    """How the model reads text."""

    context: AtLeast2 | None = None
    """Tokens per sequence; longer documents continue in the next sequence. Default: the model's context."""
    precision: Precision = "float32"
    """Precision of the model's forward pass; 'bfloat16' uses autocast."""


@dataclass(frozen=True)
class RowPart(Config):
    """How much of a document is read, where each is one row."""

    document_tokens: AtLeast2 | None = None
    """Tokens of each document that are read; the rest of a longer one is left out. Default: the model's context."""


@dataclass(frozen=True)
class DevicePart(Config):
    """Where it runs."""

    device: str = "auto"
    """Device: 'cpu', 'cuda', 'mps', or 'auto' (cuda if available, else cpu)."""


@dataclass(frozen=True)
class DoubleDevicePart(DevicePart):
    """Where it runs, if sums are taken in double precision."""

    device: str = "auto"
    """Device: 'cpu', 'cuda', or 'auto' (cuda if available, else cpu)."""

    def check(self) -> None:
        """Apple's GPUs have no double precision."""
        if self.device == "mps":
            raise RequestError("device = 'mps': has no float64, which the sums need; give 'cpu' or 'cuda'")


@dataclass(frozen=True)
class ThreadsPart(Config):
    """How many threads."""

    threads: Threads | None = 2
    """CPU threads; 'None' for all cores. On a CPU, results are bit-identical for the same number of threads."""

    @property
    def number(self) -> int:
        """The number of threads: where none is named, as many as there are cores."""
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True)
class WorkerThreadsPart(ThreadsPart):
    """How many threads each worker has."""

    threads: Threads | None = None
    """CPU threads per worker; 'None' for all cores (1 with --engine ray). On a CPU, results are bit-identical for the same number of
    threads."""


@dataclass(frozen=True)
class SeedPart(Config):
    """Where randomness comes from."""

    seed: SeedNumber = 0
    """Seed of everything drawn at random: data, initial weights, controls."""


@dataclass(frozen=True)
class WorkersPart(Config):
    """Where the work runs. The result is bit-identical either way."""

    AFFECTS_RESULT: ClassVar[bool] = False

    engine: Engine = "local"
    """Run in this process ('local') or on Ray workers ('ray', needs the extra [cluster]; they must share the run folder)."""
    ray_address: str | None = None
    """Address of a running Ray cluster. Default: start one on this machine."""
