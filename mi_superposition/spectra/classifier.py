"""Training an image classifier whose layers' ranks are to be followed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mi_superposition.corpora.images import Images
from mi_superposition.errors import RequestError
from mi_superposition.models.classifiers import logits
from mi_superposition.runs import Run
from mi_superposition.training import GradientLearner, derived_seed, resume, seeded_generator, train, warmup_then

CHECKPOINT = "checkpoint.safetensors"
# Images a network reads at once where nothing is learnt.
_READ_AT_ONCE = 128
_WARMUP_SHARE = 0.05
# Each time the ranks are looked at lies this much further on than the last.
_GROWTH = 1.7
_LOGGED = 100


@dataclass(frozen=True)
class ClassifierTraining:
    """How a classifier is trained: AdamW, its rate rising for a twentieth of the steps and then falling to 0 as a cosine.

    Raises ``RequestError`` for a number out of range.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least {least}")
        if not 0 < self.learning_rate < float("inf"):
            raise RequestError(f"learning_rate = {self.learning_rate}: must be above 0")
        if not 0 <= self.weight_decay < float("inf"):
            raise RequestError(f"weight_decay = {self.weight_decay}: must be 0 or more")


class Pixels:
    """Brings pixels to mean 0 and deviation 1, channel by channel, as they are in the images trained on."""

    def __init__(self, train: Images, device: torch.device | None = None):
        self.device = device or torch.device("cpu")
        n, first, second = 0, torch.zeros(1), torch.zeros(1)
        for part in train.pixels.split(_READ_AT_ONCE):
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
        """The same pixels as a network reads them."""
        return (pixels.to(self.device).float() - self.mean) / self.deviation

    def batches(self, images: Images, most: int | None = None) -> Iterator[Float[Tensor, "image channel height width"]]:
        """The first ``most`` images, in batches."""
        for part in images.pixels[:most].split(_READ_AT_ONCE):
            yield self(part)


@torch.no_grad()
def accuracy(network: nn.Module, images: Images, pixels: Pixels) -> float:
    """Share of images (0 to 1) whose label gets the largest logit."""
    right = [
        logits(network, batch).argmax(dim=1).cpu() == labels
        for batch, labels in zip(pixels.batches(images), images.labels.split(_READ_AT_ONCE), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def steps_looked_at(n_steps: int) -> list[int]:
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
    look: Callable[[nn.Module], dict[str, Any]],
    on_step: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train in place, going on from the run folder's checkpoint if there is one; the weights are then bit-identical.

    ``look`` makes a row of the run's history of the network in eval mode, at ``steps_looked_at``. ``on_step`` gets how many
    steps were done. Raises ``training.Stopped`` when ``should_stop()`` said so and ``WorkError`` for a loss that is not finite.
    """
    # Batch norms cannot do with a last batch of one.
    per_epoch = len(images) // training.batch_size
    n_steps = training.epochs * per_epoch
    if not n_steps:
        return
    order: dict[int, Tensor] = {}

    def loss(step: int) -> Tensor:
        epoch, batch = divmod(step, per_epoch)
        if epoch not in order:
            order.clear()
            order[epoch] = torch.randperm(len(images), generator=seeded_generator(training.seed, "epoch", epoch))
        chosen = order[epoch][batch * training.batch_size :][: training.batch_size]
        # Dropout draws from the global generator: it is the step's for the moment and nobody's afterwards.
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(training.seed, "dropout", step) % 2**63)
            said = logits(network, pixels(images.pixels[chosen]))
        return F.cross_entropy(said, images.labels[chosen].to(said.device))

    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=training.weight_decay, fused=True)
    rate = warmup_then("cosine", training.learning_rate, max(1, int(_WARMUP_SHARE * n_steps)), n_steps)
    learner = GradientLearner(network, [optimizer], loss, rate)
    checkpoint = run.path / CHECKPOINT
    start = resume(learner, checkpoint)
    # Before the first step nothing is kept: a process that died then has written a row for step 0.
    run.rewind_history(start or -1)
    on_step(start, "")
    looked_at = set(steps_looked_at(n_steps))
    log_every = max(1, n_steps // _LOGGED)

    def write_row(step: int) -> None:
        row = {"step": step, "epoch": step / per_epoch, "loss": learner.take_mean_loss() if step else None}
        network.eval()
        run.append_history(row | look(network))
        network.train()

    def after_step(done: int) -> None:
        if done in looked_at:
            write_row(done)
        on_step(1, f"epoch {done / per_epoch:.2f} of {training.epochs}")

    if start == 0:
        write_row(0)
    network.train()
    train(
        learner, start, n_steps, checkpoint=checkpoint, checkpoint_every=10 * log_every, after_step=after_step,
        should_stop=should_stop,
    )  # fmt: skip
    network.eval()
