"""The report's chapter on the model that adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mi_superposition.addition.config import AdditionCertifyConfig, AdditionEvaluateConfig, AdditionProgramConfig
from mi_superposition.figures.addition import training_curves
from mi_superposition.heads.config import AblateConfig, ProjectConfig
from mi_superposition.models import local_model_folder
from mi_superposition.pages.addition import program
from mi_superposition.pages.addition.certify import bounds_table, cells_figure, curve_figure
from mi_superposition.pages.addition.evaluate import (
    Evaluations,
    accuracy_figure,
    attention_figure,
    carry_figure,
    control_of,
    snapshots_figure,
)
from mi_superposition.pages.heads import ablate, project
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.parts import AdditionModelPart
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.site.records import Item, TableRecord
from mi_superposition.studies.addition import certify as certificate_study
from mi_superposition.studies.addition import evaluate as evaluation_study
from mi_superposition.studies.addition import program as program_study
from mi_superposition.studies.addition import train as training_study
from mi_superposition.studies.addition.evaluate import AdditionEvaluation
from mi_superposition.studies.addition.train import AdditionTraining
from mi_superposition.studies.heads import ablate as ablation_study
from mi_superposition.studies.heads import project as projection_study

_MODELS = {"paper": "addition", "exact": "addition-exact"}
# The certificate that the report makes itself: about ten seconds of search, and the same on every machine.
_CERTIFIED, _BOXES, _SAMPLED = "addition-exact", 120_000, 100_000
# With real data asked for so many times as many problems: made-up problems are all there are.
_MORE = 10
ALTERNATIVES = (
    Alternative(
        "other seeds of the same recipe",
        "98.27, 97.69, 98.12 and 98.28 % of the digits of 1,000,000 fresh problems with seeds 1 to 4: the bundled one is among the best of five",
        "python scripts/train_addition.py --runs runs/addition",
        "addition.md",
    ),
    Alternative(
        "whole sums, not digits",
        "88.66 % of fresh sums have all seven digits right: about one sum in nine is wrong",
        "mi-superposition addition evaluate --model addition --out RUN",
        "addition.md",
    ),
    Alternative(
        "more problems: may 25,000 fixed ones have been learnt by heart, and is this all that 32 such heads can do?",
        "no: 98.28 % on fresh problems beside 98.32 % on test problems; trained on new problems at every step, 99.35 %",
        "python scripts/train_addition.py --runs runs/addition",
        "addition.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """Both models evaluated; the program of the exact one; the heads of the first ablated and projected."""
    n_problems = AdditionEvaluateConfig().n_problems * (1 if request.real is None else _MORE)
    evaluations = {
        name: Job(
            "addition evaluate", AdditionEvaluateConfig(model=AdditionModelPart(model=model), n_problems=n_problems)
        )
        for name, model in _MODELS.items()
    }
    return {
        **evaluations,
        "program": Job("addition program", AdditionProgramConfig(model=AdditionModelPart(model=_MODELS["exact"]))),
        "ablate": Job("heads ablate", AblateConfig()),
        "project": Job("heads project", ProjectConfig()),
        "certify": Job(
            "addition certify",
            AdditionCertifyConfig(
                model=AdditionModelPart(model=_CERTIFIED), seconds=3600.0, boxes=_BOXES, n_problems=_SAMPLED
            ),
        ),
        **{
            f"certificate-{name}": Job("addition certify", bundled=certificate_study.BUNDLED / model)
            for name, model in _MODELS.items()
        },
    }


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """The chapter, from the folders of its runs and those of the bundled trainings."""
    own = runs["addition"]
    evaluations = {name: evaluation_study.load(own[name]) for name in _MODELS}
    trainings = {name: training_study.load(local_model_folder(model)) for name, model in _MODELS.items()}
    paper = evaluations["paper"]
    projections = projection_study.load(own["project"])
    items: list[Item] = [
        _model_table(trainings, evaluations),
        accuracy_figure(evaluations),
        _training_figure(trainings, evaluations),
        snapshots_figure(paper),
        carry_figure(evaluations),
        attention_figure(paper),
        *program.items(program_study.load(own["program"])),
        *_certificates(own),
        *ablate.items(ablation_study.load_addition(own["ablate"])),
        *project.items(projections),
    ]
    page = Page(
        slug="addition",
        title="Addition with 32 two-dimensional heads",
        intro=(
            "An attention-only transformer with one layer, no MLP and no normalisation, after K. Thaman, A. Rigg, N. "
            "Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10). The input is two six-digit "
            "numbers, least significant digit first, then seven '=' tokens. The logits at the seven '=' positions "
            "predict the seven digits of the sum, all in one forward pass. Each of the 32 heads has only two "
            "dimensions, so the ten digits must share them."
        ),
        items=items,
    )
    return Section(
        slug="addition",
        title="Addition by 32 heads",
        summary="How 32 attention heads with two dimensions each add six-digit numbers: ablations and projections of every head.",
        number=f"{100 * paper.accuracy.per_digit:.1f} %",
        number_is=(
            f"of answer digits correct on {paper.accuracy.n_problems:,} fresh problems, by the best of five seeds in our own recipe, so not like "
            "for like with what was reported"
        ),
        control=control_of(paper),
        page=page,
        more=[project.all_heads_page(projections)],
        headline=headline(paper),
        alternatives=ALTERNATIVES,
    )


def headline(evaluation: AdditionEvaluation) -> Headline:
    """Whether more digits are right than by guessing and than before training, in per cent; the margin is two standard errors at most."""
    return Headline(
        100 * evaluation.accuracy.per_digit,
        {
            "best constant guess": 100 * float(evaluation.chance.mean()),
            "untrained": 100 * evaluation.untrained.per_digit,
        },
        yes="The model adds problems that it was not trained on",
        no="The model does not add",
        margin=100 * evaluation.accuracy.n_problems**-0.5,
    )


def _certificates(own: Mapping[str, Path]) -> list[Item]:
    """What is proven of both models in minutes, and of one with what the report itself has time for."""
    items: list[Item] = []
    for name in ("exact", "paper"):
        long = certificate_study.load(own[f"certificate-{name}"])
        items += [
            bounds_table(long, f"bounds-{name}"),
            cells_figure(long, f"boxes-{name}"),
            curve_figure(long, f"gap-{name}"),
        ]
    return [*items, bounds_table(certificate_study.load(own["certify"]), "bounds-here")]


def _training_figure(trainings: Mapping[str, AdditionTraining], evaluations: Evaluations) -> FigureRecord:
    paper = evaluations["paper"]
    return FigureRecord(
        id="training",
        title="Error during training",
        look_at=(
            "Error on held-out problems during training, on a logarithmic scale. The last drop comes when the "
            "learning rate decays to zero. The exact model is trained in two phases, each with such a drop; the "
            "second uses larger batches."
        ),
        number=f"{100 * (1 - paper.accuracy.per_digit):.2f} % of digits wrong at the end of training (paper).",
        control=f"{100 * (1 - paper.untrained.per_digit):.1f} % wrong for the untrained model.",
        figure=training_curves({name: training.history for name, training in trainings.items()}),
    )


def _model_table(trainings: Mapping[str, AdditionTraining], evaluations: Evaluations) -> TableRecord:
    first = next(iter(evaluations.values()))
    rows = []
    for name, training in trainings.items():
        config, accuracy = training.config, evaluations[name].accuracy
        problems = f"{config.n_train:,} fixed" if config.n_train else "new ones at every step"
        epochs = config.second_descent or config.epochs
        steps = f"{epochs * config.epoch_steps:,} × {config.batch_size}"
        if epochs < config.epochs:
            steps += f" + {(config.epochs - epochs) * config.epoch_steps:,} × {config.restart_batch_size}"
        rows.append([name, problems, steps, _percent(accuracy.per_digit), _percent(accuracy.whole_sum)])
    untrained = first.untrained
    rows.append(["untrained", "–", "0", _percent(untrained.per_digit), _percent(untrained.whole_sum)])
    rows.append(["best constant guess", "–", "0", _percent(float(first.chance.mean())), "0.00 %"])
    return TableRecord(
        id="models",
        title="The two models",
        look_at=(
            f"The same architecture with two training recipes, evaluated on {first.accuracy.n_problems:,} problems that neither model was "
            "trained on."
        ),
        columns=["model", "training problems", "steps × batch", "digits correct", "sums correct"],
        rows=rows,
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"
