"""What is asked for when heads are scanned. Imports no torch, so that the command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mi_superposition.config import AtLeast0, AtLeast1, AtLeast2, Config, Share
from mi_superposition.neurons.config import ScanSettings
from mi_superposition.parts import (
    DevicePart,
    ForwardPart,
    ModelPart,
    SeedPart,
    TextPart,
    WorkersPart,
    WorkerThreadsPart,
)


@dataclass(frozen=True)
class HeadScanSettings(Config):
    """What a scan keeps of each head. Two scans can be merged when they agree in all of it."""

    top_k: AtLeast1 = 12
    """Examples with the strongest attention kept per head, one per document."""
    spare: AtLeast0 = 8
    """Extra candidates per head that replace near-duplicates of better examples."""
    per_tenth: AtLeast1 = 2
    """Examples drawn from each of ten equal intervals of the range of a head's strongest attention."""
    pairs: AtLeast1 = 100
    """Pairs of tokens per head that are followed through the corpus: those it attends most in the first documents."""
    query_share: Share = 0.0625
    """Fraction of tokens, drawn at random, on which the attention of all heads is compared with each other and with permuted keys."""
    repeated_sequences: AtLeast1 = 32
    """Sequences of random tokens, each repeated once, for the induction, previous-token and duplicate-token scores."""
    repeated_length: AtLeast2 = 50
    """Random tokens in each of them before they are repeated; fewer where the model's context has no room."""
    random: SeedPart = SeedPart()

    @property
    def of_units(self) -> ScanSettings:
        """The settings for the scan of heads as units whose activation is their strongest attention."""
        return ScanSettings(
            top_k=self.top_k,
            spare=self.spare,
            per_tenth=self.per_tenth,
            reach=0,
            correlation_share=0.0,
            random=self.random,
        )


@dataclass(frozen=True)
class HeadScanConfig(Config):
    """Collect statistics and examples for every attention head in one pass over a corpus, of the model and of an untrained one.

    Run again to resume.
    """

    model: ModelPart = ModelPart()
    text: TextPart = TextPart(documents=500)
    kept: HeadScanSettings = HeadScanSettings()
    forward: ForwardPart = ForwardPart()
    shard: AtLeast1 = 100
    """Documents per shard. A shard is the unit of work for a worker; an interruption loses at most the shards in progress."""
    threads: WorkerThreadsPart = WorkerThreadsPart()
    device: DevicePart = DevicePart()
    workers: WorkersPart = WorkersPart()


@dataclass(frozen=True)
class HeadPagesConfig(Config):
    """Write static pages for a finished scan of heads: an overview in which every head is a point, and one page per head."""

    scan: Path
    """Run folder of 'heads scan'."""
    out: Path
    """Folder of the site; an existing site there is replaced."""
    ablation: Path | None = None
    """Run folder of 'heads ablate' on the same model, whose result is shown with each head."""
    sae: str | None = None
    """Sparse autoencoder whose features are listed with the heads that they read from: run of 'sae train', SAELens folder, 'stories', or
    RELEASE:ID of SAELens's registry."""
    neurons: Path | None = None
    """Folder that 'neurons pages' wrote for the same model: neurons and features are linked to their pages there."""
    device: DevicePart = DevicePart(device="cpu")
