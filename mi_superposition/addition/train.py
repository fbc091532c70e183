"""Training the addition model: the study's one experiment, as a run folder."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.addition.config import AdditionConfig, Answer
from mi_superposition.addition.fused import FusedGradient, FusedLearner
from mi_superposition.addition.lookup import lookup_logits, one_hot_operands
from mi_superposition.addition.problems import (
    D_VOCAB,
    D_VOCAB_OUT,
    answer_digits,
    answer_positions,
    fresh_operands,
    n_positions,
    places,
    reads_in_order,
    sample_operands,
    with_answers,
    with_nines,
)
from mi_superposition.errors import RequestError
from mi_superposition.files import write_json
from mi_superposition.models import (
    build_attention_only_model,
    load_model,
    local_model_folder,
    save_attention_only,
    save_snapshot,
)
from mi_superposition.parts import AdditionModelPart, DigitOrder
from mi_superposition.progress import SILENT, Progress, Steps
from mi_superposition.room import check_memory
from mi_superposition.runs import CHECKPOINT, MANIFEST, Outcome, Run, open_run, read_config
from mi_superposition.schemas import read_as
from mi_superposition.training import (
    GradientLearner,
    derived_seed,
    fixed_arithmetic,
    resume,
    seeded_generator,
    train,
    warmup_then,
)

COMMAND = "addition train"
STARTS = "starts.json"
_EVALUATION_BATCH = 10_000


@dataclass(frozen=True)
class AdditionAccuracy:
    """Share of answers that are right, over ``n_problems`` problems."""

    by_digit: Float[Tensor, " digit"]
    whole_sum: float
    n_problems: int

    @property
    def per_digit(self) -> float:
        """Mean over the answer digits: the published figure."""
        return float(self.by_digit.mean())


def answer_logits(
    model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"], answer: Answer = AdditionConfig.answer
) -> Float[Tensor, "problem digit d_vocab_out"]:
    """Logits (nats) for the n + 1 answer digits, least significant first.

    ``"masked"``: all at once, from ``=`` at the answer positions. ``"autoregressive"``: each from the position
    before it, the right digits before it fed in.
    """
    operands = operands.to(model.W_E.device)
    n_digits = operands.shape[1] // 2
    if answer == "masked":
        order = places(model, n_digits).to(operands.device)
        logits = lookup_logits(model, one_hot_operands(operands[:, order[: 2 * n_digits]]))
        return logits[:, order[answer_positions(n_digits)] - 2 * n_digits]
    tokens = with_answers(operands)[:, :-1]
    return model(tokens)[:, operands.shape[1] - 1 :]


@torch.no_grad()
def right_answers(
    model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"], answer: Answer = AdditionConfig.answer
) -> Bool[Tensor, "problem digit"]:
    """Which answer digits come out right."""
    return torch.cat(
        [
            answer_logits(model, batch, answer).argmax(dim=-1).to(batch.device) == answer_digits(batch)
            for batch in operands.split(_EVALUATION_BATCH)
        ]
    )


def evaluate_addition(
    model: HookedTransformer, operands: Int[Tensor, "problem operand_digit"], answer: Answer = AdditionConfig.answer
) -> AdditionAccuracy:
    """Accuracy per digit and of whole sums. In autoregressive mode a whole sum is right exactly when greedy
    decoding would have written it: up to the first wrong digit both read the same tokens.
    """
    right = right_answers(model, operands, answer)
    return AdditionAccuracy(right.double().mean(dim=0), float(right.all(dim=1).double().mean()), len(right))


def load_addition_model(name: str | Path, digit_order: DigitOrder = AdditionModelPart.digit_order) -> HookedTransformer:
    """An addition model that answers at the ``=`` positions, on the CPU: bundled, trained here, or of other people's
    of the same form (``digits_of``) that ``ms.save_model`` wrote.

    Raises ``RequestError`` for a model of another kind: the studies read the answer positions of masked problems.
    """
    folder = local_model_folder(name)
    if (folder / MANIFEST).is_file():
        answer = read_config(folder, AdditionConfig, COMMAND).answer
        if answer != "masked":
            raise RequestError(f"{str(name)!r} was trained with answer = {answer!r}: the study reads a 'masked' model")
    model = load_model(folder, device="cpu")
    if not isinstance(model, HookedTransformer):
        raise RequestError(
            f"{str(name)!r} is a {type(model).__name__}, no addition model: give one of 'addition train'"
        )
    return reads_in_order(model, digit_order)


def snapshot_epochs(epochs: int) -> list[int]:
    """Epochs at which the weights are kept: 0, 1, 2, … growing by a tenth, and the last."""
    kept, value = {0, epochs}, 1.0
    while value < epochs:
        kept.add(int(value))
        value *= 1.1
    return sorted(kept)


class Row(TypedDict):
    """A row of the history; rates and accuracies as fractions."""

    step: int
    epoch: int
    loss: float
    test_accuracy: float
    test_sum_accuracy: float
    learning_rate: float


def train_addition(config: AdditionConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Train in the run folder ``out``, going on where an earlier call was cut off.

    Leaves ``model.json``, ``model.safetensors``, ``snapshots/EPOCH.safetensors`` (half precision),
    ``history.jsonl`` and ``metrics.json``. The weights are bit-identical however often the run was interrupted (same
    machine; the number of threads is in ``config``). Raises ``training.Stopped`` when ``progress`` is asked to stop, and as
    ``open_run`` does.
    """
    check_memory(config.n_bytes, "the training (n_heads, d_head, d_model, batch_size, n_train, n_test)")
    data = _problems(config)
    with open_run(out, COMMAND, config) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        progress.begin("step", config.n_start_steps + config.n_steps)
        with fixed_arithmetic(config.threads.number):
            _train(config, run, *data, progress)
    return Outcome(out, finished_already=False)


def _problems(config: AdditionConfig) -> tuple[Tensor | None, Tensor]:
    """The fixed training problems, if any, and the test problems. Checks that there are so many."""
    test = sample_operands(
        config.n_test, n_digits=config.n_digits, part="test", generator=seeded_generator(config.random.seed, "test")
    )[: config.n_tested]
    if config.n_train is None:
        return None, test
    generator = seeded_generator(config.random.seed, "train")
    return sample_operands(config.n_train, n_digits=config.n_digits, part="train", generator=generator), test


class _Batches:
    """The training batch of each step, from the step number alone."""

    def __init__(self, config: AdditionConfig, problems: Tensor | None):
        self.config, self.problems = config, problems
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, step: int) -> Int[Tensor, "problem operand_digit"]:
        config = self.config
        if self.problems is None:
            generator = seeded_generator(config.random.seed, "batch", step)
            restarted = config.second_descent is not None and step >= config.second_descent * config.epoch_steps
            n = config.restart_batch_size if restarted else config.batch_size
            drawn = fresh_operands(n, n_digits=config.n_digits, part="train", generator=generator)
            n_changed = round(config.nines * n)
            return torch.cat([with_nines(drawn[:n_changed], generator=generator), drawn[n_changed:]])
        epoch, batch = divmod(step, config.epoch_steps)
        if epoch != self._epoch:
            generator = seeded_generator(config.random.seed, "epoch", epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.problems), generator=generator)
        return self.problems[self._order[batch * config.batch_size : (batch + 1) * config.batch_size]]


def _learning_rate(config: AdditionConfig) -> Callable[[int], float]:
    """One descent, or two: each rises from zero in ``warmup_steps`` and falls to zero."""
    if config.second_descent is None:
        return warmup_then(config.decay, config.learning_rate, config.warmup_steps, config.n_steps)
    restart = config.second_descent * config.epoch_steps
    first = warmup_then(config.decay, config.learning_rate, config.warmup_steps, restart)
    second = warmup_then(config.decay, config.restart_learning_rate, config.warmup_steps, config.n_steps - restart)
    return lambda step: first(step) if step < restart else second(step - restart)


def build_addition_model(config: AdditionConfig, start: int = 0) -> HookedTransformer:
    """The untrained model of a run, from its seed and the number of its start."""
    seed = config.random.seed
    return build_attention_only_model(
        n_layers=1,
        n_heads=config.n_heads,
        d_head=config.d_head,
        d_model=config.d_model,
        n_ctx=n_positions(config.n_digits),
        d_vocab=D_VOCAB,
        d_vocab_out=D_VOCAB_OUT,
        seed=seed if start == 0 else derived_seed(seed, "start", start) % 2**63,
    )


def _begun(config: AdditionConfig, problems: Tensor | None, start: int) -> tuple[HookedTransformer, GradientLearner]:
    """The model of a start, and what trains it."""
    model = build_addition_model(config, start)
    batches = _Batches(config, problems)

    def loss(step: int) -> Tensor:
        operands = batches(step)
        logits = answer_logits(model, operands, config.answer)
        # Class-major, as the table stores them: the cross-entropy then runs along contiguous memory.
        by_class = rearrange(logits, "problem digit value -> 1 value (problem digit)")
        right = answer_digits(operands).reshape(1, -1)
        if config.digit_focus == 0:
            return F.cross_entropy(by_class, right)
        by_digit = F.cross_entropy(by_class, right, reduction="none").view(len(operands), -1).mean(dim=0)
        weight = by_digit.detach() ** config.digit_focus
        return (weight * by_digit).sum() / weight.sum()

    return model, _learner(config, model, batches, loss, _learning_rate(config))


def _start_losses(config: AdditionConfig, run: Run, problems: Tensor | None, progress: Progress) -> list[float]:
    """Of every start the mean training loss (nats) in the last fifth of its steps. One that was interrupted begins again."""
    path = run.path / STARTS
    losses: list[float] = read_as(path, list[float]) if path.exists() else []
    n_steps = config.start_epochs * config.epoch_steps
    steps = Steps(progress, len(losses) * n_steps)
    for start in range(len(losses), config.starts):
        _, learner = _begun(config, problems, start)

        def after_step(done: int, before: int = start * n_steps) -> None:
            if done % config.epoch_steps == 0:
                steps.at(before + done, f"start {before // n_steps + 1} of {config.starts}")

        for first, last in itertools.pairwise((0, n_steps - max(1, n_steps // 5), n_steps)):
            learner.take_mean_loss()
            train(learner, first, last, after_step=after_step, should_stop=progress.should_stop)
        losses.append(learner.take_mean_loss())
        write_json(path, losses)
    return losses


def _train(
    config: AdditionConfig,
    run: Run,
    train_problems: Tensor | None,
    test_problems: Tensor,
    progress: Progress,
) -> None:
    losses = _start_losses(config, run, train_problems, progress) if config.starts > 1 else [0.0]
    chosen = losses.index(min(losses))
    model, learner = _begun(config, train_problems, chosen)
    start = resume(learner, run.path / CHECKPOINT)
    run.rewind_history(start, Row)
    to_keep = set(snapshot_epochs(config.epochs))
    steps = Steps(progress, config.n_start_steps + start)
    began = time.perf_counter()

    def after_step(done: int) -> None:
        epoch, within = divmod(done, config.epoch_steps)
        if within:
            return
        if epoch in to_keep:
            save_snapshot(model, run.path, epoch)
        if epoch % config.log_every_epochs == 0 or epoch == config.epochs:
            accuracy = evaluate_addition(model, test_problems, config.answer)
            row = {
                "step": done,
                "epoch": epoch,
                "loss": learner.take_mean_loss(),
                "test_accuracy": accuracy.per_digit,
                "test_sum_accuracy": accuracy.whole_sum,
                "learning_rate": learner.learning_rate(done - 1),
            }
            run.append_history(row)
            steps.at(config.n_start_steps + done, f"loss {row['loss']:.4f}, test {100 * row['test_accuracy']:.2f} %")

    if start == 0:
        save_snapshot(model, run.path, 0)
    train(
        learner,
        start,
        config.n_steps,
        checkpoint=run.path / CHECKPOINT,
        checkpoint_every=config.epoch_steps * config.log_every_epochs,
        after_step=after_step,
        should_stop=progress.should_stop,
    )
    seconds = time.perf_counter() - began
    save_attention_only(model, run.path)
    on_train = evaluate_addition(model, _seen_problems(config, train_problems), config.answer)
    on_test = evaluate_addition(model, test_problems, config.answer)
    run.finish(
        {
            "test_accuracy": on_test.per_digit,
            "test_sum_accuracy": on_test.whole_sum,
            "accuracy_by_digit": on_test.by_digit.tolist(),
            "n_test": on_test.n_problems,
            "train_accuracy": on_train.per_digit,
            "train_sum_accuracy": on_train.whole_sum,
            "n_train": on_train.n_problems,
            "steps": config.n_steps,
            "start": chosen,
            # Of this call alone: a run that was interrupted does not know how long it waited.
            "steps_per_second": (config.n_steps - start) / seconds,
        }
    )


def _learner(
    config: AdditionConfig,
    model: HookedTransformer,
    batches: _Batches,
    loss: Callable[[int], Tensor],
    rate: Callable[[int], float],
) -> GradientLearner:
    """The compiled steps where there is a table, else autograd's."""
    betas, decay = (config.beta1, config.beta2), config.weight_decay
    if config.answer == "masked":
        gradient = FusedGradient(model, config.n_digits, digit_focus=config.digit_focus, threads=config.threads.number)
        return FusedLearner(gradient, batches, loss, rate, betas=betas, weight_decay=decay)
    optimizer = torch.optim.AdamW(model.parameters(), betas=betas, weight_decay=decay, fused=True)
    return GradientLearner(model, [optimizer], loss, rate)


def _seen_problems(config: AdditionConfig, train_problems: Tensor | None) -> Tensor:
    """What train accuracy is measured on: the training set, or as many draws of the endless one as test problems."""
    if train_problems is not None:
        return train_problems
    generator = seeded_generator(config.random.seed, "train-accuracy")
    return fresh_operands(config.n_test, n_digits=config.n_digits, part="train", generator=generator)
