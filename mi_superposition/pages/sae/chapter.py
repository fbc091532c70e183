"""The report's chapter on sparse autoencoders: the bundled one, its baselines, and whether such a thing finds true features."""

from __future__ import annotations

from mi_superposition.models import FEATURES
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.pages.sae import evaluate, recover
from mi_superposition.parts import DoubleDevicePart, TextPart
from mi_superposition.sae import SaeEvaluateConfig, SaeRecoverConfig
from mi_superposition.sae.catalogue import BUNDLED_SAES, EVALUATION_FOLDER
from mi_superposition.site import Page, Section
from mi_superposition.site.records import UNITS, Item, Link, TableRecord
from mi_superposition.studies.sae import evaluate as evaluation_study
from mi_superposition.studies.sae import recover as recovery_study
from mi_superposition.studies.sae.evaluate import SaeEvaluation
from mi_superposition.studies.sae.rows import AUTOENCODER, PCA, RANDOM, SHUFFLED

TITLE = "Features from a sparse autoencoder"
NAME = "stories"
_FULL_DOCUMENTS = 1000


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """The evaluation that was made when the autoencoder was trained, or one on real stories; and toy models."""
    evaluation = Job("sae evaluate", bundled=BUNDLED_SAES[NAME] / EVALUATION_FOLDER)
    if request.real is not None:
        corpus, split = request.real.texts("tinystories", "train")
        text = TextPart(corpus=corpus, split=split, documents=_FULL_DOCUMENTS)
        config = SaeEvaluateConfig(sae=NAME, model=NAME, text=text, device=DoubleDevicePart("cpu"))
        evaluation = Job("sae evaluate", config, kept=True)
    return {"evaluation": evaluation, "recovery": Job("sae recover", SaeRecoverConfig())}


def section(runs: Runs, request: ChapterRequest) -> Section:
    """The chapter, from the folders of its runs."""
    evaluation = evaluation_study.load(runs["sae"]["evaluation"])
    recovery = recovery_study.load(runs["sae"]["recovery"])
    numbers, hook = evaluation.of(evaluation.main.sae), evaluation.main.hook
    own = numbers[AUTOENCODER]
    explained = {kind: f"{one['explained_variance']:.3f}" for kind, one in numbers.items()}
    items: list[Item] = [recover.table(recovery), *evaluate.items(evaluation)]
    if "neuroscope" in request.chapters:
        items.append(_pages_table(f"{hook}{FEATURES}", int(own["features"])))
    return Section(
        slug="sae",
        title=TITLE,
        summary="A dictionary of directions of which only a few are active per token: how much of the residual stream they explain, how much of the model's loss they recover, and how they share dimensions and neurons.",
        number=f"{explained[AUTOENCODER]} explained",
        number_is=f"of the held-out variance, with {own['l0']:.0f} of {own['features']:,} features per token",
        control=f"{explained[SHUFFLED]} for an SAE of a weight-shuffled model, evaluated on that model; {explained[PCA]} for as many principal components, {explained[RANDOM]} for random directions",
        page=Page(
            slug="sae",
            title=TITLE,
            intro=f"A top-k SAE (SAELens) on {hook} of the bundled story model. Explained variance does not prove that features are meaningful: an SAE of a model with shuffled weights explains {explained[SHUFFLED]} of the variance of that model's activations{_where_more(evaluation)}.",
            items=items,
        ),
    )


def _pages_table(features: str, n_features: int) -> TableRecord:
    return TableRecord(
        id="pages",
        title="A page for every feature",
        look_at="One page per feature: texts where it is active, the tokens its decoder promotes, similar features, and the neurons it reads from.",
        columns=["hook", "features"],
        rows=[[Link(features, f"{UNITS}/{features}.html"), f"{n_features:,}"]],
    )


def _where_more(evaluation: SaeEvaluation) -> str:
    """Those sparsities at which an SAE of a shuffled model explains more of that model than ours does of this one."""
    explained = {(row.sae, row.kind): row.numbers["explained_variance"] for row in evaluation.rows}
    return "".join(
        f"; with {row.numbers['l0']:.0f} features per token it explains {explained[row.sae, SHUFFLED]:.3f}, more than "
        f"the original model's SAE explains of the original model ({explained[row.sae, AUTOENCODER]:.3f})"
        for row in evaluation.rows
        if row.kind == AUTOENCODER and explained.get((row.sae, SHUFFLED), 0.0) > explained[row.sae, AUTOENCODER]
    )
