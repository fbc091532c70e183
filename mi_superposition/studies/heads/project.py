"""Head projections: what every head reads and writes, how circular it is, and how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.addition.train import load_addition_model
from mi_superposition.errors import RequestError
from mi_superposition.heads import Circularity, HeadProjections, circularity, digit_circularity, project_heads
from mi_superposition.heads.config import ProjectConfig
from mi_superposition.heads.projection import MATRICES
from mi_superposition.models import load_snapshots, local_model_folder, model_record, untrained_copy
from mi_superposition.models.protocol import HookedModel
from mi_superposition.progress import SILENT, Progress
from mi_superposition.results import Result
from mi_superposition.runs import Outcome, open_run, read_manifest
from mi_superposition.storing import read_record, write_record

COMMAND = "heads project"
RESULT = "projections.safetensors"
N_UNTRAINED = 5


@dataclass(frozen=True, repr=False)
class HeadProjectionStudy(Result):
    """Projections of a trained model, the circularity of the ten digits in it and in untrained models.

    ``untrained`` has an entry for each model and name; ``head`` is the head shown large; ``frames`` its digits under Q, K, V and O at
    each snapshot, by epoch.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.heads.project:figure"

    config: ProjectConfig
    trained: HeadProjections
    circular: dict[str, Circularity]
    untrained: list[dict[str, Circularity]]
    untrained_ov_ratio: float
    ramp_share: float
    frames: dict[str, list[Float[Tensor, "digit d_head"]]]
    head: int

    def untrained_mean(self, name: str, quantity: Literal["share", "roundness"]) -> float:
        """Mean of a measure of circularity over the heads of the untrained models."""
        return mean(float(getattr(circular[name], quantity).mean()) for circular in self.untrained)

    def summary(self) -> str:
        """Circularity under V beside its control."""
        value = self.circular["V"]
        return (
            f"{len(value.share)} heads of {self.config.model.name}: {100 * float(value.share.mean()):.0f} % of the digits' variance under V "
            f"lies in one frequency ({100 * self.untrained_mean('V', 'share'):.0f} % untrained)"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per head: share of the variance in one frequency, roundness and that frequency under Q, K, V and O."""
        columns: dict[str, list[float]] = {}
        for name, measured in self.circular.items():
            for quantity in ("share", "roundness", "frequency"):
                columns[f"{name}_{quantity}"] = getattr(measured, quantity).tolist()
        return pd.DataFrame({**columns, "ov_ratio": self.trained.ov_ratio.tolist()}).rename_axis("head")

    def metrics(self) -> dict[str, Any]:
        """All numbers, flat; each beside the mean of its untrained controls."""
        metrics: dict[str, Any] = {"ramp_share": self.ramp_share, "n_untrained": len(self.untrained)}
        for name in MATRICES:
            of = f"_{name.lower()}_"
            controls = [circular[name] for circular in self.untrained]
            for label, models in [("", [self.circular[name]]), ("_untrained", controls)]:
                metrics[f"circularity{of}mean{label}"] = mean(float(measured.share.mean()) for measured in models)
                metrics[f"circularity{of}max{label}"] = mean(float(measured.share.max()) for measured in models)
                metrics[f"roundness{of}mean{label}"] = mean(float(measured.roundness.mean()) for measured in models)
        return metrics


def projection_study(
    model: HookedModel,
    config: ProjectConfig | None = None,
    *,
    snapshots: Sequence[tuple[int, HookedModel]] = (),
) -> HeadProjectionStudy:
    """Measure all heads of a model (``config.model`` only names it). ``config.head`` is shown large; by default the one whose values
    are most circular, by share × roundness. ``snapshots`` are (epoch, model) pairs for the animation.

    Raises ``RequestError`` for a head or position that is not there.
    """
    config = config or ProjectConfig()
    _check_model_has(model, config)
    trained = project_heads(model, tokens=range(10))
    controls = [project_heads(untrained_copy(model, seed), tokens=range(10)) for seed in range(N_UNTRAINED)]
    circular = digit_circularity(trained)
    ramp = torch.stack([torch.arange(10.0), torch.zeros(10)], dim=1)
    head = config.head
    if head is None:
        head = int((circular["V"].share * circular["V"].roundness).argmax())
    frames = {
        str(epoch): _digit_points(project_heads(snapshot, positions=[config.position]), head, 0)
        for epoch, snapshot in snapshots
    }
    return HeadProjectionStudy(
        config=config,
        trained=trained,
        circular=circular,
        untrained=[digit_circularity(control) for control in controls],
        untrained_ov_ratio=mean(float(control.ov_ratio.mean()) for control in controls),
        ramp_share=float(circularity(ramp).share),
        frames=frames,
        head=head,
    )


def measure(config: ProjectConfig, out: Path, progress: Progress = SILENT) -> Outcome:
    """Run the study into a run folder. Raises as ``load_addition_model``, ``projection_study`` and ``open_run`` do."""
    model = load_addition_model(config.model.name, config.model.digit_order)
    _check_model_has(model, config)
    inputs = {"model": model_record(config.model.name, model)}
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return Outcome(out, finished_already=True)
        progress.stage("projections")
        found = projection_study(model, config, snapshots=load_snapshots(local_model_folder(config.model.name)))
        write_record(out / RESULT, found)
        run.finish(found.metrics())
    return Outcome(out, finished_already=False)


def load(folder: Path) -> HeadProjectionStudy:
    """The result in a finished run folder. Raises ``RequestError`` where there is none."""
    read_manifest(folder, COMMAND)
    return read_record(folder / RESULT, HeadProjectionStudy)


def _check_model_has(model: HookedModel, config: ProjectConfig) -> None:
    for name, value, high in [
        ("position", config.position, model.cfg.n_ctx - 1),
        ("head", config.head or 0, model.cfg.n_heads - 1),
    ]:
        if value > high:
            raise RequestError(f"{name} = {value}: give 0 to {high}")


def _digit_points(projections: HeadProjections, head: int, position: int) -> list[Tensor]:
    read = [getattr(projections, field)[head, position, :10] for field in ("query", "key", "value")]
    return [*read, projections.output[head]]
