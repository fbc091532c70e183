"""What is asked for when an addition model is trained or evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from mi_superposition.config import AtLeast0, AtLeast1, Config, NonNegative, Positive
from mi_superposition.errors import RequestError
from mi_superposition.parts import AdditionModelPart, SeedPart, ThreadsPart, WorkersPart

Answer = Literal["masked", "autoregressive"]
# Epochs and steps of a recipe that sets neither: a second descent takes the last ninth, an endless epoch has 100 steps.
_FIRST_DESCENT = (8, 9)
_ENDLESS_EPOCH = 100


@dataclass(frozen=True)
class AdditionConfig(Config):
    """Train a one-layer attention-only transformer on addition. Run again to resume."""

    PRESETS: ClassVar[Mapping[str, AdditionConfig]]
    PRESET_HELP = (
        "Recipe that sets the other defaults: 'paper' trains on 25,000 fixed problems with our rates, 'thaman' on as many as Thaman et "
        "al. did, 'exact' on new problems at every step, 'nines' on new ones of which half have many columns that sum to 9."
    )

    answer: Answer = "masked"
    """'masked': predict all answer digits at once at '=' positions. 'autoregressive': predict each digit from those before it."""
    n_digits: Annotated[int, Interval(ge=1, le=9)] = 6
    """Digits of each summand, 1 to 9. With 1 or 2 digits also lower --n-train and --n-test."""
    n_heads: AtLeast1 = 32
    """Number of attention heads."""
    d_head: AtLeast1 = 2
    """Dimensions of each head."""
    d_model: AtLeast1 = 128
    """Dimensions of the residual stream."""
    n_train: AtLeast1 | None = 25_000
    """Fixed training problems; none with --preset exact, which draws fresh ones."""
    n_test: AtLeast1 = 2_000
    """Held-out problems."""
    batch_size: AtLeast1 = 256
    """Problems per step."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is not full, and of the test problems those beyond the last full batch."""
    epochs: AtLeast1 = 1000
    """Passes over the fixed training problems, or blocks of steps on fresh ones."""
    steps_per_epoch: AtLeast1 | None = None
    """Steps in an epoch. Default: one pass over the fixed training problems; 100 steps on fresh ones."""
    learning_rate: Positive = 5e-3
    """Peak AdamW learning rate."""
    beta1: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    """AdamW's decay of the mean of the gradient."""
    beta2: Annotated[float, Interval(ge=0, lt=1)] = 0.98
    """AdamW's decay of the mean of the squared gradient."""
    weight_decay: NonNegative = 0.01
    """AdamW weight decay."""
    warmup_steps: AtLeast0 = 500
    """Steps in which the learning rate rises from 0 to its peak."""
    decay: Literal["linear", "cosine"] = "cosine"
    """Schedule with which the learning rate falls to 0 after warm-up."""
    restart_learning_rate: NonNegative = 0.0
    """Peak learning rate after a restart of the schedule (with fresh problems only); 0 for no restart."""
    restart_epoch: AtLeast1 | None = None
    """Epoch at which the schedule restarts. Default: after eight ninths of the epochs."""
    restart_batch_size: AtLeast0 = 0
    """Problems per step after the restart; larger batches make the gradient less noisy."""
    digit_focus: NonNegative = 0.0
    """Exponent p in the weight loss^p of each answer digit's loss: 0 for the plain mean, 1 for more weight on digits with a
    high loss."""
    starts: AtLeast1 = 1
    """Initial weights to choose from. Each is trained for --start-epochs; the one with the lowest training loss is then trained from its
    beginning."""
    start_epochs: AtLeast1 = 100
    """Epochs that each of several --starts is trained for, with the learning rates of the whole run."""
    nines: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """Share of the fresh problems of each step in which every column is made to sum to 9 with a probability of one half: a carry passes
    through such columns, and there most errors are. Test problems stay uniform."""
    log_every_epochs: AtLeast1 = 5
    """Epochs between two logged rows of the training history."""
    threads: ThreadsPart = ThreadsPart(threads=1)
    random: SeedPart = SeedPart()

    def check(self) -> None:
        """A second descent changes the batch, which a fixed set of problems does not allow; without part batches one must be full."""
        for name in ("n_train", "n_test"):
            number = getattr(self, name)
            if self.drop_last and number is not None and number < self.batch_size:
                raise RequestError(
                    f"{name} = {number}: with drop_last there must be at least batch_size = {self.batch_size} problems"
                )
        if self.starts > 1 and self.start_epochs > self.epochs:
            raise RequestError(f"start_epochs = {self.start_epochs}: the whole training has epochs = {self.epochs}")
        if self.nines and self.n_train is not None:
            raise RequestError(f"nines = {self.nines}: only fresh problems can be chosen (--preset exact)")
        if self.restart_learning_rate and self.n_train is not None:
            raise RequestError(
                f"restart_learning_rate = {self.restart_learning_rate}: a restart needs fresh problems (--preset exact)"
            )

    @property
    def n_bytes(self) -> int:
        """About how much memory a training takes."""
        n_answers, width = self.n_digits + 1, self.n_heads * self.d_head
        weights = self.d_model * (4 * width + 2 * self.n_digits + n_answers + 22)
        # Sums by head and answer digit with their gradients; weights, gradients and Adam's two moments; problems as whole numbers.
        batch = max(self.batch_size, self.restart_batch_size)
        problems = 2 * self.n_digits * ((self.n_train or 0) + self.n_test)
        return 4 * (5 * batch * n_answers * (width + self.n_heads) + 4 * weights) + 8 * problems

    @property
    def epoch_steps(self) -> int:
        """Steps in an epoch."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        if self.n_train is None:
            return _ENDLESS_EPOCH
        return self.n_train // self.batch_size if self.drop_last else -(-self.n_train // self.batch_size)

    @property
    def n_tested(self) -> int:
        """Held-out problems that are evaluated in training."""
        return self.n_test // self.batch_size * self.batch_size if self.drop_last else self.n_test

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.epoch_steps

    @property
    def n_start_steps(self) -> int:
        """Steps in which initial weights are chosen; none where there is one alone."""
        return self.starts * self.start_epochs * self.epoch_steps if self.starts > 1 else 0

    @property
    def second_descent(self) -> int | None:
        """The epoch at which the second descent begins; ``None`` for a single one."""
        if not self.restart_learning_rate:
            return None
        numerator, denominator = _FIRST_DESCENT
        return self.restart_epoch or self.epochs * numerator // denominator


_EXACT = AdditionConfig(
    n_train=None,
    n_test=10_000,
    batch_size=1024,
    epochs=2700,
    learning_rate=1e-2,
    decay="linear",
    weight_decay=0.0,
    restart_learning_rate=3e-3,
    restart_batch_size=4096,
    digit_focus=1.0,
    log_every_epochs=10,
)
AdditionConfig.PRESETS = {
    "paper": AdditionConfig(),
    # Of Thaman et al.'s notebooks: AdamW as torch has it, no warm-up, loaders that drop the last batch.
    "thaman": AdditionConfig(learning_rate=1e-3, beta2=0.999, warmup_steps=0, drop_last=True),
    "exact": _EXACT,
    "nines": _EXACT.replace(nines=0.5),
}


@dataclass(frozen=True)
class AdditionEvaluateConfig(Config):
    """Measure which digits an addition model gets right on fresh problems, and where it fails, compared with its untrained copy."""

    model: AdditionModelPart = AdditionModelPart()
    n_problems: Annotated[int, Interval(ge=100, le=10**8)] = 100_000
    """Fresh problems, none of them trained on."""
    random: SeedPart = SeedPart()


@dataclass(frozen=True)
class AdditionProgramConfig(Config):
    """Find what each answer digit reads, a short program that answers as the model does, and what each head does for it."""

    model: AdditionModelPart = AdditionModelPart()
    n_fit: Annotated[int, Interval(ge=1000, le=10**7)] = 200_000
    """Problems that tables and programs are found on."""
    n_problems: Annotated[int, Interval(ge=100, le=10**7)] = 100_000
    """Other problems that they are measured on."""
    exceptions: Annotated[int, Interval(ge=0, le=6859)] = 10
    """Most exceptions that the printed program lists for an answer digit."""
    members: AtLeast1 = 4
    """Heads that are taken out to break one step of the program."""
    random_sets: Annotated[int, Interval(ge=1, le=10_000)] = 100
    """Random sets of as many heads, for comparison."""
    random: SeedPart = SeedPart()


@dataclass(frozen=True)
class AdditionCertifyConfig(Config):
    """Prove how many of all problems an addition model gets right, for every answer digit: bounds, not samples. Run again to resume."""

    model: AdditionModelPart = AdditionModelPart()
    without_heads: tuple[AtLeast0, ...] = ()
    """Heads whose output is set to zero. Default: none."""
    seconds: Positive = 600.0
    """Time to search for, in seconds, all tries together; the longer, the narrower the bounds."""
    boxes: AtLeast1 | None = None
    """Boxes to bound, about, if time allows. The result is then the same on every machine; Ray's workers are given boxes ahead, so that
    theirs are other boxes and other bounds, as true. Default: as many as there is time for."""
    n_problems: Annotated[int, Interval(ge=100, le=10**8)] = 1_000_000
    """Problems drawn at random, on which the model's accuracy is measured beside the bounds."""
    random: SeedPart = SeedPart()
    threads: ThreadsPart = ThreadsPart()
    workers: WorkersPart = WorkersPart()
