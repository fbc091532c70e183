"""The report's chapter on sparse autoencoders: the bundled one, its baselines, and whether such a thing finds true features."""

from __future__ import annotations

from mi_superposition.models import FEATURES
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.pages.sae import evaluate, recover
from mi_superposition.parts import DoubleDevicePart, TextPart
from mi_superposition.sae import SaeEvaluateConfig, SaeRecoverConfig
from mi_superposition.sae.catalogue import BUNDLED_SAES, EVALUATION_FOLDER, REAL_EVALUATION_FOLDER
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative, Headline
from mi_superposition.site.records import UNITS, Item, Link, TableRecord
from mi_superposition.studies.sae import evaluate as evaluation_study
from mi_superposition.studies.sae import recover as recovery_study
from mi_superposition.studies.sae.evaluate import SaeEvaluation
from mi_superposition.studies.sae.rows import AUTOENCODER, KINDS, SHUFFLED, strongest

TITLE = "Features from a sparse autoencoder"
NAME = "stories"
_FULL_DOCUMENTS = 1000
_ON_REAL_STORIES = "mi-superposition sae evaluate --sae stories --corpus validation.parquet --control-corpus train.parquet --pursuit-tokens 30000 --out RUN"
ALTERNATIVES = (
    Alternative(
        "the loss of the model, not the variance",
        "the same: cross-entropy 2.071 with the SAE, 2.046 with training activations by matching pursuit",
        _ON_REAL_STORIES,
        "sae.md",
    ),
    Alternative(
        "as cheap an encoding for both: no search",
        "the SAE explains 0.901, the training activations 0.768: encoding without a search is what training buys",
        _ON_REAL_STORIES,
        "sae.md",
    ),
    Alternative(
        "the same search for both",
        "the SAE's directions explain 0.930, the training activations 0.907",
        _ON_REAL_STORIES,
        "sae.md",
    ),
    Alternative(
        "text that the model wrote itself",
        "the same: 0.922 for the SAE, 0.924 for training activations by matching pursuit",
        "mi-superposition sae evaluate --sae stories --corpus stories --control-tokens 0 --documents 60 --pursuit-tokens 20000 --out RUN",
        "sae.md",
    ),
    Alternative(
        "a model that learnt nothing (its weights shuffled)",
        "an SAE of it explains 0.878 of it",
        _ON_REAL_STORIES,
        "sae.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """The evaluation of several sparsities that was made when the autoencoder was trained, and that of the bundled one on real stories,
    or one measured anew on real stories; and toy models.
    """
    folder, recovery = BUNDLED_SAES[NAME], Job("sae recover", SaeRecoverConfig())
    if request.real is not None:
        corpus, split = request.real.texts("tinystories", "train")
        text = TextPart(corpus=corpus, split=split, documents=_FULL_DOCUMENTS)
        config = SaeEvaluateConfig(sae=NAME, model=NAME, text=text, device=DoubleDevicePart("cpu"))
        return {"evaluation": Job("sae evaluate", config, kept=True), "recovery": recovery}
    return {
        "evaluation": Job("sae evaluate", bundled=folder / EVALUATION_FOLDER),
        "real": Job("sae evaluate", bundled=folder / REAL_EVALUATION_FOLDER),
        "recovery": recovery,
    }


def section(runs: Runs, request: ChapterRequest) -> Section:
    """The chapter, from the folders of its runs. Its number is that on real stories, which the bundled model did not write."""
    folders = runs["sae"]
    evaluation = evaluation_study.load(folders["evaluation"])
    real = evaluation_study.load(folders["real"]) if "real" in folders else evaluation
    recovery = recovery_study.load(folders["recovery"])
    numbers, hook = real.of(real.main.sae), real.main.hook
    own = numbers[AUTOENCODER]
    explained = {kind: f"{one['explained_variance']:.3f}" for kind, one in numbers.items()}
    items: list[Item] = [] if real is evaluation else evaluate.real_items(real)
    items += [*evaluate.items(evaluation), recover.table(recovery)]
    if "neuroscope" in request.chapters:
        items.append(_pages_table(f"{hook}{FEATURES}", int(own["features"])))
    return Section(
        slug="sae",
        title=TITLE,
        summary="A dictionary of directions of which only a few are active per token: how much of the residual stream they explain, how much of the model's loss they recover, and how they share dimensions and neurons.",
        number=f"{explained[AUTOENCODER]} explained",
        number_is=f"of the variance of real held-out stories, with {own['l0']:.0f} of {own['features']:,} features per token",
        control=f"{evaluate.strongest_baseline(real)}; {explained[SHUFFLED]} for an SAE of a weight-shuffled model, evaluated on that model",
        page=Page(
            slug="sae",
            title=TITLE,
            intro=f"A top-k SAE (SAELens) on {hook} of the bundled story model. {evaluate.what_it_buys(numbers)} Explained variance does not prove that features are meaningful: an SAE of a model with shuffled weights explains {explained[SHUFFLED]} of the variance of that model's activations{_where_more(evaluation)}.",
            items=items,
        ),
        headline=headline(real),
        alternatives=ALTERNATIVES,
    )


def headline(evaluation: SaeEvaluation) -> Headline:
    """Whether the autoencoder explains more than every dictionary that was not trained, and than one of a model that learnt nothing explains of
    that model. Numbers are rounded as they are shown.
    """
    numbers = evaluation.of(evaluation.main.sae)
    best = strongest(numbers)
    explained = {KINDS[best.kind]: best.numbers["explained_variance"]}
    if SHUFFLED in numbers:
        explained["weight-shuffled model"] = numbers[SHUFFLED]["explained_variance"]
    return Headline(
        round(best.autoencoder["explained_variance"], 3),
        {name: round(value, 3) for name, value in explained.items()},
        yes="The autoencoder explains more than any dictionary that was not trained on this model",
        no="Explained variance is no sign that the autoencoder has learnt features",
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
