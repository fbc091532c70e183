"""The command about effective ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mi_superposition.cli.command import Command, progress, stop_on_signal, text_table, where


@dataclass(frozen=True)
class Spectra(Command):
    """Measure effective ranks of a network's weights and activations, layer by layer, beside its untrained copy.

    An image classifier is trained first (run again on the same folder to go on); a language model is taken as it is.
    """

    out: Path
    """Run folder; the page is page/index.html below it."""
    network: str = "simplenet"
    """'simplenet' or 'resnet50', freshly initialised; with --images an image classifier in Hugging Face layout (folder or id
    on the hub, such as microsoft/resnet-50); otherwise a language model: bundled, run folder, folder or id on the hub."""
    images: str | None = None
    """'digits', folder with train.parquet and test.parquet, or dataset id on the hub. Default for a classifier: digits."""
    corpus: str | None = None
    """Text for a language model: bundled corpus, file, folder, or dataset id on the hub. Default: stories."""
    split: str = "train"
    """Split of the corpus, where it has several."""
    column: str = "text"
    """Column with the text, where the corpus has columns."""
    image_column: str | None = None
    """Column with the images. Default: found by its type."""
    label_column: str | None = None
    """Column with their labels. Default: found by its type."""
    layers: tuple[str, ...] = ("*",)
    """Which layers, by name; '*' and '?' stand for anything."""
    epochs: int = 20
    """Passes over the images trained on; 0 takes a classifier as it is."""
    batch_size: int = 64
    """Images in a step."""
    learning_rate: float = 1e-3
    """AdamW's at its height, after a twentieth of the steps."""
    weight_decay: float = 0.0
    """AdamW's."""
    stem: Literal["imagenet", "small", "small-pooled"] = "imagenet"
    """A ResNet's first convolution: 7 by 7 of stride 2 and pooling; 3 by 3 of stride 1 for small images; that with pooling."""
    measured_on: Literal["test", "train"] = "test"
    """Images whose activations are measured."""
    most: int | None = None
    """How many of them, or of the corpus's documents, from the first on. Default: all."""
    energy: float = 0.99
    """Share of the squared singular values that the energy rank reaches."""
    threads: int = 2
    """CPU threads. On a CPU the weights are bit-identical between runs with the same number."""
    seed: int = 0
    """Seed of initial weights, order of images, and controls."""
    device: str = "auto"
    """'cpu', 'cuda', or 'auto': cuda where there is one."""

    def run(self) -> str:
        """Train and measure, or go on, or say that it is finished; the table."""
        from mi_superposition.models import device_of
        from mi_superposition.spectra.classifier import ClassifierTraining
        from mi_superposition.studies.spectra.page import intro, ranks_table
        from mi_superposition.studies.spectra.study import (
            SpectraRequest,
            load_findings,
            open_subject,
            write_spectra_run,
        )

        training = ClassifierTraining(self.epochs, self.batch_size, self.learning_rate, self.weight_decay, self.seed)
        request = SpectraRequest(
            network=self.network,
            images=self.images,
            corpus=self.corpus,
            split=self.split,
            column=self.column,
            image_column=self.image_column,
            label_column=self.label_column,
            layers=self.layers,
            training=training,
            stem=self.stem,
            measured_on=self.measured_on,
            most=self.most,
            energy=self.energy,
            threads=self.threads,
            device=device_of(self.device),
        )
        with stop_on_signal() as stopping:
            with progress("image") as on_image:
                subject = open_subject(request, on_image=on_image)
            with progress("step", subject.total) as on_step:
                done = write_spectra_run(self.out, request, subject, on_step=on_step, should_stop=stopping)
        findings = load_findings(self.out)
        return f"{text_table(*ranks_table(findings))}\n{intro(findings)}\n{where(not done, self.out)}"
