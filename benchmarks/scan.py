"""The scan of a corpus against the bare forward pass and the usual ways, interleaved, medians, one process, one machine.

    python benchmarks/scan.py                        # the bundled model and corpus
    python benchmarks/scan.py --bound-only --documents 2500
    python benchmarks/scan.py --shape gpt2           # the scan alone, random weights in the shape of GPT-2 small
    python benchmarks/scan.py --model FOLDER --documents 32

(a) the bare forward pass through all layers, no hooks, on the same batches of 32 sequences, and the lower bound: the same in pieces of
1,024 tokens, which is faster, and no further than the last neurons; (b) `scan_neurons` with everything on, first sample and
result included; (c) `run_with_cache` and `torch.topk`, a batch at a time, for the largest activations alone;
(d) the way the public Neuroscope does it: a tracker for each statistic, then one run of the model for every neuron's page
on its twenty best texts. The page runs of (d) are timed on some neurons and extrapolated to all. End to end, ours includes
writing all pages; (d) writes none.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timing import Row, interleaved, machine, parser, timed, write_rows
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoConfig, PretrainedConfig

from mi_superposition import load_corpus, load_model
from mi_superposition.corpora import TokenBatch, model_batches
from mi_superposition.models import read_hooks
from mi_superposition.models.protocol import HookedModel
from mi_superposition.neurons import NeuronScan, ScanConfig, ScanSettings, scan_neurons
from mi_superposition.neurons.scan import ScanAccumulator, UnitReader, calibrate, mlp_hooks, read_batches, scan_batches
from mi_superposition.neurons.scan.scan import BatchRead
from mi_superposition.pages.neurons.scan import scan_record, write_scan_pages
from mi_superposition.pages.neurons.scanned import ScannedUnits
from mi_superposition.site.folder import UNITS, SiteFolder

TOP_K = 20
PAGE_RUNS = 24
SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt2": GPT2Config,
    "tiny-stories-33m": lambda: GPTNeoConfig(
        vocab_size=50257, hidden_size=768, num_layers=4, num_heads=16, max_position_embeddings=2048,
        attention_types=[[["global", "local"], 2]], intermediate_size=None,
    ),
}  # fmt: skip
BARE, BOUND, OURS = "(a) bare forward pass", "lower bound: (a), in pieces", "(b) our scan, everything on"
PLAIN = "(b) without correlations"
GOING, GOING_PLAIN = "(b) after 60,000 tokens", "the same without correlations"
SEEN_BEFORE = 60_000
CACHE, PUBLIC = "(c) run_with_cache + topk", "(d) trackers, pass only"


def bare_forward(model: Any, batches: list[TokenBatch]) -> None:
    """(a)"""
    for batch in batches:
        model(batch.tokens, stop_at_layer=model.cfg.n_layers)


def forward_to_neurons(model: Any, pieces: list[TokenBatch]) -> None:
    """The lower bound: whoever looks at every neuron on every token runs the model so far."""
    for piece in pieces:
        read_hooks(model, piece.tokens, mlp_hooks(model)[-1:])


def cache_and_topk(model: Any, batches: list[TokenBatch]) -> None:
    """(c): the largest activations of every neuron and where they are."""
    hooks = set(mlp_hooks(model))
    best: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for number, batch in enumerate(batches):
        _, cache = model.run_with_cache(batch.tokens, names_filter=lambda name: name in hooks)
        for hook in hooks:
            values = cache[hook].masked_fill(~batch.mask[:, :, None], -torch.inf).amax(dim=1)
            where = (number * 1000 + torch.arange(len(values)))[:, None].expand_as(values)
            if hook in best:
                values, where = torch.cat((best[hook][0], values)), torch.cat((best[hook][1], where))
            top = values.topk(min(TOP_K, len(values)), dim=0)
            best[hook] = (top.values, where.gather(0, top.indices))


class Tracker:
    """(d): keeps one statistic of one hook, and is called with all of a batch's activations."""

    def __init__(self, sign: float):
        self.sign = sign
        self.values = torch.zeros(0, 0)
        self.rows = torch.zeros(0, 0, dtype=torch.long)

    def update(self, activations: torch.Tensor, mask: torch.Tensor, first_row: int) -> None:
        """Take up the largest (``sign`` 1) or smallest (-1) activation of every sequence."""
        values = (self.sign * activations).masked_fill(~mask[:, :, None], -torch.inf).amax(dim=1)
        rows = (first_row + torch.arange(len(values)))[:, None].expand_as(values)
        if len(self.values):
            values, rows = torch.cat((self.values, values)), torch.cat((self.rows, rows))
        top = values.topk(min(TOP_K, len(values)), dim=0)
        self.values, self.rows = top.values, rows.gather(0, top.indices)


def public_way(model: Any, batches: list[TokenBatch]) -> dict[str, Tracker]:
    """(d), its pass over the corpus: trackers of the largest and the smallest, and of mean, square and fraction active."""
    trackers = {hook: (Tracker(1.0), Tracker(-1.0)) for hook in mlp_hooks(model)}
    sums = {hook: torch.zeros(3, model.cfg.d_mlp) for hook in trackers}
    row = 0
    for batch in batches:

        def track(activations: torch.Tensor, hook: Any, batch: TokenBatch = batch, row: int = row) -> None:
            for tracker in trackers[hook.name]:
                tracker.update(activations, batch.mask, row)
            counted = activations[batch.mask]
            sums[hook.name] += torch.stack((counted.sum(0), counted.square().sum(0), (counted > 0).sum(0)))

        model.run_with_hooks(batch.tokens, fwd_hooks=[(hook, track) for hook in trackers], return_type=None)
        row += len(batch.tokens)
    return {hook: most for hook, (most, _) in trackers.items()}


def page_run(model: Any, tokens: torch.Tensor, hook: str, neuron: int) -> torch.Tensor:
    """(d), its run for one page: the neuron's activations on its best texts."""
    _, cache = model.run_with_cache(tokens, names_filter=hook)
    return cache[hook][:, :, neuron]


@dataclass(frozen=True)
class Found:
    """Seconds of every way over ``n_tokens`` of ``n_documents``; of writing all pages; and of one page run of (d)."""

    n_documents: int
    n_tokens: int
    n_units: int
    seconds: dict[str, float]
    pages: float = 0.0
    page_run: float = 0.0

    @property
    def ours(self) -> float:
        """End to end."""
        return self.seconds[OURS] + self.pages

    @property
    def public(self) -> float:
        """(d), end to end: a page run for every neuron."""
        return self.seconds[PUBLIC] + self.n_units * self.page_run


def measured(documents: int, repeats: int, bound_only: bool) -> tuple[Found, NeuronScan]:
    """All four ways on the bundled model, or the first two; and what the scan finds."""
    model = load_model("stories", device="cpu")
    texts = list(itertools.islice(load_corpus("stories"), documents))
    batches = list(model_batches(model, texts, 32, by_length=True))
    padded = [row for batch in batches for row in _rows(batch)]
    pieces = [piece for batch in batches for piece in batch.pieces(torch.device("cpu"))]
    ways: dict[str, Callable[[], Any]] = {
        BARE: lambda: bare_forward(model, batches),
        BOUND: lambda: forward_to_neurons(model, pieces),
        OURS: lambda: scan_neurons(model, batches),
        PLAIN: lambda: scan_neurons(model, batches, correlation_share=0.0),
        "(b) bfloat16 autocast": lambda: scan_neurons(model, batches, precision="bfloat16"),
        CACHE: lambda: cache_and_topk(model, batches),
        PUBLIC: lambda: public_way(model, batches),
    }
    if bound_only:
        ways = dict(itertools.islice(ways.items(), 3))
    n_tokens = sum(int(batch.mask.sum()) for batch in batches)
    found = Found(len(texts), n_tokens, 2 * model.cfg.d_mlp, interleaved(ways, repeats))
    scan = scan_neurons(model, batches)
    if bound_only:
        return found, scan
    runs = []
    for hook, tracker in public_way(model, batches).items():
        for neuron in range(0, model.cfg.d_mlp, 2 * model.cfg.d_mlp // PAGE_RUNS):
            tokens = _stacked([padded[row] for row in tracker.rows[:, neuron].tolist()])
            runs.append(timed(lambda tokens=tokens, hook=hook, neuron=neuron: page_run(model, tokens, hook, neuron)))
    pages = timed(lambda: write_all_pages(scan, model))
    return replace(found, pages=pages, page_run=statistics.median(runs)), scan


def write_all_pages(scan: NeuronScan, model: Any) -> None:
    """A page for every neuron, with all that its weights say."""
    scanned = ScannedUnits(scan, model)
    with tempfile.TemporaryDirectory() as folder:
        record = scan_record(scanned, ScanConfig())
        write_scan_pages(scanned, record, SiteFolder(Path(folder), UNITS), site_title="s", index="index.html")


def rows(quick: bool) -> list[Row]:
    """For the common table."""
    found, _ = measured(*((40, 1) if quick else (300, 3)), False)
    text = f"{found.n_tokens:,} tokens, {found.n_units:,} neurons"
    return [
        Row(f"scan of {text}", found.seconds[OURS], "run_with_cache and topk", found.seconds[CACHE], "forward pass to the neurons", found.seconds[BOUND],
            "ours also keeps statistics, examples and correlations; the baseline keeps only the largest activations"),
        Row("the same with a page for every neuron", found.ours, "a run of the model for every page", found.public, "forward pass to the neurons",
            found.seconds[BOUND], "baseline timed on some neurons and extrapolated to all; it writes no pages"),
    ]  # fmt: skip


def bundled(documents: int, repeats: int, bound_only: bool) -> None:
    """Print it all."""
    found, scan = measured(documents, repeats, bound_only)
    n = found.n_tokens
    print(f"{found.n_documents:,} documents, {n:,} tokens, {found.n_units:,} neurons\n", flush=True)
    _table(n, found.seconds)
    if bound_only:
        return
    print(
        f"\nend to end, {found.n_units:,} neurons: ours {found.ours:.0f} s with pages ({found.n_units / found.pages:.0f} pages/s), "
        f"(d) {found.public:.0f} s"
    )
    print(f"(d) / ours {found.public / found.ours:.1f} (one page run: {1000 * found.page_run:.0f} ms)")
    model = load_model("stories", device="cpu")
    texts = list(itertools.islice(load_corpus("stories"), documents))
    batches = model_batches(model, texts, 32, by_length=True)
    half = scan_neurons(model, batches, precision="bfloat16")
    for hook, one in scan.hooks.items():
        other = half.hooks[hook]
        same = (one.top.document[:, :, None] == other.top.document[:, None]).any(dim=2).float().mean()
        moved = ((other.maximum - one.maximum).abs() / one.maximum).median()
        print(
            f"bfloat16, {hook}: {100 * same:.1f} % of the top 20 the same; largest activations moved by {100 * moved:.2f} % (median)"
        )


def _rows(batch: TokenBatch) -> list[torch.Tensor]:
    return [row[: int(mask.nonzero().max()) + 1] for row, mask in zip(batch.tokens, batch.mask, strict=True)]


def _stacked(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def random_model(config: PretrainedConfig) -> HookedModel:
    """With random weights, where those do not matter."""
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return load_model(folder, device="cpu")


def random_batches(d_vocab: int) -> list[TokenBatch]:
    """Five of 32 rows of 220 random tokens, as uneven as words are."""
    n_batches, rows, width = 5, 32, 220
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(n_batches):
        tokens = (d_vocab ** torch.rand(rows, width, generator=generator)).long()
        document = (number * rows + torch.arange(rows))[:, None].expand(rows, width)
        mask, position = torch.ones(rows, width, dtype=torch.bool), torch.arange(width).expand(rows, width)
        batches.append(TokenBatch(tokens, mask, document, position))
    return batches


class Going:
    """A scan that has seen 60,000 tokens and goes on: documents that come again have other numbers, so that they are others to it."""

    def __init__(self, reader: UnitReader, batches: list[TokenBatch], settings: ScanSettings):
        self.reader, self.batches, self.n_passes = reader, batches, 0
        calibrations, read = calibrate(lambda: read_batches(reader, batches[:1]))
        self.seen = ScanAccumulator(calibrations, settings)
        again = list(read)
        while self.seen.n_tokens < SEEN_BEFORE:
            self.take_up(again)

    def take_up(self, read: Iterable[BatchRead]) -> None:
        """What was read, as documents of their own."""
        number = 10**6 * self.n_passes
        for pieces in read:
            self.seen.update([(replace(piece, document=piece.document + number), units) for piece, units in pieces])
        self.n_passes += 1

    def go_on(self) -> None:
        """All batches, once more."""
        self.take_up(read_batches(self.reader, self.batches))


def scan_alone(model: HookedModel, batches: list[TokenBatch], repeats: int) -> None:
    """The scan's throughput beside the forward pass, from its beginning and after 60,000 tokens: examples are kept most often at the
    beginning, and the memory for them is new.
    """
    reader = UnitReader.of(model)
    pieces = [piece for batch in batches for piece in batch.pieces(torch.device("cpu"))]
    n_tokens = sum(int(batch.mask.sum()) for batch in batches)

    def begun(settings: ScanSettings, some: list[TokenBatch] = batches) -> None:
        calibrations, read = calibrate(lambda: read_batches(reader, some))
        scan_batches(read, calibrations, settings)

    everything, plain = ScanSettings(), ScanSettings(correlation_share=0.0)
    begun(plain, batches[:1])
    ways = {
        BARE: lambda: bare_forward(model, batches),
        BOUND: lambda: forward_to_neurons(model, pieces),
        OURS: lambda: begun(everything),
        GOING: Going(reader, batches, everything).go_on,
        GOING_PLAIN: Going(reader, batches, plain).go_on,
    }
    n_units = len(mlp_hooks(model)) * model.cfg.d_mlp
    documents = {int(number) for batch in batches for number in batch.document[batch.mask].unique()}
    print(f"{len(documents):,} documents, {n_tokens:,} tokens, {n_units:,} neurons\n")
    _table(n_tokens, interleaved(ways, repeats, warm_up=0))


def _table(n_tokens: int, seconds: dict[str, float]) -> None:
    print(f"{'way':30} {'tokens/s':>9} {'ratio to (a)':>12} {'to the bound':>12}")
    for name, middle in seconds.items():
        print(f"{name:30} {n_tokens / middle:9,.0f} {seconds[BARE] / middle:12.2f} {seconds[BOUND] / middle:12.2f}")


def main() -> None:
    """Print the tables."""
    options_of = parser(__doc__)
    options_of.add_argument("--documents", type=int, default=1000)
    options_of.add_argument("--repeats", type=int, default=3)
    options_of.add_argument("--bound-only", action="store_true", help="only (a) and (b)")
    alone = options_of.add_mutually_exclusive_group()
    alone.add_argument("--shape", choices=SHAPES, help="the scan alone, of a model of this shape with random weights")
    alone.add_argument("--model", help="the scan alone, of this model on stories")
    options = options_of.parse_args()
    with torch.no_grad():
        if options.rows:
            write_rows(options.rows, rows(options.quick))
            return
        print(f"{machine()}; medians of {options.repeats}")
        if options.shape is not None:
            model = random_model(SHAPES[options.shape]())
            scan_alone(model, random_batches(model.cfg.d_vocab), options.repeats)
        elif options.model is not None:
            model = load_model(options.model, device="cpu")
            texts = itertools.islice(load_corpus("stories"), options.documents)
            scan_alone(model, list(model_batches(model, texts, 32, by_length=True)), options.repeats)
        else:
            bundled(options.documents, options.repeats, options.bound_only)


if __name__ == "__main__":
    main()
