"""Commands about neurons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mi_superposition.cli.command import Command, progress, where


@dataclass(frozen=True)
class NeuronsOrder(Command):
    """Order neurons so that like stands beside like, and compare with random matrices that were ordered too."""

    out: Path
    """Run folder."""
    model: str = "stories"
    """Bundled model, folder in Hugging Face layout, run folder, or id on the hub."""
    layer: int | None = None
    """Layer of the neurons. Default: the last."""
    weights: str = "out"
    """Alike by 'out' (what they write), 'in' (what they read), 'both', 'activations' (on a corpus), or the rows of a
    matrix of the model by its name, such as embed.W_E (add .T for its columns)."""
    measure: Literal["cosine", "inner"] = "cosine"
    """Of weights: the cosine of two directions, or their inner product (W^T W) over the largest one."""
    corpus: str = "stories"
    """For --weights activations: bundled corpus, file, folder, or dataset id on the hub."""
    split: str = "train"
    """For --weights activations: split of the corpus, where it has several."""
    column: str = "text"
    """For --weights activations: column with the text, where the corpus has columns."""
    rows: int = 500
    """For --weights activations: rows of the corpus, each as long as the model's context at most."""
    controls: int | None = None
    """Samples of each control. Default: 20; 5 for more than 2048 neurons and for activations."""
    window: int = 8
    """Neurons in a spot."""
    seconds: float = 0.5
    """Search for each order, in seconds of one core of a laptop; counted in steps, so a busy machine changes nothing."""
    seed: int = 0
    """Seed of search and controls."""
    pages: Path | None = None
    """Site with neuron pages to link to."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', or 'auto': cuda where there is one."""

    def run(self) -> str:
        """Write the orders, the numbers and the page."""
        from mi_superposition.studies.neuron_order import write_neuron_order_run

        with progress("stage") as advance:
            finished = write_neuron_order_run(
                self.out,
                model_name=self.model,
                layer=self.layer,
                weights=self.weights,
                measure=self.measure,
                corpus_name=self.corpus,
                split=self.split,
                column=self.column,
                rows=self.rows,
                n_controls=self.controls,
                window=self.window,
                seed=self.seed,
                seconds=self.seconds,
                pages=self.pages,
                device=self.device,
                on_stage=lambda stage: advance(1, stage),
            )
        return where(finished, self.out)
