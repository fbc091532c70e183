"""Commands about neurons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from mi_superposition.cli.command import Command, progress, stop_on_signal, where


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


@dataclass(frozen=True)
class NeuronsScan(Command):
    """Find what every neuron responds to, in one pass over a corpus; run again on the same folder to go on."""

    out: Path
    """Run folder."""
    model: str = "stories"
    """Bundled model, folder in Hugging Face layout, run folder, or id on the hub."""
    corpus: str = "stories"
    """Bundled corpus, file, folder, or dataset id on the hub."""
    split: str = "train"
    """Split of the corpus, where it has several."""
    column: str = "text"
    """Column with the text, where the corpus has columns."""
    documents: int | None = None
    """Documents scanned, from the first on. Default: all."""
    hook: tuple[str, ...] = ()
    """Hooks whose units are scanned, such as blocks.0.hook_resid_pre. Default: the MLP neurons of all layers, or with --sae
    none but its features."""
    sae: str | None = None
    """Sparse autoencoder whose features are scanned: run of 'sae train', folder in SAELens's layout, or 'stories'."""
    top_k: int = 20
    """Largest, and least, activations kept of each unit, one a document."""
    spare: int = 10
    """Further ones kept while scanning, to stand in for near-duplicates of better ones."""
    per_tenth: int = 4
    """Examples drawn from each tenth of a unit's range."""
    reach: int = 32
    """Tokens before and after an example whose activations are kept."""
    correlation_share: float = 0.0625
    """Share of the tokens, drawn at random, for correlations between units; 0 for none."""
    batch: int = 32
    """Rows run at once."""
    context: int | None = None
    """Tokens in a row; longer documents go on in the next. Default: the model's context."""
    shard: int = 500
    """Documents in a shard, which is what a worker takes at a time and what a stop can lose. For millions of documents
    or many units take more: a worker writes all it remembers for each."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the model's arithmetic; 'bfloat16' runs it under autocast."""
    threads: int | None = None
    """CPU threads, of each worker; the result is bit-identical for the same number. Default: all cores, 1 for Ray."""
    seed: int = 0
    """Seed of the examples drawn from the tenths."""
    device: str = "auto"
    """'cpu', 'cuda', 'mps', or 'auto': cuda where there is one."""
    engine: Literal["local", "ray"] = "local"
    """Where the shards are scanned: in this process, or by Ray's workers (they must share the run folder)."""
    ray_address: str | None = None
    """Address of a running Ray cluster. Default: one is started on this machine."""

    def run(self) -> str:
        """Scan, or go on, or say that it is finished."""
        import torch

        from mi_superposition.neurons.scan import ScanSettings
        from mi_superposition.studies.neuron_scan import ScanRequest, write_scan_run

        settings = ScanSettings(
            top_k=self.top_k,
            spare=self.spare,
            per_tenth=self.per_tenth,
            reach=self.reach,
            correlation_share=self.correlation_share,
            seed=self.seed,
        )
        threads = self.threads
        if threads is None:
            threads = 1 if self.engine == "ray" else torch.get_num_threads()
        request = ScanRequest(
            model=self.model,
            sae=self.sae,
            corpus=self.corpus,
            split=self.split,
            column=self.column,
            hooks=self.hook,
            documents=self.documents,
            shard=self.shard,
            batch=self.batch,
            context=self.context,
            precision=self.precision,
            threads=threads,
            device=self.device,
            settings=settings,
        )
        with stop_on_signal() as stopping, progress("document", self.documents) as advance:
            scanned = write_scan_run(
                self.out,
                request,
                engine=self.engine,
                ray_address=self.ray_address,
                on_documents=advance,
                should_stop=stopping,
            )
        return where(not scanned, self.out)


@dataclass(frozen=True)
class NeuronsPages(Command):
    """Turn a finished scan into static pages: an index, a table a layer, a page a neuron; opens from disk."""

    scan: Path
    """Run folder of 'neurons scan'."""
    out: Path
    """Folder of the site; written over if it holds an earlier one."""
    device: str = "cpu"
    """Where the model's weights are read: 'cpu', 'cuda', 'mps', or 'auto'."""

    def run(self) -> str:
        """Write the pages."""
        from mi_superposition.studies.neuroscope import write_neuroscope

        with progress("page") as advance:
            n = write_neuroscope(self.scan, self.out, device=self.device, on_pages=advance)
        return f"{n:,} pages: {self.out / 'index.html'}"


@dataclass(frozen=True)
class NeuronsTry(Command):
    """Print a text coloured by what a neuron makes of it."""

    text: tyro.conf.Positional[str]
    """What the model reads."""
    neuron: str
    """Layer and number of the neuron, such as 1.5."""
    model: str = "stories"
    """Bundled model, folder in Hugging Face layout, run folder, or id on the hub."""
    colour: Literal["auto", "always", "never"] = "auto"
    """'auto': colours on a terminal, numbers alone elsewhere."""

    def run(self) -> str:
        """The coloured text, and the tokens with their activations."""
        import sys

        from mi_superposition.studies.neuron_try import neuron_try

        coloured = sys.stdout.isatty() if self.colour == "auto" else self.colour == "always"
        return neuron_try(self.text, self.neuron, self.model, coloured=coloured)
