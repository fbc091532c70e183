"""Everything a scan of heads remembers of the tokens it has read. ``merge`` of two equals one pass over both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.corpora import TokenBatch
from mi_superposition.errors import RequestError
from mi_superposition.heads.scan.config import HeadScanSettings
from mi_superposition.heads.scan.reader import HeadReader, LayerReading
from mi_superposition.heads.scan.sums import PatternBatch, PatternSums, key_lengths, strongest_attention
from mi_superposition.heads.scan.view import BatchView, FollowedPairs
from mi_superposition.neurons.scan import Calibration, ScanAccumulator
from mi_superposition.neurons.scan.calibration import RangeAccumulator
from mi_superposition.neurons.scan.reader import projected
from mi_superposition.neurons.scan.scan import CALIBRATION_ROWS

# Sequences in which the pairs of tokens are sought that are followed, and each query's strongest keys among which.
ROWS_SOUGHT, _KEYS_SOUGHT = 64, 4
# Heads times tokens from which pairs are taken: about 200 MB while they are counted.
_MOST_SOUGHT = 1 << 22
# A pair that a head attends less often in the first documents has no mean worth ranking.
_FEWEST_SEEN = 3
TRAINED, UNTRAINED = "trained", "untrained"


def hook_of(layer: int) -> str:
    """What the heads of a layer go by in a scan: the hook of their attention."""
    return f"blocks.{layer}.attn.hook_pattern"


@dataclass(frozen=True)
class HeadCalibration:
    """What the first documents say: the range of each head's strongest attention, by hook, and the pairs of tokens to follow."""

    ranges: dict[str, Calibration]
    pairs: FollowedPairs

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be saved."""
        tensors = {"pairs": self.pairs.codes, "d_vocab": torch.tensor(self.pairs.d_vocab)}
        return tensors | {f"{hook}/{name}": value for hook, c in self.ranges.items() for name, value in vars(c).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> HeadCalibration:
        """Inverse of ``tensors``; layers in their order."""
        names = [field.name for field in fields(Calibration)]
        hooks = sorted(
            {name.partition("/")[0] for name in tensors if "/" in name}, key=lambda hook: int(hook.split(".")[1])
        )
        ranges = {hook: Calibration(**{name: tensors[f"{hook}/{name}"] for name in names}) for hook in hooks}
        return cls(ranges, FollowedPairs(tensors["pairs"], int(tensors["d_vocab"])))


class HeadAccumulator:
    """What a scan has seen so far: examples of every head as a unit whose activation is its strongest attention, and the sums over
    the attention of the model and of an untrained one.
    """

    def __init__(self, calibration: HeadCalibration, settings: HeadScanSettings, n_heads: int):
        self.calibration, self.settings = calibration, settings
        self.examples = ScanAccumulator(calibration.ranges, settings.of_units)
        layers = [int(hook.split(".")[1]) for hook in calibration.ranges]
        self.sums = {
            name: PatternSums(layers, n_heads, calibration.pairs.d_vocab, len(calibration.pairs))
            for name in (TRAINED, UNTRAINED)
        }

    @property
    def n_documents(self) -> int:
        """Documents seen."""
        return self.examples.n_documents

    @property
    def n_tokens(self) -> int:
        """Tokens that counted."""
        return self.examples.n_tokens

    def update(self, batch: TokenBatch, reader: HeadReader, untrained: HeadReader) -> None:
        """Add a batch, read by both models. Raises ``WorkError`` for a NaN or an infinity."""
        view = BatchView.of(batch, self.calibration.pairs, self.settings.query_share)
        readings: dict[str, tuple[Tensor, Tensor]] = {}
        for name, one in ((TRAINED, reader), (UNTRAINED, untrained)):
            taking = self.sums[name].begin(view)

            def hear(reading: LayerReading, name: str = name, taking: PatternBatch = taking) -> None:
                strongest = taking.take(reading)
                if name == TRAINED:
                    readings[hook_of(reading.layer)] = strongest.cpu(), projected(reading.entering).cpu()

            one.read(batch.tokens, hear)
            taking.finish()
        self.examples.update([(batch, readings)])

    def merge(self, other: HeadAccumulator) -> None:
        """Add what another scan with the same calibration has seen; its documents must all be others.

        Raises ``RequestError`` when settings or calibration differ.
        """
        if self.settings != other.settings or not torch.equal(
            self.calibration.pairs.codes, other.calibration.pairs.codes
        ):
            raise RequestError("two scans can be merged only with the same settings and the same calibration")
        self.examples.merge(other.examples)
        for name, sums in self.sums.items():
            sums.merge(other.sums[name])

    def state(self) -> dict[str, Tensor]:
        """Everything seen, as tensors."""
        state = {f"examples/{name}": value for name, value in self.examples.state().items()}
        for model, sums in self.sums.items():
            state |= {f"{model}/{name}": value for name, value in sums.sums.items()}
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go back to a state of ``state()``."""
        self.examples.load_state(
            {name.removeprefix("examples/"): value for name, value in state.items() if name.startswith("examples/")}
        )
        for model, sums in self.sums.items():
            sums.sums = {name: state[f"{model}/{name}"] for name in sums.sums}


def calibrate_heads(reader: HeadReader, batches: Iterable[TokenBatch], settings: HeadScanSettings) -> HeadCalibration:
    """Ranges of every head's strongest attention on the first 32 sequences, and the pairs of tokens to follow: of each head those
    that take most of its attention among the strongest keys of the queries of the first 64, half of them by their sum, half by their mean.

    Raises ``RequestError`` for a corpus in which no token follows another.
    """
    d_vocab, n_heads = reader.model.cfg.d_vocab, len(reader.layers) * reader.model.cfg.n_heads
    ranges = {hook_of(layer): RangeAccumulator() for layer in reader.layers}
    sought: dict[int, list[tuple[Int[Tensor, "head _entry"], Float[Tensor, "head _entry"]]]] = {}
    rows, queries = 0, _MOST_SOUGHT // n_heads
    follows = False
    pieces = itertools.chain.from_iterable(batch.pieces(reader.device) for batch in batches)
    for batch in pieces:
        follows = follows or bool((batch.mask[:, 1:] & batch.mask[:, :-1]).any())
        some = batch.mask & (torch.arange(len(batch.mask)) + rows < CALIBRATION_ROWS)[:, None]

        def hear(reading: LayerReading, batch: TokenBatch = batch, some: Tensor = some) -> None:
            strongest = strongest_attention(reading.pattern, key_lengths(reading, batch.mask)).transpose(1, 2)
            ranges[hook_of(reading.layer)].update(strongest.cpu()[some], projected(reading.entering).cpu()[some])
            sought.setdefault(reading.layer, []).append(_strongest_pairs(reading.pattern.cpu(), batch, d_vocab))

        reader.read(batch.tokens, hear)
        rows += len(batch.tokens)
        queries -= int(batch.mask.sum())
        if rows >= ROWS_SOUGHT or (rows >= CALIBRATION_ROWS and queries <= 0):
            break
    if not follows:
        raise RequestError("the corpus is too short: no token follows another in its first documents")
    codes = [_chosen(list(layer), settings.pairs) for layer in sought.values()]
    return HeadCalibration(
        {hook: measured.calibration() for hook, measured in ranges.items()},
        FollowedPairs(torch.cat(codes).unique(), d_vocab),
    )


def scan_batches(
    reader: HeadReader,
    untrained: HeadReader,
    batches: Iterable[TokenBatch],
    calibration: HeadCalibration,
    settings: HeadScanSettings,
    *,
    on_tokens: Callable[[int], None] = lambda tokens: None,
) -> HeadAccumulator:
    """What the scan remembers after these batches; parts of a corpus can be merged. ``on_tokens`` is called with the number of
    tokens of each batch done.
    """
    accumulator = HeadAccumulator(calibration, settings, reader.model.cfg.n_heads)
    for batch in batches:
        for piece in batch.pieces(reader.device):
            accumulator.update(piece, reader, untrained)
        on_tokens(int(batch.mask.sum()))
    return accumulator


def _strongest_pairs(
    pattern: Float[Tensor, "batch head query key"], batch: TokenBatch, d_vocab: int
) -> tuple[Int[Tensor, "head entry"], Float[Tensor, "head entry"]]:
    """The strongest keys of each query as pairs of tokens, and the attention they get."""
    attention = pattern * batch.mask[:, None, None, :]
    best = attention.topk(min(_KEYS_SOUGHT, attention.shape[-1]), dim=-1)
    keys = batch.tokens[:, None, :].expand(-1, pattern.shape[1], -1)
    tokens = keys.gather(2, best.indices.flatten(2)).view_as(best.indices)
    codes = batch.tokens[:, None, :, None] * d_vocab + tokens
    some = batch.mask
    by_head = (codes.transpose(0, 1)[:, some].flatten(1), best.values.transpose(0, 1)[:, some].flatten(1))
    return by_head[0], by_head[1].float()


def _chosen(
    parts: list[tuple[Int[Tensor, "head _entry"], Float[Tensor, "head _entry"]]], n_pairs: int
) -> Int[Tensor, " pair"]:
    """The pairs of each head of a layer that take most of its attention, of all these heads together."""
    codes, attention = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    chosen = []
    for head_codes, head_attention in zip(codes, attention, strict=True):
        pairs, which, counts = head_codes.unique(return_inverse=True, return_counts=True)
        total = torch.zeros(len(pairs), dtype=torch.float64).index_add_(0, which, head_attention.double())
        often = (counts >= _FEWEST_SEEN) & (total > 0)
        for value, n in ((total, n_pairs - n_pairs // 2), (total / counts, n_pairs // 2)):
            ranked = value.where(often, -1.0).argsort(descending=True, stable=True)[:n]
            chosen.append(pairs[ranked[often[ranked]]])
    return torch.cat(chosen)
