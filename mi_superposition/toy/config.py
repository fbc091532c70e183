"""What is asked for when toy models are trained or studied."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tyro
from annotated_types import Interval

from mi_superposition.config import AtLeast0, AtLeast1, Config, NonNegative, Positive, Share
from mi_superposition.errors import RequestError
from mi_superposition.parts import DevicePart, SeedPart, ThreadsPart
from mi_superposition.toy.format1 import grid_axes

Network = Literal["bottleneck", "neuron", "computation"]
Task = Literal["reconstruct", "abs", "square", "max", "and", "or"]
Activation = Literal["relu", "gelu", "linear", "leaky_relu", "silu", "tanh", "solu"]
Inputs = Literal["uniform", "signed", "normal", "binary", "ternary"]
Sets = Literal["independent", "correlated", "anticorrelated"]
# The one list of the studies: each has a module that measures and one that shows, found by its name.
StudyName = Literal[
    "directions", "sparsity", "neurons", "absolute", "logic", "dropout", "penalties", "width", "correlation"
]

# Tasks whose outputs are of two neighbouring features each.
PAIRED: tuple[Task, ...] = ("and", "or", "max")
# Tasks that are defined for some inputs only.
_DEFINED_FOR: Mapping[Task, tuple[Inputs, ...]] = {"and": ("binary",), "or": ("binary",)}
_USUAL_INPUTS: Mapping[Task, Inputs] = {"reconstruct": "uniform", "and": "binary", "or": "binary"}


@dataclass(frozen=True)
class ToySetting:
    """One combination of the grid, under which models are trained. Numbers per feature are one for all, or one per feature.

    ``probability``: that a feature is non-zero (one minus its sparsity); of features in correlated or anticorrelated sets, that
    the set is (in an anticorrelated one each feature then has an equal fraction of it). ``importance``: weight of an output's
    squared error. ``dropout``: fraction of hidden activations set to zero in training. ``l1``: weight of the mean over the batch
    of the sum of the hidden activations' magnitudes, added to the loss.
    """

    probability: float | tuple[float, ...]
    importance: float | tuple[float, ...]
    dropout: float = 0.0
    l1: float = 0.0


@dataclass(frozen=True)
class ToyArchitecture:
    """The options of a ``ToyConfig`` whose defaults depend on other options, with these defaults filled in."""

    network: Network
    inputs: Inputs
    n_features: int
    n_hidden: int
    n_outputs: int
    tied: bool


@dataclass(frozen=True)
class ToyConfig(Config):
    """Train many toy models in parallel. Run again to resume."""

    task: Task = "reconstruct"
    """Target of the outputs. 'and', 'or' and 'max' use neighbouring features as pairs."""
    network: Network | None = None
    """'bottleneck': act(W^T W x + b); 'neuron': act(W^T act(W x) + b); 'computation': act(W2 act(W1 x) + b). Default:
    'bottleneck' to reconstruct, 'computation' for any other task."""
    activation: Activation = "relu"
    """Activation of the output, and of the hidden layer where the model has one. 'leaky_relu' has a slope of 0.01 below 0; 'solu' is
    x softmax(x), over the neurons of a layer."""
    tied: bool | None = None
    """Whether the output weights are the input weights transposed. Default: False for 'computation', True otherwise."""
    bias: bool = True
    """Train an output bias."""
    inputs: Inputs | None = None
    """Distribution of a non-zero feature: 'uniform' in [0, 1], 'signed' uniform in [-1, 1], 'normal', 'binary' (1), 'ternary'
    (-1 or 1). Default: 'uniform' to reconstruct, 'binary' for 'and' and 'or', 'signed' otherwise."""
    sets: Sets = "independent"
    """Dependence between neighbouring features: 'correlated' (non-zero together) or 'anticorrelated' (at most one non-zero)."""
    set_size: AtLeast1 = 2
    """Features per correlated or anticorrelated set."""
    n_features: AtLeast1 | None = None
    """Input features. Default: 5, or 6 for tasks of pairs."""
    n_hidden: AtLeast1 | None = None
    """Hidden dimensions. Default: 2 for a bottleneck, as many as features otherwise."""
    probability: tuple[Share, ...] = (0.1,)
    """Probability that a feature is non-zero (1 - sparsity), 0 to 1. Several values make a grid with the options below."""
    probability_ratio: tuple[NonNegative, ...] = (1.0,)
    """Ratio of each feature's probability to the previous one's; below 1 gives uneven sparsity. One for all probabilities, or one
    for each."""
    importance_ratio: tuple[NonNegative, ...] = (1.0,)
    """Ratio of each output's importance to the previous one's; the first has importance 1."""
    importance: tuple[NonNegative, ...] | None = None
    """Importance of each output, instead of --importance-ratio; one number per output."""
    dropout: tuple[Annotated[float, Interval(ge=0, lt=1)], ...] = (0.0,)
    """Dropout probability of hidden activations during training, 0 to below 1."""
    l1: tuple[NonNegative, ...] = (0.0,)
    """Weight of the L1 penalty on hidden activations (mean sum of magnitudes)."""
    n_instances: AtLeast1 = 16
    """Models trained per setting; the best are kept and the losses of all are reported."""
    n_kept: AtLeast1 = 1
    """Models per setting whose weights are kept: those with the lowest held-out loss."""
    n_steps: AtLeast1 = 10_000
    """Optimizer steps."""
    batch_size: AtLeast1 = 1024
    """Inputs in each step."""
    learning_rate: Positive = 1e-3
    """Adam learning rate."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate schedule: 'constant', or 'linear' or 'cosine' decay to zero."""
    snapshots: tuple[AtLeast0, ...] = ()
    """Steps after which the weights are also kept."""
    random: SeedPart = SeedPart()
    device: DevicePart = DevicePart(device="cpu")
    threads: ThreadsPart = ThreadsPart(threads=1)

    @property
    def architecture(self) -> ToyArchitecture:
        """The options whose defaults depend on other options, with these defaults filled in."""
        pairs = self.task in PAIRED
        network: Network = self.network or ("bottleneck" if self.task == "reconstruct" else "computation")
        n_features = self.n_features or (6 if pairs else 5)
        return ToyArchitecture(
            network=network,
            inputs=self.inputs or _USUAL_INPUTS.get(self.task, "signed"),
            n_features=n_features,
            n_hidden=self.n_hidden or (2 if network == "bottleneck" else n_features),
            n_outputs=n_features // 2 if pairs else n_features,
            tied=network != "computation" if self.tied is None else self.tied,
        )

    def resolved(self) -> ToyConfig:
        """The same request with every default filled in that depends on other options."""
        filled = self.architecture
        return self.replace(
            network=filled.network,
            inputs=filled.inputs,
            n_features=filled.n_features,
            n_hidden=filled.n_hidden,
            tied=filled.tied,
        )

    @property
    def n_settings(self) -> int:
        """How many ``settings`` there are."""
        importances = 1 if self.importance is not None else len(self.importance_ratio)
        return len(self.probability) * importances * len(self.dropout) * len(self.l1)

    @property
    def n_bytes(self) -> int:
        """About how much memory a training takes."""
        shape = self.architecture
        widths = shape.n_features + shape.n_hidden + shape.n_outputs
        weights = shape.n_hidden * (shape.n_features + shape.n_outputs) + shape.n_outputs
        # Single precision; inputs, targets, activations and their gradients; weights, gradients and Adam's two moments.
        one = 4 * (3 * self.batch_size * widths + (4 + len(self.snapshots)) * weights)
        return self.n_settings * self.n_instances * one

    @property
    def settings(self) -> tuple[ToySetting, ...]:
        """All combinations of probability, importance, dropout and L1; the last one varies fastest."""
        shape = self.architecture
        importances: list[float | tuple[float, ...]] = (
            [self.importance]
            if self.importance is not None
            else [_along(1.0, ratio, shape.n_outputs, "importance_ratio") for ratio in self.importance_ratio]
        )
        probabilities = [
            _along(first, ratio, shape.n_features, "probability_ratio")
            for first, ratio in zip(self.probability, self._ratios, strict=True)
        ]
        grid = itertools.product(probabilities, importances, self.dropout, self.l1)
        return tuple(ToySetting(*combination) for combination in grid)

    @property
    def _ratios(self) -> tuple[float, ...]:
        """The ratio of each probability."""
        one_for_all = len(self.probability_ratio) == 1
        return self.probability_ratio * len(self.probability) if one_for_all else self.probability_ratio

    def check(self) -> None:
        """A network that can do the task, and a grid that fits it."""
        if self.n_kept > self.n_instances:
            raise RequestError(f"n_kept = {self.n_kept}: there are only {self.n_instances} instances")
        if any(step > self.n_steps for step in self.snapshots):
            raise RequestError(f"snapshots = {self.snapshots}: must be 0 to n_steps = {self.n_steps}")
        self._check_network()
        self._check_grid()

    def _check_network(self) -> None:
        shape = self.architecture
        defined_for = _DEFINED_FOR.get(self.task, get_args(Inputs))
        if shape.inputs not in defined_for:
            raise RequestError(
                f"inputs = {shape.inputs!r}: the task {self.task!r} is defined for {', '.join(map(repr, defined_for))}"
            )
        if shape.network != "computation" and self.task != "reconstruct":
            raise RequestError(
                f"task = {self.task!r}: the {shape.network} model reconstructs; take network = 'computation'"
            )
        if shape.tied and shape.n_outputs != shape.n_features:
            raise RequestError(f"tied = True: the task {self.task!r} has other outputs than inputs")
        if shape.network == "bottleneck" and shape.n_hidden >= shape.n_features:
            raise RequestError(
                f"n_hidden = {shape.n_hidden}: a bottleneck of {shape.n_features} features has fewer than {shape.n_features}"
            )
        if self.task in PAIRED and shape.n_features % 2:
            raise RequestError(
                f"n_features = {shape.n_features}: the task {self.task!r} takes pairs, give an even number"
            )
        if self.sets != "independent" and shape.n_features % self.set_size:
            raise RequestError(f"n_features = {shape.n_features}: must be a multiple of set_size = {self.set_size}")

    def _check_grid(self) -> None:
        for name in ("probability", "probability_ratio", "importance_ratio", "dropout", "l1"):
            if not getattr(self, name):
                raise RequestError(f"{name} = (): give at least one")
        n_ratios, n_probabilities = len(self.probability_ratio), len(self.probability)
        if n_ratios not in (1, n_probabilities):
            raise RequestError(f"probability_ratio has {n_ratios} values: give 1 or {n_probabilities}")
        if self.sets != "independent" and set(self.probability_ratio) != {1.0}:
            raise RequestError(
                f"probability_ratio = {self.probability_ratio}: features in {self.sets} sets share one probability"
            )
        if self.importance is not None:
            n_outputs = self.architecture.n_outputs
            if len(self.importance) != n_outputs:
                raise RequestError(f"importance has {len(self.importance)} values: give {n_outputs}, one per output")
            if self.importance_ratio != (1.0,):
                raise RequestError(
                    f"importance_ratio = {self.importance_ratio}: leave it out where importance is given"
                )
        for setting in self.settings:
            if isinstance(setting.probability, tuple) and max(setting.probability) > 1:
                raise RequestError(
                    f"probability_ratio = {self.probability_ratio}: makes a probability {max(setting.probability):g}, above 1"
                )

    @classmethod
    def flattened(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Version 0.1 recorded the settings, not the grid that they were made of. Raises as ``grid_axes``."""
        rest = dict(recorded)
        axes = grid_axes(rest.pop("settings", None))
        return super().flattened(rest) | axes


def _along(first: float, ratio: float, n: int, name: str) -> float | tuple[float, ...]:
    """One number where all are the same, else one for each of ``n`` features or outputs."""
    if ratio == 1:
        return first
    try:
        return geometric(first, ratio, n)
    except OverflowError:
        raise RequestError(f"{name} = {ratio}: {first} times it, {n - 1} times over, is too large a number") from None


def geometric(first: float, ratio: float, n: int) -> tuple[float, ...]:
    """``first * ratio**i`` for ``i`` from 0 to ``n - 1``."""
    return tuple(first * ratio**i for i in range(n))


@dataclass(frozen=True)
class ToyStudyConfig(Config):
    """Run one of the nine toy-model studies and write its page. Run again to resume."""

    study: tyro.conf.Positional[StudyName]
    """Study. directions: which features a two-dimensional bottleneck represents, and in which directions. sparsity: how sparse and
    how important features must be to share dimensions. neurons: whether each feature gets its own neuron in a hidden layer with
    ReLU. absolute: whether a layer computes the absolute value of more features than it has neurons. logic: whether ReLU or GELU computes AND,
    OR, max and x^2 better. dropout: whether dropout prevents superposition. penalties: whether an L1 penalty and uneven sparsity
    make neurons monosemantic. width: whether neurons become monosemantic when there are enough of them. correlation: which
    directions a model gives to features that occur together, or never together."""
    full: bool = False
    """Use the size of the source where the default is smaller: an hour instead of minutes."""
    n_instances: AtLeast1 | None = None
    """Models trained per setting. Default: the study's."""
    n_steps: AtLeast1 | None = None
    """Optimizer steps. Default: the study's."""
    random: SeedPart = SeedPart()
    device: DevicePart = DevicePart(device="cpu")
    threads: ThreadsPart = ThreadsPart(threads=1)
