"""What is asked for when neurons are studied. Imports no torch, so that the command line can show it at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from mi_superposition.config import AnyNumber, AtLeast0, AtLeast1, AtLeast2, Config, NonNegative, Share
from mi_superposition.errors import RequestError
from mi_superposition.parts import (
    DevicePart,
    ForwardPart,
    ModelPart,
    SeedPart,
    TextPart,
    WorkersPart,
    WorkerThreadsPart,
)

Measure = Literal["cosine", "inner"]
# The range of a unit's activations is divided into so many equal intervals, from each of which examples are drawn.
N_INTERVALS = 10
Layout = Literal["auto", "separate", "together"]
# Of more units a site has no page each: 4,096 pages are some 135 MB.
_MOST_PAGES = 4096


@dataclass(frozen=True)
class LinksPart(Config):
    """Links on the page. They do not affect the numbers."""

    AFFECTS_RESULT: ClassVar[bool] = False

    pages: Path | None = None
    """Output folder of 'neurons pages', whose pages are linked."""


@dataclass(frozen=True)
class OrderConfig(Config):
    """Order neurons so that similar ones are neighbours, and compare with ordered random matrices.

    --corpus, --split, --column and --documents are used only with --weights activations.
    """

    model: ModelPart = ModelPart()
    layer: AtLeast0 | None = None
    """Layer of the neurons. Default: the last."""
    weights: str = "out"
    """Similarity by 'out' (output weights), 'in' (input weights; in a gated MLP those of the gate too), 'gate', 'both' (input and
    output), 'activations' (on a corpus), or the rows of a named weight matrix such as embed.W_E (append .T for columns)."""
    measure: Measure = "cosine"
    """Similarity of weights: cosine, or inner product (W^T W) divided by the largest one."""
    text: TextPart = TextPart(documents=500)
    controls: AtLeast2 | None = None
    """Samples per control. Default: 20; 5 for more than 2048 neurons or for activations."""
    window: AtLeast2 = 8
    """Consecutive neurons in a spot."""
    seconds: NonNegative = 0.5
    """Search effort per order, in seconds on one laptop core. It is converted to a number of steps, so the result does not depend on
    the machine."""
    without_above: tuple[Share, ...] = (0.35, 0.3)
    """Also order what is left without the neurons whose largest magnitude of similarity to another is above this, compared with
    controls drawn anew for the rest; not with --weights activations."""
    every_layer: bool = False
    """Also order the input weights, output weights and both of every layer, with a short search."""
    random: SeedPart = SeedPart()
    device: DevicePart = DevicePart()
    links: LinksPart = LinksPart()


@dataclass(frozen=True)
class ScanSettings(Config):
    """What a scan keeps of each unit. Two scans can be merged when they agree in all of it."""

    top_k: AtLeast1 = 20
    """Largest (and smallest) activations kept per unit, one per document."""
    spare: AtLeast0 = 10
    """Extra candidates per unit that replace near-duplicates of better examples."""
    per_tenth: AtLeast1 = 4
    """Examples drawn from each of ten equal intervals of a unit's activation range."""
    reach: AtLeast0 = 32
    """Number of tokens before and after each example for which activations are kept."""
    n_bins: AtLeast1 = 40
    """Bins of the histogram of each unit's activations; a multiple of 10."""
    active_above: AnyNumber = 0.0
    """A unit is active on a token when its activation is above this."""
    correlation_share: Share = 0.0625
    """Fraction of tokens, drawn at random, used for correlations between units; 0 for none."""
    random: SeedPart = SeedPart()

    def n_bytes(self, n_units: int) -> int:
        """About how much memory a scan of so many units takes, without what is kept of each token."""
        examples = 2 * (self.top_k + self.spare) + N_INTERVALS * self.per_tenth
        # An example: activations around it, a representation of 64 numbers, and where it stands.
        one = 4 * examples * (2 * self.reach + 1 + 64 + 10) + 8 * self.n_bins
        return n_units * (one + (8 * n_units if self.correlation_share else 0))

    def check(self) -> None:
        """Whole bins in every interval."""
        if self.n_bins % N_INTERVALS:
            raise RequestError(f"n_bins = {self.n_bins}: must be a multiple of {N_INTERVALS}")


@dataclass(frozen=True)
class ScanConfig(Config):
    """Collect statistics and examples for every neuron in one pass over a corpus. Run again to resume."""

    model: ModelPart = ModelPart()
    sae: str | None = None
    """Sparse autoencoder whose features are scanned: run of 'sae train', SAELens folder, 'stories', or RELEASE:ID of SAELens's registry."""
    hook: tuple[str, ...] = ()
    """Hooks to scan, such as blocks.0.hook_resid_pre. Default: the MLP neurons of all layers; with --sae only its features."""
    text: TextPart = TextPart()
    kept: ScanSettings = ScanSettings()
    forward: ForwardPart = ForwardPart()
    shard: AtLeast1 = 500
    """Documents per shard. A shard is the unit of work for a worker; an interruption loses at most the shards in progress. Use larger
    shards for millions of documents or many units."""
    threads: WorkerThreadsPart = WorkerThreadsPart()
    device: DevicePart = DevicePart()
    workers: WorkersPart = WorkersPart()


@dataclass(frozen=True)
class ContextsConfig(ScanConfig):
    """Measure how many different contexts each neuron responds to, with an untrained model and random directions as controls.

    The contexts of a unit are those of its largest activations. The controls are scanned in the same way as the model; run again
    to resume.
    """

    sae: str | None = None
    """Sparse autoencoder whose features are measured too: run of 'sae train', SAELens folder, 'stories', or RELEASE:ID of SAELens's registry."""
    hook: tuple[str, ...] = ()
    """Hooks to measure, such as blocks.0.hook_resid_pre. Default: the MLP neurons of all layers."""
    text: TextPart = TextPart(documents=500)
    random_directions: AtLeast1 = 512
    """Number of random directions of every kind in the activations that the units of each hook read (control)."""


@dataclass(frozen=True)
class PagesConfig(Config):
    """Write static pages for a finished scan: an index, one table per layer, one page per neuron."""

    scan: Path
    """Run folder of 'neurons scan' or 'neurons contexts'."""
    out: Path
    """Folder of the site; an existing site there is replaced."""
    layout: Layout = "auto"
    """'separate': one page per unit, readable without scripts. 'together': 64 units per file, about a sixth of the size.
    'auto' chooses 'together' above 4,096 units."""
    device: DevicePart = DevicePart(device="cpu")

    @classmethod
    def lays_together(cls, layout: Layout, n_units: int) -> bool:
        """Whether a site of so many units has many of them in a file."""
        return n_units > _MOST_PAGES if layout == "auto" else layout == "together"


@dataclass(frozen=True)
class TryConfig(Config):
    """Print a text coloured by a neuron's activation."""

    text: tyro.conf.Positional[str]
    """Text for the model."""
    neuron: str
    """Layer and neuron, such as 1.5."""
    model: ModelPart = ModelPart()
    device: DevicePart = DevicePart()
    colour: Literal["auto", "always", "never"] = "auto"
    """'auto' uses colours on a terminal and numbers elsewhere."""

    def check(self) -> None:
        """A neuron by its two numbers, and a text that is one."""
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise RequestError(f"text = {self.text!r}: is not UTF-8") from None
        if not re.fullmatch(r"\d+\.\d+", self.neuron):
            raise RequestError(f"neuron = {self.neuron!r}: give LAYER.NUMBER, such as 1.5")

    @property
    def layer(self) -> int:
        """Its layer."""
        return int(self.neuron.split(".")[0])

    @property
    def number(self) -> int:
        """Its number in the layer."""
        return int(self.neuron.split(".")[1])
