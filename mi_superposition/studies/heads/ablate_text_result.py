"""What ablating every head of a model on text and tasks gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.heads.config import AblateConfig, HeadReplacement
from mi_superposition.heads.sets import TaskSet
from mi_superposition.results import Result

UNTRAINED: Literal["untrained"] = "untrained"


@dataclass(frozen=True)
class Effects:
    """Changes in nats a token with their standard errors; the last head stands for all heads of the layer together."""

    loss: Float[Tensor, "layer head"]
    loss_error: Float[Tensor, "layer head"]
    divergence: Float[Tensor, "layer head"]
    divergence_error: Float[Tensor, "layer head"]


@dataclass(frozen=True)
class Example:
    """A token that loses much without a head, in its text: ``tokens`` as they are shown, of which that at ``at`` is meant."""

    change: float
    document: int
    at: int
    tokens: list[str]
    changes: list[float]


@dataclass(frozen=True)
class TaskChanges:
    """Changes of a task's mean logit difference (nats) with their standard errors over prompts; the last head stands for all heads of the layer."""

    change: Float[Tensor, "layer head"]
    error: Float[Tensor, "layer head"]


@dataclass(frozen=True)
class TaskEffects:
    """A task: its mean logit difference (right minus wrong, nats), what each head's ablation changes of it by replacement, of which
    ``replaced`` is that of ``kept``, the small set of heads; ``untrained_difference`` and ``untrained_accuracy`` are the untrained model's.
    """

    n_prompts: int
    accuracy: float
    difference: float
    untrained_accuracy: float
    untrained_difference: float
    replaced: HeadReplacement
    changes: dict[str, TaskChanges]
    kept: TaskSet | None

    @property
    def main(self) -> TaskChanges:
        """The changes under the replacement of the set."""
        return self.changes[self.replaced]


@dataclass(frozen=True)
class Pairs:
    """Pairs of heads: ``heads`` as (layer, head), ``excess`` what ablating both costs beyond the sum of each, in nats a token, mean over
    documents, with its standard error.
    """

    heads: Int[Tensor, "head 2"]
    pairs: Int[Tensor, "pair 2"]
    excess: Float[Tensor, " pair"]
    error: Float[Tensor, " pair"]


@dataclass(frozen=True, repr=False)
class TextAblation(Result):
    """Effects of every head. ``effects``: by what was done (the replacements, ``"random direction"`` and ``"untrained"``); ``whole_layer``
    [layer, 2]: of leaving out a whole layer, loss and standard error, and ``untrained_layer`` the same untrained. ``loss`` is that of the whole
    model, ``class_loss`` of each class of tokens; ``by_class`` the change of the loss of each class under the default replacement.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.heads.ablate_text:figure"
    COLUMNS_PRINTED: ClassVar[tuple[str, ...]] = (
        "zero_loss", "mean_loss", "overall_mean_loss", "resample_loss", "random_direction_loss", "untrained_loss",
    )  # fmt: skip

    config: AblateConfig
    n_documents: int
    n_tokens: int
    loss: float
    layers: list[int]
    classes: list[str]
    class_share: Float[Tensor, " class"]
    class_loss: Float[Tensor, " class"]
    effects: dict[str, Effects]
    whole_layer: Float[Tensor, "layer 2"]
    untrained_layer: Float[Tensor, "layer 2"]
    by_class: Float[Tensor, "layer head class"]
    by_class_error: Float[Tensor, "layer head class"]
    examples: list[list[list[Example]]]
    tasks: dict[str, TaskEffects]
    pairs: Pairs | None

    @property
    def default(self) -> HeadReplacement:
        """The replacement in examples, classes, controls, tasks and sets."""
        return self.config.on_text.text_replacement

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return self.by_class.shape[1]

    @property
    def names(self) -> list[str]:
        """Of every head measured, layer by layer: ``layer.head``."""
        return [f"{layer}.{head}" for layer in self.layers for head in range(self.n_heads)]

    @property
    def main(self) -> Effects:
        """The effects under the default replacement."""
        return self.effects[self.default]

    @property
    def largest(self) -> tuple[int, int]:
        """Row of the layer and number of the head whose ablation costs most."""
        place = int(self.main.loss[:, :-1].argmax())
        return place // self.n_heads, place % self.n_heads

    def summary(self) -> str:
        """The mean and the largest effect beside the controls."""
        row, head = self.largest
        one, random, untrained = (
            self.effects[name].loss[:, :-1] for name in (self.default, "random direction", UNTRAINED)
        )
        return (
            f"{one.numel()} heads of {self.config.model.name} on {self.n_tokens:,} tokens: replacing one ({self.default}) costs "
            f"{float(one.mean()):.4f} nats a token on average ({float(random.mean()):.4f} in a random direction, {float(untrained.mean()):.4f} in "
            f"an untrained model), at most {float(one[row, head]):.4f} ± {float(self.main.loss_error[row, head]):.4f} (layer "
            f"{self.layers[row]}, head {head})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per head: the change of the loss under each replacement and control, KL(whole || ablated), standard errors, and the change
        of each task's logit difference.
        """
        rows = []
        for row, layer in enumerate(self.layers):
            for head in range(self.n_heads):
                found: dict[str, float] = {"layer": layer, "head": head}
                for name, some in self.effects.items():
                    key = name.replace(" ", "_")
                    found[f"{key}_loss"], found[f"{key}_loss_error"] = (
                        float(some.loss[row, head]),
                        float(some.loss_error[row, head]),
                    )
                    found[f"{key}_kl"] = float(some.divergence[row, head])
                for name, task in self.tasks.items():
                    found[f"{name}_change"] = float(task.main.change[row, head])
                    found[f"{name}_change_error"] = float(task.main.error[row, head])
                rows.append(found)
        return pd.DataFrame(rows).set_index(["layer", "head"])

    def metrics(self) -> dict[str, float | int]:
        """The numbers, flat."""
        found: dict[str, float | int] = {"documents": self.n_documents, "tokens": self.n_tokens, "loss": self.loss}
        for name, some in self.effects.items():
            key = name.replace(" ", "_")
            for row, layer in enumerate(self.layers):
                for head in range(self.n_heads + 1):
                    where = f"layer_{layer}/{'all_heads' if head == self.n_heads else f'head_{head}'}/{key}"
                    found[f"{where}_loss"] = float(some.loss[row, head])
                    found[f"{where}_loss_error"] = float(some.loss_error[row, head])
                    found[f"{where}_kl"] = float(some.divergence[row, head])
        for row, layer in enumerate(self.layers):
            found[f"layer_{layer}/whole_layer_loss"] = float(self.whole_layer[row, 0])
        for name, task in self.tasks.items():
            found |= {
                f"task_{name}/accuracy": task.accuracy, f"task_{name}/accuracy_untrained": task.untrained_accuracy,
                f"task_{name}/logit_difference": task.difference, f"task_{name}/logit_difference_untrained": task.untrained_difference,
            }  # fmt: skip
            for kind, changes in task.changes.items():
                for layer, values in zip(self.layers, changes.change.tolist(), strict=True):
                    for head, value in enumerate(values):
                        where = "all_heads" if head == self.n_heads else f"head_{head}"
                        found[f"task_{name}/layer_{layer}/{where}/{kind.replace(' ', '_')}_change"] = value
            if task.kept is not None:
                found |= {
                    f"task_{name}/set_size": task.kept.size, f"task_{name}/set_kept": task.kept.kept,
                    f"task_{name}/other_sets_kept_mean": float(task.kept.others.mean()), f"task_{name}/other_sets_kept_best": task.kept.best_of_others,
                }  # fmt: skip
        return {name: value for name, value in found.items() if value == value}
