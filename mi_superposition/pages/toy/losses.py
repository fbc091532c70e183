"""The losses of all instances, which every page of toy models ends with."""

from __future__ import annotations

import torch

from mi_superposition.pages.toy.words import setting_labels
from mi_superposition.site.records import TableRecord
from mi_superposition.studies.toy.result import Models

# A table of more settings is none anybody reads.
_MAX_SETTINGS = 40


def loss_table(models: Models) -> TableRecord:
    """Losses of all instances of every run, best, median and worst; of many settings their medians."""
    rows = []
    for name, trained in models.items():
        ratio = trained.loss_ratio
        spread = torch.stack((ratio.amin(dim=1), ratio.median(dim=1).values, ratio.amax(dim=1)), dim=1)
        untrained = trained.untrained_loss_ratio.median(dim=1).values
        if len(spread) > _MAX_SETTINGS:
            shown = [(f"median of {len(spread)} settings", spread.median(dim=0).values, untrained.median())]
        else:
            shown = list(zip(setting_labels(trained.config.settings), spread, untrained, strict=True))
        rows += [
            [
                f"{name}, {label}" if name else label,
                f"{ratio.shape[1]}",
                *(f"{float(value):.3g}" for value in row),
                f"{float(control):.3g}",
            ]
            for label, row, control in shown
        ]
    return TableRecord(
        id="toy-losses",
        title="Losses of all instances",
        look_at=(
            "Held-out loss relative to the best constant prediction (1 = nothing learnt); untrained: median at initialisation."
        ),
        columns=["run" if len(models) > 1 else "setting", "instances", "best", "median", "worst", "untrained"],
        rows=rows,
    )
