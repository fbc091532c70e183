"""The report's chapter on toy models: the nine studies."""

from __future__ import annotations

from typing import get_args

from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.pages.toy.study import main_figure, page, showing
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.site.records import Link, TableRecord
from mi_superposition.studies.toy.directions import TENTH, DirectionsStudy
from mi_superposition.studies.toy.study import COMMAND, load
from mi_superposition.toy.config import StudyName, ToyStudyConfig
from mi_superposition.toy.models import bundled_study

ALTERNATIVES = (
    Alternative(
        "other sparsities",
        "with ReLU two antipodal pairs at sparsity 0.5, a pentagon at 0.9; without ReLU 2 features at any sparsity",
        "mi-superposition toy study directions --out RUN",
        "toy.md",
    ),
    Alternative(
        "every instance of another recipe, not the best of ours (Pramodith B.'s model, sparsity 0.5)",
        "all five features in 0 of 24 instances: what is shown is what a bottleneck can do, not what it always does",
        "python scripts/replicas/pramodith_toy.py",
        "sources.md",
    ),
    Alternative(
        "dropout in training",
        "equally important, very sparse features stay in superposition (40.0 of 40 in 10 dimensions at sparsity 0.99); moderately sparse ones less "
        "(26.5 and 39.3 at 0.90)",
        "mi-superposition toy study dropout --out RUN",
        "toy.md",
    ),
    Alternative(
        "correlated features, in place of independent ones",
        "two pairs in 2 dimensions: correlated features share a direction up to sparsity 0.70 and are orthogonal from 0.80",
        "mi-superposition toy study correlation --out RUN",
        "toy.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """The nine studies by name: as they come with the package, or of the sources' size."""
    names: tuple[StudyName, ...] = get_args(StudyName)
    if request.real is None:
        return {name: Job(COMMAND, bundled=bundled_study(name)) for name in names}
    return {name: Job(COMMAND, ToyStudyConfig(study=name, full=True), kept=True) for name in names}


def headline(study: DirectionsStudy) -> Headline:
    """Whether more features than the two dimensions are represented, and only with ReLU and training."""
    kept, linear = (int(study.represented[name][TENTH]) for name in ("relu", "linear"))
    return Headline(
        kept,
        {"dimensions": 2, "without ReLU": linear, "before training": float(study.untrained_represented[TENTH])},
        yes="With ReLU and sparse features, more features than dimensions are represented",
        no="There is no sign of superposition",
    )


def section(runs: Runs, request: ChapterRequest) -> Section:  # noqa: ARG001
    """The chapter, from the folders of its runs."""
    studies = {name: load(folder) for name, folder in runs["toy"].items()}
    pages = {name: page(study) for name, study in studies.items()}
    directions = studies["directions"]
    assert isinstance(directions, DirectionsStudy)
    kept, kept_linear = (int(directions.represented[name][TENTH]) for name in ("relu", "linear"))
    table = TableRecord(
        id="toy-studies",
        title="The nine studies",
        look_at="Each link opens the study's figures and controls.",
        columns=["study", "outcome"],
        rows=[
            [Link(pages[name].title, f"{pages[name].slug}.html"), showing(study.config.study).outcome(study)]
            for name, study in studies.items()
        ],
        words=("outcome",),
    )
    return Section(
        slug="toy",
        title="Toy models",
        summary="When and how features share dimensions, in bottlenecks, single neurons and small computations.",
        number=f"{kept} in 2",
        number_is="features represented, and number of dimensions, at sparsity 0.9",
        control=f"{kept_linear} without ReLU, {float(directions.untrained_represented[TENTH]):.1f} before training",
        page=Page(
            slug="toy",
            title="Toy models of superposition",
            intro=(
                "Small models with synthetic features show when superposition occurs and what it looks like. Unless stated otherwise, "
                "figures show the best of several instances by held-out loss; the last table of each page lists the losses of all instances."
            ),
            items=[table, main_figure(pages["directions"].items)],
        ),
        more=list(pages.values()),
        headline=headline(directions),
        alternatives=ALTERNATIVES,
    )
