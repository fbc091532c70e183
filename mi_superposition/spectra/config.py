"""What is asked for when effective ranks are measured. Imports no torch, so that the command line can show it at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval

from mi_superposition.config import AtLeast0, AtLeast1, AtLeast2, Config, NonNegative, Positive
from mi_superposition.errors import RequestError
from mi_superposition.models.classifier_names import CLASSIFIERS, Stem
from mi_superposition.parts import DoubleDevicePart, ModelPart, SeedPart, TextPart, ThreadsPart

# The fraction that defines the energy rank unless another is asked for.
ENERGY = 0.99


@dataclass(frozen=True)
class ClassifierTraining(Config):
    """How an image classifier is trained."""

    epochs: AtLeast0 = 20
    """Training epochs; 0 measures a classifier without training."""
    batch_size: AtLeast2 = 64
    """Images per step."""
    learning_rate: Positive = 1e-3
    """Peak AdamW learning rate; warm-up is 5 % of the steps, then cosine decay to 0."""
    weight_decay: NonNegative = 0.0
    """AdamW weight decay."""


@dataclass(frozen=True)
class MeasuredTextPart(TextPart):
    """Which text, and how much is measured of it, or of the images."""

    documents: AtLeast1 | None = None
    """Number of images or documents to measure, from the start of the data set. Default: all."""


@dataclass(frozen=True)
class SpectraConfig(Config):
    """Measure effective ranks of a network's weights and activations per layer, compared with its untrained copy.

    The models 'simplenet' and 'resnet50' are newly initialised image classifiers; with --images any model is an image classifier
    (folder in Hugging Face layout or Hub id). A classifier is trained first and reads no text. Every other model is a language
    model, which is measured on text without training. Run again to resume.
    """

    model: ModelPart = ModelPart(model="simplenet")
    images: str | None = None
    """Labelled images: 'digits', folder with train.parquet and test.parquet, or Hub id. Default for 'simplenet' and 'resnet50':
    'digits'."""
    image_column: str | None = None
    """Image column. Default: found by type."""
    label_column: str | None = None
    """Label column. Default: found by type."""
    text: MeasuredTextPart = MeasuredTextPart()
    layers: tuple[str, ...] = ("*",)
    """Layers to measure, by name; '*' and '?' are wildcards."""
    training: ClassifierTraining = ClassifierTraining()
    stem: Stem = "imagenet"
    """First convolution of a ResNet: 'imagenet' (7 × 7, stride 2, pooling), 'small' (3 × 3, stride 1), 'small-pooled' (3 × 3,
    stride 1, pooling)."""
    measured_on: Literal["test", "train"] = "test"
    """Images whose activations are measured: 'test' or 'train'."""
    energy: Annotated[float, Interval(gt=0, le=1)] = ENERGY
    """Fraction of the sum of squared singular values that defines the energy rank."""
    device: DoubleDevicePart = DoubleDevicePart()
    threads: ThreadsPart = ThreadsPart(threads=1)
    random: SeedPart = SeedPart()

    def check(self) -> None:
        """A classifier reads no text."""
        if self.names_corpus and self.image_set is not None:
            raise RequestError(
                f"corpus = {self.text.corpus!r}: {self.model.name!r} reads images ({self.image_set!r}); give a language model, or "
                "leave out the corpus"
            )

    @property
    def image_set(self) -> str | None:
        """The images that a classifier reads; ``None`` for a language model."""
        return self.images or ("digits" if self.model.name in CLASSIFIERS else None)

    @property
    def names_corpus(self) -> bool:
        """Whether another text than the usual one was asked for, which a network that reads no text must refuse."""
        return self.text.corpus != TextPart().corpus

    @classmethod
    def flattened(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Version 0.1 recorded ``None`` for the usual corpus, and always a name for its column."""
        usual = {"corpus": None, "column": "text"}
        options = super().flattened(recorded)
        return {name: value for name, value in options.items() if name not in usual or value != usual[name]}
