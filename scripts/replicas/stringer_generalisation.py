"""Do overlapping representations help to generalise? SimpleNet's neurons shared by all digits or not, and features that share dimensions or not.

    python scripts/replicas/stringer_generalisation.py --data mnist --out generalisation.json    # mnist: train.parquet and test.parquet

Stringer states it of MNIST's digits and gives no number. Three networks of the same size learn from 100 to 10,000 images: neurons shared
as usual; none shared, so that each digit has neurons of its own in both layers; and connections drawn at random, as many as the second
has, where digits share neurons but there are no more weights. Toy bottlenecks learn from 100 to 10,000 fixed inputs, with features that
may overlap or that have a dimension each. Five minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Bool, Float, Int
from replica import STRINGER, Row, Verdict, report, spread
from simplenet_ranks import BATCH, inputs
from torch import Tensor

from mi_superposition.corpora.images import load_images
from mi_superposition.toy.geometry import relative_interference, represented

DIGITS = 10
# Neurons of a digit in each layer: 120 and 60 in all, where SimpleNet has 128 and 64.
OWN = (12, 6)
KINDS = ("shared", "none shared", "random connections")
SIZES = (100, 1000, 10_000)
FEATURES, HIDDEN, PROBABILITY, HELD_OUT = 20, 5, 0.1, 10_000
TOYS = ("free", "a dimension each")


class Masks(NamedTuple):
    """Which connections the second layer and the output have."""

    second: Bool[Tensor, "net out in"]
    output: Bool[Tensor, "net out in"]


def masks(kind: str, nets: int, generator: torch.Generator) -> Masks:
    """Those of a kind of network; the random ones have as many at each neuron as those without sharing."""
    first, second = OWN
    blocks = [
        torch.block_diag(*[torch.ones(out, into)] * DIGITS).bool() for out, into in ((second, first), (1, second))
    ]
    if kind == "shared":
        return Masks(*(torch.ones(nets, *block.shape, dtype=torch.bool) for block in blocks))
    if kind == "none shared":
        return Masks(*(block.expand(nets, -1, -1) for block in blocks))
    drawn = [torch.rand(nets, *block.shape, generator=generator) for block in blocks]
    return Masks(
        *(some.argsort(dim=2).argsort(dim=2) < block.sum(dim=1)[0] for some, block in zip(drawn, blocks, strict=True))
    )


class Nets:
    """Networks of one kind beside each other: pixels → 120 → 60 → 10, with ReLU between."""

    def __init__(self, kind: str, nets: int, n_pixels: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.masks = masks(kind, nets, generator)
        widths = (n_pixels, DIGITS * OWN[0], DIGITS * OWN[1], DIGITS)
        # As torch begins a linear layer, by the number of connections that there are.
        into = (n_pixels, int(self.masks.second[0, 0].sum()), int(self.masks.output[0, 0].sum()))
        self.weights, self.biases = [], []
        for layer, n in enumerate(into):
            for parts, shape in (
                (self.weights, (widths[layer + 1], widths[layer])),
                (self.biases, (1, widths[layer + 1])),
            ):
                drawn = (2 * torch.rand(nets, *shape, generator=generator) - 1) / n**0.5
                parts.append(drawn.requires_grad_())

    def __call__(self, x: Float[Tensor, "#net image pixel"]) -> Float[Tensor, "net image digit"]:
        """Logits."""
        allowed = (None, self.masks.second, self.masks.output)
        for layer, (weight, bias, mask) in enumerate(zip(self.weights, self.biases, allowed, strict=True)):
            kept = weight if mask is None else weight * mask
            x = torch.relu(x) if layer else x
            x = x @ kept.mT + bias
        return x


class Learnt(NamedTuple):
    """Of each network: share of right digits among those it learnt from and among others, in per cent."""

    seen: list[float]
    unseen: list[float]


def learnt(
    kind: str, size: int, nets: int, steps: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Learnt:
    """Train networks of a kind, each on ``size`` images of its own draw; the draws of all kinds are the same."""
    generator = torch.Generator().manual_seed(size)
    pixels, labels = (some.flatten(1) if some.ndim > 1 else some for some in train)
    own = torch.stack([torch.randperm(len(pixels), generator=generator)[:size] for _ in range(nets)])
    networks = Nets(kind, nets, pixels.shape[1], size)
    optimizer = torch.optim.Adam([*networks.weights, *networks.biases])
    for _ in range(steps):
        chosen = own.gather(1, torch.randint(size, (nets, min(BATCH, size)), generator=generator))
        loss = F.cross_entropy(networks(pixels[chosen]).flatten(0, 1), labels[chosen].flatten(), reduction="sum")
        optimizer.zero_grad()
        (loss / chosen.shape[1]).backward()
        optimizer.step()

    def right(x: Tensor, y: Int[Tensor, "#net image"]) -> list[float]:
        with torch.no_grad():
            return (100 * (networks(x).argmax(dim=2) == y).double().mean(dim=1)).tolist()

    unseen = right(test[0].flatten(1)[None], test[1][None])
    some = own[:, :2000]
    return Learnt(right(pixels[some], labels[some]), unseen)


class Bottlenecks(NamedTuple):
    """Of each toy model: losses over that of the best constant, features represented, and mean relative interference of those."""

    seen: list[float]
    unseen: list[float]
    represented: list[float]
    interference: list[float]


def sparse_inputs(n: int, nets: int, generator: torch.Generator) -> Float[Tensor, "net input feature"]:
    """Features that are 0 most of the time, else uniform in [0, 1]."""
    shape = (nets, n, FEATURES)
    return torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < PROBABILITY)


def bottlenecks(kind: str, size: int, nets: int, steps: int) -> Bottlenecks:
    """Train ReLU(W^T W x + b) on ``size`` inputs; without overlap W is diagonal, which leaves no dimension to the other features."""
    generator = torch.Generator().manual_seed(size)
    seen, unseen = sparse_inputs(size, nets, generator), sparse_inputs(HELD_OUT, nets, generator)
    drawn = (2 / (FEATURES + HIDDEN)) ** 0.5 * torch.randn(nets, HIDDEN, FEATURES, generator=generator)
    allowed = torch.ones(HIDDEN, FEATURES) if kind == TOYS[0] else torch.eye(HIDDEN, FEATURES)
    W, b = (drawn * allowed).requires_grad_(), torch.zeros(nets, 1, FEATURES, requires_grad=True)
    optimizer = torch.optim.Adam([W, b], lr=3e-3)

    def errors(x: Tensor) -> Float[Tensor, " net"]:
        kept = W * allowed
        return (torch.relu(x @ kept.mT @ kept + b) - x).square().sum(dim=2).mean(dim=1)

    for _ in range(steps):
        some = torch.randint(size, (nets, min(1024, size), 1), generator=generator).expand(-1, -1, FEATURES)
        optimizer.zero_grad()
        errors(seen.gather(1, some)).sum().backward()
        optimizer.step()
    with torch.no_grad():
        constant = unseen.var(dim=1, correction=0).sum(dim=1)
        last = W * allowed
        shared = relative_interference(last)
        counted = last.norm(dim=1) > 0.5
        mean = (shared * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)
        return Bottlenecks(
            (errors(seen) / constant).tolist(),
            (errors(unseen) / constant).tolist(),
            represented(last).tolist(),
            mean.tolist(),
        )


def wins(one: list[float], other: list[float]) -> int:
    """How often the first is larger."""
    return sum(first > second for first, second in zip(one, other, strict=True))


def main(
    data: Path,
    nets: int = 10,
    steps: int = 1500,
    toy_steps: int = 3000,
    sizes: tuple[int, ...] = SIZES,
    out: Path | None = None,
) -> None:
    """Train, compare.

    Args:
        data: Folder with MNIST's train.parquet and test.parquet.
        nets: Networks of each kind and size of training set.
        steps: Steps of Adam, batches of 64 images.
        toy_steps: Steps of Adam of the toy models.
        sizes: Images, and inputs of toy models, to learn from.
        out: JSON file of all numbers.
    """
    images = load_images(data)
    train, test = ((inputs(some), some.labels) for some in (images.train, images.test))
    found = {(kind, size): learnt(kind, size, nets, steps, train, test) for size in sizes for kind in KINDS}
    toys = {(kind, size): bottlenecks(kind, size, nets, toy_steps) for size in sizes for kind in TOYS}
    rows = []
    for size in sizes:
        shared, alone, drawn = (found[kind, size].unseen for kind in KINDS)
        rows.append(Row(f"{size:,} images: right digits of the test set, %, neurons shared by digits", "more", spread(shared), f"none shared {spread(alone)}, random connections {spread(drawn)}", _verdict(shared, alone, drawn), f"more than without sharing in {wins(shared, alone)} of {nets}, and with random connections in {wins(drawn, alone)} of {nets}"))  # fmt: skip
    for size in sizes:
        free, alone = (toys[kind, size] for kind in TOYS)
        gaps = [_gaps(one) for one in (free, alone)]
        rows.append(Row(f"{size:,} inputs of a toy bottleneck: loss on new inputs over loss on its own, features overlap", "lower", spread(gaps[0]), f"a dimension each {spread(gaps[1])}", "confirmed" if wins(gaps[1], gaps[0]) == nets else "refuted" if wins(gaps[0], gaps[1]) == nets else "not confirmed", f"loss on new inputs over the constant's {spread(free.unseen)}, with a dimension each {spread(alone.unseen)}; relative interference {sum(free.interference) / nets:.2f}"))  # fmt: skip
    settings = {"data": "MNIST", "networks": nets, "steps": steps, "optimizer": "Adam, 0.001", "toy": f"{FEATURES} features, {HIDDEN} dimensions, probability {PROBABILITY}, {toy_steps} steps"}  # fmt: skip
    details: dict[str, Any] = {
        f"{kind}, {size}": one._asdict() for some in (found, toys) for (kind, size), one in some.items()
    }
    report("overlap and generalisation", STRINGER, settings, rows, details, out)


def _gaps(toys: Bottlenecks) -> list[float]:
    return [unseen / seen for unseen, seen in zip(toys.unseen, toys.seen, strict=True)]


def _verdict(shared: list[float], alone: list[float], drawn: list[float]) -> Verdict:
    """Confirmed where sharing helps with as few connections too."""
    most = 0.8 * len(shared)
    helps, drawn_helps = wins(shared, alone) >= most, wins(drawn, alone) >= most
    return (
        "confirmed"
        if helps and drawn_helps
        else "refuted"
        if wins(alone, shared) >= most and wins(alone, drawn) >= most
        else "not confirmed"
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
