"""Training an image classifier whose layers' ranks are to be followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mi_superposition.corpora.images import Images
from mi_superposition.models.classifiers import logits
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import CHECKPOINT, Run
from mi_superposition.spectra.config import ClassifierTraining
from mi_superposition.spectra.result import Row
from mi_superposition.training import GradientLearner, derived_seed, resume, seeded_generator, train, warmup_then

# Images per forward pass where nothing is learnt.
FORWARD_BATCH = 128
_WARMUP_FRACTION = 0.05
# Ranks are measured at steps that grow by this factor.
_GROWTH = 1.7
# Checkpoints per training.
_CHECKPOINTS = 10


class Pixels:
    """Standardises pixels: mean 0 and standard deviation 1 for each channel over the training images."""

    def __init__(self, train: Images, device: torch.device | None = None):
        self.device = device or torch.device("cpu")
        n, first, second = 0, torch.zeros(1), torch.zeros(1)
        for part in train.pixels.split(FORWARD_BATCH):
            values = part.double()
            n += values[:, 0].numel()
            first = first + values.sum(dim=(0, 2, 3))
            second = second + values.square().sum(dim=(0, 2, 3))
        mean = first / n
        self.mean = mean.float()[:, None, None].to(self.device)
        # A channel that never varies stays 0.
        deviation = (second / n - mean.square()).clamp_min(0).sqrt().clamp_min(1.0)
        self.deviation = deviation.float()[:, None, None].to(self.device)

    def __call__(
        self, pixels: UInt8[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image channel height width"]:
        """Pixels as a network reads them, on its device."""
        return (pixels.to(self.device).float() - self.mean) / self.deviation

    def batches(
        self, images: Images, limit: int | None = None
    ) -> Iterator[Float[Tensor, "image channel height width"]]:
        """The first ``limit`` images (default: all), in batches."""
        for part in images.pixels[:limit].split(FORWARD_BATCH):
            yield self(part)


@torch.no_grad()
def accuracy(network: nn.Module, images: Images, pixels: Pixels) -> float:
    """Fraction of images (0 to 1) whose label has the largest logit."""
    correct = [
        logits(network, batch).argmax(dim=1).cpu() == labels
        for batch, labels in zip(pixels.batches(images), images.labels.split(FORWARD_BATCH), strict=True)
    ]
    return float(torch.cat(correct).double().mean())


def measured_steps(n_steps: int) -> list[int]:
    """Steps at which the ranks are measured: 0, 1, 2, 3, 5, 8, … growing, and the last."""
    steps, value = {0, n_steps}, 1.0
    while value < n_steps:
        steps.add(int(value))
        value *= _GROWTH
    return sorted(steps)


def train_classifier(
    network: nn.Module,
    images: Images,
    training: ClassifierTraining,
    pixels: Pixels,
    run: Run,
    *,
    seed: int,
    describe: Callable[[nn.Module], dict[str, Any]],
    progress: Progress = SILENT,
) -> None:
    """Train in place, resuming from the run folder's checkpoint if there is one; the weights are then bit-identical.

    ``describe`` makes a row of the run's history from the network in eval mode, at ``measured_steps``. ``seed`` is that of the
    order of images and of dropout. Raises ``training.Stopped`` when ``progress`` asks to stop, and ``WorkError`` for a loss that
    is not finite.
    """
    # The rest of an epoch is left out: batch norms cannot use a last batch of one.
    per_epoch = len(images) // training.batch_size
    n_steps = training.epochs * per_epoch
    if not n_steps:
        return
    order: dict[int, Tensor] = {}

    def loss(step: int) -> Tensor:
        epoch, batch = divmod(step, per_epoch)
        if epoch not in order:
            order.clear()
            order[epoch] = torch.randperm(len(images), generator=seeded_generator(seed, "epoch", epoch))
        chosen = order[epoch][batch * training.batch_size :][: training.batch_size]
        # Dropout draws from the global generator, which is seeded for this step and restored afterwards.
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(seed, "dropout", step) % 2**63)
            predicted = logits(network, pixels(images.pixels[chosen]))
        return F.cross_entropy(predicted, images.labels[chosen].to(predicted.device))

    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=training.weight_decay, fused=True)
    rate = warmup_then("cosine", training.learning_rate, max(1, int(_WARMUP_FRACTION * n_steps)), n_steps)
    learner = GradientLearner(network, [optimizer], loss, rate)
    checkpoint = run.path / CHECKPOINT
    start = resume(learner, checkpoint)
    # Before the first step no checkpoint exists, but a process that died then has written a row for step 0.
    run.rewind_history(start or -1, Row)
    progress.advance(start)
    measured = set(measured_steps(n_steps))

    def write_row(step: int) -> None:
        row = {"step": step, "epoch": step / per_epoch, "loss": learner.take_mean_loss() if step else None}
        network.eval()
        run.append_history(row | describe(network))
        network.train()

    def after_step(done: int) -> None:
        if done in measured:
            write_row(done)
        progress.advance(1, f"epoch {done / per_epoch:.2f} of {training.epochs}")

    if start == 0:
        write_row(0)
    network.train()
    train(
        learner, start, n_steps, checkpoint=checkpoint, checkpoint_every=max(1, n_steps // _CHECKPOINTS), after_step=after_step,
        should_stop=progress.should_stop,
    )  # fmt: skip
    network.eval()
