"""What the study of concepts, and the training of an encoder to study, are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from mi_superposition.config import AtLeast1, Config, NonNegative, Positive
from mi_superposition.errors import RequestError
from mi_superposition.parts import DevicePart, ModelPart, SeedPart, TextPart, ThreadsPart

# Values of --labels that name no column.
AUTO, NONE = "auto", "none"
# Dimensions of an attention head of the encoder, as in DistilBERT.
_D_HEAD = 64


@dataclass(frozen=True)
class ConceptTextPart(TextPart):
    """Which text, in sentences where concepts are word lists."""

    documents: AtLeast1 | None = 8000
    """Number of texts (sentences, with word lists) to use, from the start of the corpus; None for all."""


@dataclass(frozen=True)
class ConceptsConfig(Config):
    """Measure concepts in every layer of a model: linear probes, concept directions, and shared units, with controls.

    Concepts are text labels, or word lists split in a train half and a test half. The model is a language model, or an encoder
    such as DistilBERT.
    """

    model: ModelPart = ModelPart()
    text: ConceptTextPart = ConceptTextPart()
    labels: str = AUTO
    """Label column; 'none' uses word lists; 'auto' uses a column 'label' if there is one."""
    concepts: str | None = None
    """Word lists: 'stories', 'sentiment', or a JSON file {"concept": ["word", ...]}. Default: 'stories' for the bundled corpus, else 'sentiment'."""
    sae: str | None = None
    """Sparse autoencoder of the model, whose features are measured too: run of 'sae train', SAELens folder, 'stories', or RELEASE:ID of SAELens's registry."""
    per_concept: AtLeast1 = 300
    """Maximum number of texts per concept, separately for training and for testing."""
    units_per_concept: AtLeast1 = 20
    """Units with the largest effect per concept, compared between concepts."""
    halvings: AtLeast1 = 12
    """Random halvings of each concept's words (of labelled texts, for labels) over which the probe's accuracy is averaged. In each the layer
    is chosen by cross-validation on the training half."""
    random_lists: AtLeast1 = 50
    """Draws of random word lists (control)."""
    random_probes: AtLeast1 = 3
    """Number of these draws for which a probe is also trained."""
    permutations: AtLeast1 = 1000
    """Permutations per permutation test."""
    random: SeedPart = SeedPart()
    threads: ThreadsPart = ThreadsPart()
    device: DevicePart = DevicePart()

    def check(self) -> None:
        """No more probes than draws of word lists; word lists and labels are alternatives."""
        if self.random_probes > self.random_lists:
            raise RequestError(
                f"random_probes = {self.random_probes}: must be at most random_lists = {self.random_lists}"
            )
        if self.concepts is not None and self.labels not in (AUTO, NONE):
            raise RequestError(
                f"concepts = {self.concepts!r}: the labels of the texts are the concepts; give --labels none to use word lists"
            )


@dataclass(frozen=True)
class EncoderConfig(Config):
    """Train a small DistilBERT on the labels of texts, and save it in Hugging Face layout.

    AdamW with dropout; the learning rate rises for a tenth of the steps and then falls linearly to 0.
    """

    train: str
    """Texts with labels to train on: file (.parquet, .jsonl, .csv) or Hugging Face Hub id."""
    test: str
    """Texts with labels to test on, likewise."""
    tokenizer: str
    """Folder or Hugging Face Hub id of a DistilBERT tokenizer, such as distilbert/distilbert-base-uncased."""
    train_split: str = "train"
    """Split of the training texts, for a dataset on the Hub."""
    test_split: str = "train"
    """Split of the test texts, for a dataset on the Hub."""
    layers: AtLeast1 = 3
    """Number of layers."""
    dim: int = 4 * _D_HEAD
    """Dimensions of the hidden states, a multiple of 64; each layer has four times as many neurons and a head for every 64."""
    epochs: AtLeast1 = 1
    """Passes over the training texts."""
    batch_size: AtLeast1 = 64
    """Texts per step."""
    learning_rate: Positive = 5e-4
    """Peak AdamW learning rate; warm-up is 10 % of the steps."""
    weight_decay: NonNegative = 0.01
    """AdamW weight decay."""
    context: Annotated[int, Ge(3)] = 64
    """Tokens per text, including the two special ones (first and last); longer texts are truncated."""
    threads: ThreadsPart = ThreadsPart()
    random: SeedPart = SeedPart()

    def check(self) -> None:
        """Whole heads."""
        if self.dim < _D_HEAD or self.dim % _D_HEAD:
            raise RequestError(f"dim = {self.dim}: must be a multiple of {_D_HEAD}, the dimensions of a head")

    @property
    def heads(self) -> int:
        """Attention heads of each layer."""
        return self.dim // _D_HEAD

    def steps_per_epoch(self, n_texts: int) -> int:
        """Batches that so many texts make; the last one may be smaller."""
        return -(-n_texts // self.batch_size)
