"""Training a small encoder to tell the labels of texts: a model of one's own where no pretrained one is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_superposition.errors import RequestError
from mi_superposition.training import (
    GradientLearner,
    derived_seed,
    resume,
    seeded_generator,
    train,
    warmup_then,
)

_READ_AT_ONCE = 256
_WARMUP_SHARE = 0.1
_CHECKPOINT_EVERY = 200


@dataclass(frozen=True)
class TextTraining:
    """How it is trained: AdamW, the rate rising for a tenth of the steps and then falling to 0 in a line; texts are cut at
    ``context`` tokens. Raises ``RequestError`` for a number out of range.
    """

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    context: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("context", 3), ("seed", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least {least}")
        if not 0 < self.learning_rate < float("inf"):
            raise RequestError(f"learning_rate = {self.learning_rate}: must be above 0")


def train_text_classifier(
    network: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Sequence[int],
    training: TextTraining,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train a sequence classifier of transformers in place, going on from the checkpoint if there is one.

    Every batch and its dropout are drawn from the step's number, so a training that was stopped ends with the same weights.
    Raises ``training.Stopped`` when ``should_stop()`` said so, ``WorkError`` for a loss that is not finite.
    """
    per_epoch = -(-len(texts) // training.batch_size)
    n_steps = training.epochs * per_epoch
    order: dict[int, list[int]] = {}

    def loss(step: int) -> Tensor:
        epoch, batch = divmod(step, per_epoch)
        if epoch not in order:
            order.clear()
            generator = seeded_generator(training.seed, "epoch", epoch)
            order[epoch] = torch.randperm(len(texts), generator=generator).tolist()
        chosen = order[epoch][batch * training.batch_size :][: training.batch_size]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(training.seed, "dropout", step) % 2**63)
            said = _logits(network, tokenizer, [texts[place] for place in chosen], training.context)
        return F.cross_entropy(said, torch.tensor([labels[place] for place in chosen]))

    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=training.weight_decay, fused=True)
    rate = warmup_then("linear", training.learning_rate, max(1, int(_WARMUP_SHARE * n_steps)), n_steps)
    learner = GradientLearner(network, [optimizer], loss, rate)
    start = resume(learner, checkpoint) if checkpoint else 0
    on_step(start, "")
    network.train()
    train(
        learner, start, n_steps, checkpoint=checkpoint, checkpoint_every=_CHECKPOINT_EVERY,
        after_step=lambda done: on_step(1, f"epoch {done / per_epoch:.2f}"), should_stop=should_stop,
    )  # fmt: skip
    network.eval()


@torch.no_grad()
def text_accuracy(
    network: nn.Module, tokenizer: Any, texts: Sequence[str], labels: Sequence[int], context: int
) -> float:
    """Share of texts (0 to 1) whose label gets the largest logit."""
    right = 0
    for start in range(0, len(texts), _READ_AT_ONCE):
        some = slice(start, start + _READ_AT_ONCE)
        said = _logits(network, tokenizer, list(texts[some]), context).argmax(dim=1)
        right += int((said == torch.tensor(labels[some])).sum())
    return right / len(texts)


def _logits(network: nn.Module, tokenizer: Any, texts: list[str], context: int) -> Tensor:
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=context, return_tensors="pt")
    return network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
