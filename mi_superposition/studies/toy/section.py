"""The report's section on toy models, from the bundled ones."""

from __future__ import annotations

from collections.abc import Callable

from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import Item, Link, TableRecord
from mi_superposition.studies.toy import STUDIES
from mi_superposition.studies.toy.directions import PROBABILITIES
from mi_superposition.studies.toy.study import bundled_models
from mi_superposition.toy.geometry import represented
from mi_superposition.toy.models import initial_weights

_SHOWN = PROBABILITIES.index(0.1)


def toy_section(on_stage: Callable[[str], None] = lambda stage: None) -> Section:
    """Measure the bundled toy models and tell it; ``on_stage`` gets the name of each study as it begins."""
    pages, outcomes = [], {}
    for study in STUDIES.values():
        on_stage(f"toy models: {study.name}")
        models = bundled_models(study)
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
        title="Toy models",
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
