"""Stringer's SimpleNet on MNIST in its own recipe: the losses of its last batches, and when its cell is run again.

    python scripts/replicas/simplenet_losses.py --data mnist --out losses.json     # mnist: train.parquet and test.parquet

The source prints the loss of one batch, the last of each of five epochs. Its cell begins with a fresh optimizer but goes on with the
network as it is, so a notebook's cell that is run again trains on. A minute and a half for each seed on one core.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from jaxtyping import Float
from replica import STRINGER, Row, report, spread
from simplenet_ranks import BATCH, LAYERS, PRINTED, inputs, ranks, train

from mi_superposition.corpora.images import load_images
from mi_superposition.models.classifiers import SimpleNet

# What the source prints after each epoch.
LOSSES = (0.0020, 0.0002, 0.0047, 0.0026, 0.0004)
LAST_BATCHES = 50


def as_small(losses: Float[np.ndarray, "seed epoch batch"]) -> list[float]:
    """For each epoch the share of its last batches whose loss is at most the source's."""
    last = losses[:, :, -LAST_BATCHES:]
    return [
        float((last[:, epoch] <= printed).mean()) for epoch, printed in zip(range(last.shape[1]), LOSSES, strict=False)
    ]


def main(data: Path, seeds: int = 5, epochs: int = 5, runs: int = 4, out: Path | None = None) -> None:
    """Train, compare.

    Args:
        data: Folder with MNIST's train.parquet and test.parquet.
        seeds: Networks, from seed 0 up.
        epochs: Epochs of a run of the cell; the source's are 5.
        runs: How often the cell is run.
        out: JSON file of all numbers.
    """
    images = load_images(data)
    pixels, test = inputs(images.train), inputs(images.test)
    losses: list[list[list[list[float]]]] = [[] for _ in range(runs)]
    rank: list[dict[str, list[int]]] = [{name: [] for name in LAYERS} for _ in range(runs)]
    unseen: list[list[float]] = [[] for _ in range(runs)]
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = SimpleNet(pixels[0].numel(), 10)
        for run in range(runs):
            losses[run].append(train(network, pixels, images.train.labels, epochs).tolist())
            for name in LAYERS:
                rank[run][name].append(ranks(getattr(network, name).weight).source)
            with torch.no_grad():
                unseen[run].append(float(F.cross_entropy(network(test), images.test.labels)))
            print(
                f"seed {seed}, run {run + 1}: last losses {[round(epoch[-1], 4) for epoch in losses[run][-1]]}",
                flush=True,
            )
    first = np.array(losses[0])
    small = [as_small(np.array(some)) for some in losses]
    # As if the five were drawn independently: smaller products are less likely.
    likely = [float(np.prod(some)) for some in small]
    rows = []
    for epoch, printed in enumerate(LOSSES[:epochs]):
        last = first[:, epoch, -LAST_BATCHES:].flatten()
        low, middle, high = np.percentile(last, (5, 50, 95))
        rows.append(Row(f"loss of the last batch of epoch {epoch + 1}", printed, f"{middle:.3f} ({low:.3f} to {high:.3f}: middle 90 % of the last {LAST_BATCHES} batches of {seeds} seeds), smallest {last.min():.4f}", f"{100 * small[0][epoch]:.1f} % of them are as small", "confirmed" if small[0][epoch] >= 0.05 else "refuted"))  # fmt: skip
    best = int(np.argmax(likely))
    for run in range(runs):
        share = ", ".join(f"{100 * some:.1f}" for some in small[run])
        middle = float(np.median(np.array(losses[run])[:, -1, -LAST_BATCHES:]))
        rows.append(Row(f"the cell run {run + 1} times: % of last batches with a loss as small as printed, by epoch", None, share, f"median loss {middle:.4f} at the end; on the test set {spread(unseen[run])}", "ours", "the printed losses fit best here" if run == best and likely[best] else ""))  # fmt: skip
    for name in LAYERS:
        told = "; ".join(f"{run + 1}: {spread(rank[run][name])}" for run in range(runs))
        rows.append(
            Row(f"{name}: its count of the rank, by how often the cell was run", PRINTED[name], told, None, "ours")
        )
    settings = {"data": "MNIST", "seeds": seeds, "epochs": epochs, "runs": runs, "batch": BATCH, "optimizer": "Adam, 0.001, fresh for each run"}  # fmt: skip
    details = {"last_losses": [[[epoch[-LAST_BATCHES:] for epoch in seed] for seed in some] for some in losses], "rank": rank, "test_loss": unseen}  # fmt: skip
    report("losses of SimpleNet on MNIST", STRINGER, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
