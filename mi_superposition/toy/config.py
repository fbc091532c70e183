"""What a toy training run is made of. Imports no torch, so the command line can show it at once."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mi_superposition.errors import RequestError

MODELS = ("bottleneck", "neuron", "computation")
ACTIVATIONS = ("relu", "gelu", "linear")
SETS = ("independent", "correlated", "anticorrelated")
INPUTS = ("uniform", "signed", "normal", "binary", "ternary")
# Tasks by the inputs they are asked of: all of them, or those that are true or false.
_ALL, _LOGICAL = INPUTS, ("binary",)
TASKS: dict[str, tuple[str, ...]] = {
    "reconstruct": _ALL,
    "abs": _ALL,
    "square": _ALL,
    "max": _ALL,
    "and": _LOGICAL,
    "or": _LOGICAL,
}
PAIRED = ("and", "or", "max")
_MOST_THREADS = 1024
_USUAL_INPUTS = {"reconstruct": "uniform", "and": "binary", "or": "binary"}


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _given(value: float | list[float]) -> float | tuple[float, ...]:
    """As it was before it became JSON."""
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class ToySetting:
    """One combination under which a model is trained. Numbers by feature are one for all, or one a feature.

    ``probability``: that a feature is not zero (one minus its sparsity); of features in correlated or anticorrelated sets, that
    the set is not (in an anticorrelated one each feature then has an equal share of it). ``importance``: weight of an output's squared
    error. ``dropout``: share of hidden activations set to zero in training. ``l1``: weight of the mean over the batch of
    the sum of the hidden activations' magnitudes, added to the loss.
    """

    probability: float | tuple[float, ...] = 0.1
    importance: float | tuple[float, ...] = 1.0
    dropout: float = 0.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        for value in _each(self.probability):
            if not 0 <= value <= 1:
                raise RequestError(f"probability = {value}: must be 0 to 1")
        for value in _each(self.importance):
            if not 0 <= value < float("inf"):
                raise RequestError(f"importance = {value}: must be 0 or more")
        if not 0 <= self.dropout < 1:
            raise RequestError(f"dropout = {self.dropout}: must be 0 or more and below 1")
        if not 0 <= self.l1 < float("inf"):
            raise RequestError(f"l1 = {self.l1}: must be 0 or more")


@dataclass(frozen=True)
class ToyConfig:
    """The full request of one training run: one architecture, ``n_instances`` of it under each of the ``settings``.

    ``model``: ``bottleneck`` is act(W^T W x + b), ``neuron`` act(W^T act(W x) + b), ``computation`` act(W2 act(W1 x) + b).
    ``inputs`` are what a feature is when it is not zero: uniform in [0, 1], ``signed`` uniform in [-1, 1], standard
    normal, ``binary`` 1, ``ternary`` -1 or 1; default: what is usual for the task. ``sets`` of ``set_size`` neighbouring
    features are not zero together (``correlated``), or one of them at most (``anticorrelated``).
    Of each setting the weights of the ``n_kept`` instances with the lowest held-out loss are kept, at the end and after
    each of the ``snapshots`` (numbers of steps).
    """

    model: str = "bottleneck"
    task: str = "reconstruct"
    activation: str = "relu"
    inputs: str = ""
    sets: str = "independent"
    set_size: int = 2
    n_features: int = 5
    n_hidden: int = 2
    tied: bool | None = None
    bias: bool = True
    settings: tuple[ToySetting, ...] = (ToySetting(),)
    n_instances: int = 16
    n_kept: int = 1
    n_steps: int = 10_000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    decay: str = "constant"
    snapshots: tuple[int, ...] = ()
    seed: int = 0
    device: str = "cpu"
    threads: int = 2
    """CPU threads: part of the request, because sums in another order end in other last bits."""

    def __post_init__(self) -> None:
        for name, known in (
            ("model", MODELS), ("task", tuple(TASKS)), ("activation", ACTIVATIONS), ("sets", SETS),
            ("decay", ("constant", "linear", "cosine")), ("inputs", ("", *INPUTS)), ("device", ("cpu", "cuda")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise RequestError(
                    f"{name} = {getattr(self, name)!r}: give {', '.join(repr(choice) for choice in known if choice)}"
                )
        if not self.inputs:
            object.__setattr__(self, "inputs", _USUAL_INPUTS.get(self.task, "signed"))
        if self.tied is None:
            object.__setattr__(self, "tied", self.model != "computation")
        for name in (
            "n_features", "n_hidden", "n_instances", "n_kept", "n_steps", "batch_size", "threads", "set_size",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise RequestError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.threads > _MOST_THREADS:
            raise RequestError(f"threads = {self.threads}: must be at most {_MOST_THREADS}")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"seed = {self.seed}: must be 0 to {2**63 - 1}")
        if not 0 < self.learning_rate < float("inf"):
            raise RequestError(f"learning_rate = {self.learning_rate}: must be above 0")
        if not self.settings:
            raise RequestError("settings = (): give at least one")
        if self.n_kept > self.n_instances:
            raise RequestError(f"n_kept = {self.n_kept}: there are only {self.n_instances} instances")
        if any(not 0 <= step <= self.n_steps for step in self.snapshots):
            raise RequestError(f"snapshots = {self.snapshots}: must be 0 to n_steps = {self.n_steps}")
        self._check_task()

    def _check_task(self) -> None:
        if self.inputs not in TASKS[self.task]:
            raise RequestError(
                f"inputs = {self.inputs!r}: the task {self.task!r} is defined for {', '.join(map(repr, TASKS[self.task]))}"
            )
        if self.model != "computation" and self.task != "reconstruct":
            raise RequestError(f"task = {self.task!r}: the {self.model} model reconstructs; take model = 'computation'")
        if self.tied and self.n_outputs != self.n_features:
            raise RequestError(f"tied = True: the task {self.task!r} has other outputs than inputs")
        if self.model == "bottleneck" and self.n_hidden >= self.n_features:
            raise RequestError(
                f"n_hidden = {self.n_hidden}: a bottleneck of {self.n_features} features has fewer than {self.n_features}"
            )
        if self.task in PAIRED and self.n_features % 2:
            raise RequestError(
                f"n_features = {self.n_features}: the task {self.task!r} takes pairs, give an even number"
            )
        if self.sets != "independent" and self.n_features % self.set_size:
            raise RequestError(f"n_features = {self.n_features}: must be a multiple of set_size = {self.set_size}")
        for setting in self.settings:
            for name, needed in (("probability", self.n_features), ("importance", self.n_outputs)):
                given = _each(getattr(setting, name))
                if len(given) not in (1, needed):
                    raise RequestError(f"{name} has {len(given)} values: give 1 or {needed}")
            if self.sets != "independent" and len(_each(setting.probability)) > 1:
                raise RequestError(f"probability by feature: features in {self.sets} sets share one")

    @property
    def n_outputs(self) -> int:
        """Outputs of the task: one a feature, or one a pair."""
        return self.n_features // 2 if self.task in PAIRED else self.n_features

    def to_json(self) -> dict[str, Any]:
        """Everything asked for, as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ToyConfig:
        """Inverse of ``to_json``."""
        settings = tuple(
            ToySetting(_given(one["probability"]), _given(one["importance"]), one["dropout"], one["l1"])
            for one in values["settings"]
        )
        return cls(**{**values, "settings": settings, "snapshots": tuple(values["snapshots"])})


def setting_grid(
    *,
    probability: Sequence[float | tuple[float, ...]] = (0.1,),
    importance: Sequence[float | tuple[float, ...]] = (1.0,),
    dropout: Sequence[float] = (0.0,),
    l1: Sequence[float] = (0.0,),
) -> tuple[ToySetting, ...]:
    """Every combination, the last name running fastest."""
    return tuple(ToySetting(*values) for values in itertools.product(probability, importance, dropout, l1))


def geometric(first: float, ratio: float, n: int) -> tuple[float, ...]:
    """``first * ratio**i`` for ``i`` from 0 to ``n - 1``."""
    try:
        return tuple(first * ratio**i for i in range(n))
    except OverflowError:
        raise RequestError(f"ratio = {ratio}: {first} times it, {n - 1} times over, is too large a number") from None
