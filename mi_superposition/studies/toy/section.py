"""The report's section on toy models, from the bundled ones."""

from __future__ import annotations

from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, Link, TableRecord
from mi_superposition.studies.request import SectionRequest
from mi_superposition.studies.toy import STUDIES
from mi_superposition.studies.toy.directions import PROBABILITIES
from mi_superposition.studies.toy.study import Models, StudySize, ToyStudy, bundled_models, train_study, trained_models
from mi_superposition.toy.geometry import represented
from mi_superposition.toy.models import initial_weights

TITLE = "Toy models"
_SHOWN = PROBABILITIES.index(0.1)


def toy_section(request: SectionRequest) -> Section:
    """Measure the bundled toy models, or in full ones of the sources' size trained here, and tell it."""
    pages, outcomes = [], {}
    for study in STUDIES.values():
        request.on_stage(study.name)
        models = _models(study, request)
        pages.append(study.page(models))
        outcomes[study.name] = study.outcome(models)
        if study.name == "directions":
            relu, linear = models["relu"], models["linear"]
    kept, kept_linear = (int(represented(trained.W_in[_SHOWN])) for trained in (relu, linear))
    untrained = float(represented(initial_weights(relu.config).W_in)[_SHOWN].mean())
    first = next(item for item in pages[0].items if isinstance(item, FigureRecord))
    table = TableRecord(
        id="toy-studies",
        title="Nine questions",
        look_at="Each row leads to its figures and controls.",
        columns=["study", "outcome"],
        rows=[[Link(study.title, f"toy-{name}.html"), outcomes[name]] for name, study in STUDIES.items()],
        words=("outcome",),
    )
    items: list[Item] = [table, first]
    return Section(
        slug="toy",
        title=TITLE,
        summary="When features share dimensions, and how: bottlenecks, neurons and computations small enough to see whole.",
        number=f"{kept} in 2",
        number_is="features represented, and dimensions to do it in, at sparsity 0.9",
        control=f"{kept_linear} without ReLU, {untrained:.1f} before training",
        page=Page(
            slug="toy",
            title="Toy models of superposition",
            intro=(
                "Small models with made-up features show when superposition happens and what it looks like. Unless "
                "they say otherwise figures are of the best of several instances by held-out loss; the last table of each page "
                "has the losses of all."
            ),
            items=items,
        ),
        more=pages,
    )


def _models(study: ToyStudy, request: SectionRequest) -> Models:
    if request.real is None:
        return bundled_models(study)
    out, size = request.real.runs / f"toy-{study.name}", StudySize(full=True)
    train_study(
        study,
        out,
        size,
        on_step=lambda by, state: request.on_progress(f"{study.name}: {state}"),
        should_stop=request.should_stop,
    )
    return trained_models(study, out, size)
