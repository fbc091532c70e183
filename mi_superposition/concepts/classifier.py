"""Training a small encoder on the labels of texts: a model of one's own where no pretrained one is at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mi_superposition.concepts.config import EncoderConfig
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


def train_text_classifier(
    network: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Sequence[int],
    config: EncoderConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train a sequence classifier of transformers in place, resuming from the checkpoint if there is one.

    Every batch and its dropout are drawn from the number of the step, so a training that was stopped ends with the same weights.
    ``on_step`` is told of the number of steps done since it was last called, and of the epoch.
    Raises ``training.Stopped`` when ``should_stop()`` said so, ``WorkError`` for a loss that is not finite.
    """
    per_epoch = config.steps_per_epoch(len(texts))
    n_steps = config.epochs * per_epoch
    order: dict[int, list[int]] = {}

    def loss(step: int) -> Tensor:
        epoch, batch = divmod(step, per_epoch)
        if epoch not in order:
            order.clear()
            generator = seeded_generator(config.random.seed, "epoch", epoch)
            order[epoch] = torch.randperm(len(texts), generator=generator).tolist()
        chosen = order[epoch][batch * config.batch_size :][: config.batch_size]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(config.random.seed, "dropout", step) % 2**63)
            logits = _logits(network, tokenizer, [texts[index] for index in chosen], config.context)
        return F.cross_entropy(logits, torch.tensor([labels[index] for index in chosen]))

    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay, fused=True)
    rate = warmup_then("linear", config.learning_rate, max(1, int(_WARMUP_SHARE * n_steps)), n_steps)
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
    """Fraction of texts (0 to 1) whose label has the largest logit."""
    correct = 0
    for start in range(0, len(texts), _READ_AT_ONCE):
        some = slice(start, start + _READ_AT_ONCE)
        predicted = _logits(network, tokenizer, list(texts[some]), context).argmax(dim=1)
        correct += int((predicted == torch.tensor(labels[some])).sum())
    return correct / len(texts)


def _logits(network: nn.Module, tokenizer: Any, texts: list[str], context: int) -> Tensor:
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=context, return_tensors="pt")
    return network(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
