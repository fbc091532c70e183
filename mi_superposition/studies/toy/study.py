"""What every toy study has: configurations to train, numbers, figures with their words, and a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mi_superposition.errors import RequestError
from mi_superposition.runs import open_run
from mi_superposition.site import Page, Section, write_site
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.toy import ToyConfig, ToyModels, ToySetting, load_toy, train_toy

COMMAND = "toy study"
BUNDLED = Path(__file__).parents[2] / "bundled" / "toy"
Models = Mapping[str, ToyModels]
# A table of more settings is none anybody reads.
_MOST_SETTINGS = 40


@dataclass(frozen=True)
class StudySize:
    """How much of a study to run: ``full`` for the size of the source; ``instances`` and ``steps`` replace those of every
    run.
    """

    full: bool = False
    instances: int | None = None
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("instances", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name} = {value}: must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise RequestError(f"seed = {self.seed}: must be 0 to {2**63 - 1}")


@dataclass(frozen=True)
class ToyStudy:
    """One question asked of toy models.

    ``configs(full)`` names the runs it needs; ``full`` asks for the size of the source where the usual one is smaller.
    ``metrics`` and ``items`` make numbers and figures of the trained models, by the names of their runs. ``outcome`` says
    in a sentence with numbers what was found. ``source`` is where the study comes from.
    """

    name: str
    title: str
    question: str
    source: str
    configs: Callable[[bool], dict[str, ToyConfig]]
    metrics: Callable[[Models], dict[str, Any]]
    outcome: Callable[[Models], str]
    items: Callable[[Models], Sequence[Item]]

    def sized(self, size: StudySize) -> dict[str, ToyConfig]:
        """Its runs of that size."""
        return {name: _sized(config, size) for name, config in self.configs(size.full).items()}

    def page(self, models: Models) -> Page:
        """The study as a page."""
        return Page(
            slug=f"toy-{self.name}",
            title=self.title,
            intro=f"{self.question} {self.outcome(models)} Source: {self.source}.",
            items=[*self.items(models), loss_table(models)],
        )


def train_study(
    study: ToyStudy,
    out: Path,
    size: StudySize | None = None,
    *,
    on_step: Callable[[int, str], None] = lambda by, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train everything a study needs below ``out``, or go on with it, and write its numbers and its page; true when it
    was finished already.

    ``on_step`` gets how many steps were done and what they did.
    """
    size = size or StudySize()
    configs = study.sized(size)
    request = {"study": study.name, **dataclasses.asdict(size)}
    with open_run(out, COMMAND, request) as run:
        if run.finished:
            return True
        models = {}
        for name, config in configs.items():
            done = 0

            def on_log(row: dict[str, Any], name: str = name) -> None:
                nonlocal done
                on_step(row["step"] - done, f"{name}: least loss {min(row['loss_min']):.5f}")
                done = row["step"]

            models[name] = train_toy(config, out / "runs" / name, on_log=on_log, should_stop=should_stop)
            # A run that was finished before says nothing on the way.
            on_step(config.n_steps - done, name)
        write_site([_section(study, models)], out / "page", title=study.title, lead="")
        run.finish(study.metrics(models))
    return False


def study_models(study: ToyStudy, size: StudySize) -> dict[str, ToyModels]:
    """Train everything a study needs, in memory."""
    return {name: train_toy(config) for name, config in study.sized(size).items()}


def bundled_models(study: ToyStudy) -> dict[str, ToyModels]:
    """The study's models as they come with the package (made by ``scripts/train_toy.py``)."""
    return {name: load_toy(BUNDLED / study.name / name) for name in study.sized(StudySize())}


def trained_models(study: ToyStudy, out: Path, size: StudySize) -> dict[str, ToyModels]:
    """The models of a finished run of ``train_study``."""
    return {name: load_toy(out / "runs" / name) for name in study.sized(size)}


def loss_table(models: Models) -> TableRecord:
    """Losses of all instances of every run, best, median and worst; of many settings their medians."""
    rows = []
    for name, trained in models.items():
        over = trained.loss / trained.constant_loss[:, None].clamp_min(1e-30)
        spread = torch.stack((over.amin(dim=1), over.median(dim=1).values, over.amax(dim=1)), dim=1)
        untrained = (trained.untrained_loss / trained.constant_loss[:, None].clamp_min(1e-30)).median(dim=1).values
        if len(spread) > _MOST_SETTINGS:
            shown = [(f"{name}, median of {len(spread)} settings", spread.median(dim=0).values, untrained.median())]
        else:
            labels = [_setting_in_words(setting) for setting in trained.config.settings]
            shown = [
                (f"{name}, {label}", row, control)
                for label, row, control in zip(labels, spread, untrained, strict=True)
            ]
        rows += [
            [label, f"{trained.loss.shape[1]}", *(f"{float(value):.3g}" for value in row), f"{float(control):.3g}"]
            for label, row, control in shown
        ]
    return TableRecord(
        id="toy-losses",
        title="Losses of all instances",
        look_at="Held-out loss in units of the best constant output's, which is 1; untrained: median of the initial weights.",
        columns=["run", "instances", "best", "median", "worst", "untrained"],
        rows=rows,
    )


def _setting_in_words(setting: ToySetting) -> str:
    uneven = isinstance(setting.probability, tuple) and len(set(setting.probability)) > 1
    first = setting.probability[0] if isinstance(setting.probability, tuple) else setting.probability
    said = "uneven sparsity" if uneven else f"sparsity {1 - first:.3g}"
    if setting.dropout:
        said += f", dropout {setting.dropout:g}"
    if setting.l1:
        said += f", L1 {setting.l1:g}"
    return said


def in_words(counts: Mapping[str, int]) -> str:
    """How many features stand in figures of each name."""
    return ", ".join(
        f"{n} in no named figure" if name == "unnamed" else f"{n} in {name}s" for name, n in counts.items()
    )


def _section(study: ToyStudy, models: Models) -> Section:
    return Section(
        slug=study.name,
        title=study.title,
        summary=study.question,
        number="",
        number_is=study.outcome(models),
        control="",
        page=study.page(models),
    )


def _sized(config: ToyConfig, size: StudySize) -> ToyConfig:
    n_instances, n_steps = size.instances or config.n_instances, size.steps or config.n_steps
    return dataclasses.replace(
        config,
        # Runs that are compared may have seeds of their own.
        seed=config.seed + size.seed,
        n_instances=n_instances,
        n_kept=min(config.n_kept, n_instances),
        n_steps=n_steps,
        snapshots=tuple(sorted({min(step, n_steps) for step in config.snapshots})),
    )
