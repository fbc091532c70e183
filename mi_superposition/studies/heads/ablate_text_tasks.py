"""Tasks without each head, and the heads that keep them: step by step, each of which is kept in a file of the run until all are done.

The search for the heads that keep a task is one step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from mi_superposition.heads.config import AblateConfig, HeadReplacement
from mi_superposition.heads.effects import REPLACEMENTS
from mi_superposition.heads.sets import TaskSet, task_set
from mi_superposition.heads.tasks import Task, accuracy, logit_differences
from mi_superposition.models.protocol import HookedModel
from mi_superposition.progress import Progress
from mi_superposition.storing import read_record, write_record
from mi_superposition.studies.heads.ablate_text_result import TaskChanges, TaskEffects
from mi_superposition.training import Stopped

_FEWEST_PROMPTS = 8
_Found = TypeVar("_Found", TaskChanges, TaskSet)


@dataclass
class TaskWork:
    """Tasks of one model beside its untrained copy; ``folder`` has what a run that was stopped had found."""

    folder: Path
    model: HookedModel
    untrained: HookedModel
    config: AblateConfig
    layers: Sequence[int]
    progress: Progress

    def effects(self, tasks: Sequence[Task]) -> dict[str, TaskEffects]:
        """Each task by its name. Raises ``Stopped`` after it was asked to stop."""
        return {task.name: self._effects(number, task) for number, task in enumerate(tasks)}

    def _effects(self, number: int, task: Task) -> TaskEffects:
        # Means and other examples need another prompt.
        several = len(task) > 1
        kinds: tuple[HeadReplacement, ...] = REPLACEMENTS if several else ("zero",)
        replaced = self.config.on_text.text_replacement if several else "zero"
        whole, control = (logit_differences(model, task) for model in (self.model, self.untrained))
        changes: dict[str, TaskChanges] = {}
        for kind in kinds:
            parts = [
                self._once(
                    f"task-{number}-{kind.replace(' ', '-')}-{layer:03d}",
                    f"{task.name}, {kind}, layer {layer}",
                    TaskChanges,
                    functools.partial(self._changes, task, whole, kind, layer),
                )
                for layer in self.layers
            ]
            changes[kind] = TaskChanges(
                *(torch.cat([getattr(part, name) for part in parts]) for name in ("change", "error"))
            )
        # Of a task that the model cannot do no heads are looked for.
        asked, seed = self.config.on_text.task_sets, self.config.random.seed
        can = len(task) >= _FEWEST_PROMPTS and float(whole.mean()) > 2 * float(whole.std()) / len(whole) ** 0.5
        kept = None
        if can and asked:
            find = functools.partial(
                task_set,
                self.model,
                task,
                replace_with=replaced,
                n_random=asked,
                seed=seed,
                on_sets=self._stop_if_asked,
            )
            kept = self._once(f"task-{number}-set", f"{task.name}, heads that keep it", TaskSet, find)
        return TaskEffects(
            n_prompts=len(task),
            accuracy=accuracy(whole),
            difference=float(whole.mean()),
            untrained_accuracy=accuracy(control),
            untrained_difference=float(control.mean()),
            replaced=replaced,
            changes=changes,
            kept=kept,
        )

    def _changes(self, task: Task, whole: torch.Tensor, kind: HeadReplacement, layer: int) -> TaskChanges:
        """Without each head of a layer, and without all of them."""
        n_layers, n_heads = self.model.cfg.n_layers, self.model.cfg.n_heads
        keep = torch.ones(n_heads + 1, n_layers, n_heads, dtype=torch.bool)
        keep[:, layer] = torch.cat([~torch.eye(n_heads, dtype=torch.bool), torch.zeros(1, n_heads, dtype=torch.bool)])
        change = (logit_differences(self.model, task, keep, kind, self.config.random.seed) - whole).double()
        error = change.std(dim=1) / len(task) ** 0.5 if len(task) > 1 else torch.full(change.shape[:1], torch.nan)
        return TaskChanges(change.mean(dim=1).float()[None], error.float()[None])

    def _once(self, name: str, said: str, cls: type[_Found], find: Callable[[], _Found]) -> _Found:
        """What ``find`` gives, or gave before the run was stopped."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            self.progress.stage(said)
            self._stop_if_asked()
            write_record(path, find())
        return read_record(path, cls)

    def _stop_if_asked(self) -> None:
        if self.progress.should_stop():
            raise Stopped(len(list(self.folder.glob("task-*"))), "task step")
