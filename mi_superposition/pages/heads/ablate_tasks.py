"""What a page of ablated heads says of tasks."""

from __future__ import annotations

from statistics import median

import torch

from mi_superposition.figures.head_ablation import by_head
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.heads.ablate_text_result import TextAblation

# Of more layers the largest and the median are shown.
_LAYERS_SHOWN = 4


def task_items(study: TextAblation) -> list[Item]:
    """Every task without each head, under each replacement, and with few heads."""
    if not study.tasks:
        return []
    return [_tasks_by_head(study), _tasks_by_replacement(study), _task_sets(study)]


def _tasks_by_head(study: TextAblation) -> FigureRecord:
    names = study.names
    changes = torch.stack([task.main.change[:, :-1].flatten() for task in study.tasks.values()])
    strongest = int(changes.min(dim=1).values.argmin())
    name, least = list(study.tasks)[strongest], int(changes[strongest].argmin())
    task = study.tasks[name]
    error = task.main.error[:, :-1].flatten()[least]
    return FigureRecord(
        id="tasks",
        title="Tasks without each head",
        look_at=f"Change of the logit difference (right minus wrong) of each task when a head is replaced ({study.default}, over the task's own prompts). Blue: the head helped; red: it was in the way.",
        number=f"'{name}' loses {-float(changes[strongest, least]):.2f} ± {float(error):.2f} of {task.difference:.2f} without head {names[least]}.",
        control=(
            f"{median(changes[strongest].tolist()):+.2f} for the median head; {100 * task.untrained_accuracy:.0f} % of prompts are right in the untrained model, "
            f"{100 * task.accuracy:.0f} % in this one, 50 % by chance."
        ),
        figure=by_head(list(study.tasks), names, changes, "logits"),
    )


def _tasks_by_replacement(study: TextAblation) -> TableRecord:
    names, rows = study.names, []
    every_layer = len(study.layers) <= _LAYERS_SHOWN
    columns = [f"all heads of layer {layer}" for layer in study.layers]
    if not every_layer:
        columns = ["layer", "without its heads", "median layer"]
    for known, task in study.tasks.items():
        for kind, some in task.changes.items():
            heads = some.change[:, :-1].flatten()
            least = int(heads.argmin())
            error = some.error[:, :-1].flatten()[least]
            of_layers = [
                f"{float(change):+.2f} ± {float(its):.2f}"
                for change, its in zip(some.change[:, -1], some.error[:, -1], strict=True)
            ]
            if not every_layer:
                most = int(some.change[:, -1].argmin())
                of_layers = [str(study.layers[most]), of_layers[most], f"{median(some.change[:, -1].tolist()):+.2f}"]
            rows.append(
                [f"{known}, {kind}", f"{task.difference:.2f}", f"{task.untrained_difference:.2f}", names[least],
                 f"{float(heads[least]):+.2f} ± {float(error):.2f}", f"{median(heads.tolist()):+.2f}", *of_layers]
            )  # fmt: skip
    return TableRecord(
        id="task-replacements",
        title="Tasks under each replacement",
        look_at="The logit difference of each task, in the whole model and in an untrained one; what it changes by without the head that matters most, without the median head, and without all heads of a layer (of many, the one that matters most and the median), ± one standard error over prompts.",
        columns=[
            "task, replaced",
            "logit difference",
            "untrained",
            "head",
            "without it",
            "median head",
            *columns,
        ],
        rows=rows,
    )


def _task_sets(study: TextAblation) -> TableRecord:
    rows = []
    for known, one in study.tasks.items():
        kept = one.kept
        members = [] if kept is None else [f"{layer}.{head}" for layer, head in kept.heads.nonzero().tolist()]
        measured = (
            ["–"] * 4
            if kept is None
            else [f"{100 * value:.0f} %" for value in (kept.kept, float(kept.others.mean()), kept.best_of_others, kept.accuracy)]
        )  # fmt: skip
        rows.append(
            [known, str(one.n_prompts), f"{100 * one.accuracy:.1f} %", f"{100 * one.untrained_accuracy:.1f} %", f"{one.difference:.2f}",
             "–" if kept is None else str(kept.size), " ".join(members) or "–", *measured]
        )  # fmt: skip
    return TableRecord(
        id="sets",
        title="The heads that keep a task",
        look_at=(
            "Right: share of prompts whose right token has the larger logit (by chance 50 %). Set: the smallest set of heads that a greedy search finds to keep 95 % of the logit "
            f"difference on one half of the prompts, all other heads replaced ({study.default}); it need not be the smallest there is. Kept: what it keeps on the other half. Other sets: "
            f"at most {study.config.on_text.task_sets} random ones of that size, their mean, and the best on the first half. No set is looked for where the logit difference is within two standard errors of zero."
        ),
        columns=["task", "prompts", "right", "right, untrained", "logit difference", "heads", "set", "kept", "other sets, mean", "best other set", "right, set alone"],
        rows=rows,
        words={"set"},
    )  # fmt: skip
