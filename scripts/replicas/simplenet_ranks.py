"""Stringer's SimpleNet on MNIST in its own recipe: effective ranks of the trained weights, by its count and by ours.

    python scripts/replicas/simplenet_ranks.py --data mnist --out simplenet.json     # mnist: train.parquet and test.parquet

Five epochs of batches of 64 with Adam, as in the source, which fixes no seed. About a minute for each seed on one core.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float
from replica import STRINGER, Row, report, spread
from torch import Tensor

from mi_superposition.corpora.images import Images, load_images
from mi_superposition.models.classifiers import SimpleNet
from mi_superposition.spectra import effective_ranks, gaussian_spectrum, weight_spectrum

MEAN, DEVIATION, BATCH, ENERGY = 0.1307, 0.3081, 64, 0.99
LAYERS = {"fc1": (784, 128), "fc2": (128, 64)}
# The source's output, its text, and the ratio that its text makes of that.
PRINTED, TOLD, RATIO = {"fc1": 110, "fc2": 54}, {"fc1": 113, "fc2": 54}, {"fc1": 0.883, "fc2": 0.844}


class Ranks(NamedTuple):
    """Of one matrix: the source's count of singular values, and the energy rank."""

    source: int
    ours: int


def ranks(weight: Float[Tensor, "out in"]) -> Ranks:
    """The source counts the values whose cumulative energy is *below* 99 %, which leaves out the one that reaches it."""
    energy = np.linalg.svd(weight.detach().numpy(), compute_uv=False) ** 2
    below = int((np.cumsum(energy) / energy.sum() < ENERGY).sum())
    return Ranks(below, effective_ranks(weight_spectrum(weight.detach()), energy=ENERGY).energy_rank)


def inputs(images: Images) -> Float[Tensor, "image channel height width"]:
    """Pixels as the source normalises them."""
    return (images.pixels.float() / 255 - MEAN) / DEVIATION


class Trained(NamedTuple):
    """A network before and after training, and the loss of every batch in nats."""

    before: SimpleNet
    after: SimpleNet
    losses: Float[Tensor, "epoch batch"]


def trained(seed: int, pixels: Tensor, labels: Tensor, epochs: int) -> Trained:
    """Train a fresh network as the source does."""
    torch.manual_seed(seed)
    network = SimpleNet(pixels[0].numel(), 10)
    before = copy.deepcopy(network)
    return Trained(before, network, train(network, pixels, labels, epochs))


def train(network: SimpleNet, pixels: Tensor, labels: Tensor, epochs: int) -> Float[Tensor, "epoch batch"]:
    """Train a network on with a fresh optimizer, as the source's cell does when it is run; the loss of every batch in nats."""
    optimizer = torch.optim.Adam(network.parameters())
    losses = []
    for _ in range(epochs):
        for chosen in torch.randperm(len(pixels)).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(pixels[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).view(epochs, -1)


def main(data: Path, seeds: int = 10, epochs: int = 5, out: Path | None = None) -> None:
    """Train, measure.

    Args:
        data: Folder with MNIST's train.parquet and test.parquet.
        seeds: Networks, from seed 0 up.
        epochs: Epochs of training; the source's are 5.
        out: JSON file of all numbers.
    """
    images = load_images(data)
    pixels, test = inputs(images.train), inputs(images.test)
    states: dict[str, list[dict[str, Ranks]]] = {"trained": [], "untrained": [], "random": []}
    accuracies = []
    for seed in range(seeds):
        fresh, network, _ = trained(seed, pixels, images.train.labels, epochs)
        states["trained"].append({name: ranks(getattr(network, name).weight) for name in LAYERS})
        states["untrained"].append({name: ranks(getattr(fresh, name).weight) for name in LAYERS})
        spectra = {name: gaussian_spectrum(*LAYERS[name], seed=seed) for name in LAYERS}
        full = {name: effective_ranks(values, energy=ENERGY).energy_rank for name, values in spectra.items()}
        states["random"].append({name: Ranks(rank - 1, rank) for name, rank in full.items()})
        with torch.no_grad():
            accuracies.append(float((network(test).argmax(dim=1) == images.test.labels).double().mean()))
        print(f"seed {seed}: {states['trained'][-1]}, accuracy {accuracies[-1]:.4f}", flush=True)

    rows = []
    for name, (_, width) in LAYERS.items():
        by_state = {state: [run[name] for run in runs] for state, runs in states.items()}
        counts = {state: spread([one.source for one in some]) for state, some in by_state.items()}
        energy = {state: spread([one.ours for one in some]) for state, some in by_state.items()}
        mine = [one.source for one in by_state["trained"]]
        controls = ", ".join(f"{state} {{}}" for state in ("untrained", "random"))
        printed = f"{PRINTED[name]} (text {TOLD[name]})"
        # The source is one seed more: is it as near the mean as ours are to each other?
        near = min(mine) - 2 <= PRINTED[name] <= max(mine) + 2
        rows += [
            Row(f"{name}: rank of the weights, its count, of {width}", printed, counts["trained"], controls.format(counts["untrained"], counts["random"]), "confirmed" if near else "not confirmed", "within two of our range; its own two numbers for fc1 differ by three"),
            Row(f"{name}: energy rank, ours", None, energy["trained"], controls.format(energy["untrained"], energy["random"]), "ours", "one more than its count, which leaves out the value that reaches 99 %"),
            Row(f"{name}: ratio to the width, its count", RATIO[name], spread([count / width for count in mine]), controls.format(*(spread([one.source / width for one in by_state[state]]) for state in ("untrained", "random"))), "confirmed" if near else "not confirmed"),
        ]  # fmt: skip
    below = all(
        run[name].ours < before[name].ours
        for run, before in zip(states["trained"], states["untrained"], strict=True)
        for name in LAYERS
    )
    rows.append(Row("a higher rank means more superposition", "trained is high", "trained is lower than untrained", "untrained and random are higher", "refuted" if below else "not confirmed", "a network that learnt nothing would have the most superposition"))  # fmt: skip
    settings = {"data": "MNIST", "seeds": seeds, "epochs": epochs, "batch": BATCH, "optimizer": "Adam, 0.001", "energy": ENERGY}  # fmt: skip
    details = {
        state: {name: [run[name]._asdict() for run in runs] for name in LAYERS} for state, runs in states.items()
    }
    report("SimpleNet on MNIST", STRINGER, settings, rows, details | {"test_accuracy": accuracies}, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
