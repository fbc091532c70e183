"""The report's section on sparse autoencoders: the bundled one, its table, and whether such a thing finds true features."""

from __future__ import annotations

from mi_superposition.models import FEATURES, load_model
from mi_superposition.runs import read_json
from mi_superposition.sae import load_sae
from mi_superposition.sae.files import BUNDLED_SAES
from mi_superposition.site import Page, Section
from mi_superposition.site.records import UNITS, Link, TableRecord
from mi_superposition.studies.request import SectionRequest
from mi_superposition.studies.sae.evaluation import (
    EVALUATION,
    EvaluationRequest,
    load_evaluation,
    read_rows,
    write_sae_evaluation,
)
from mi_superposition.studies.sae.ground_truth import N_FEATURES, N_HIDDEN, Recovery, feature_recovery
from mi_superposition.studies.sae.page import evaluation_items
from mi_superposition.studies.sae.rows import PCA, RANDOM, SAE, SHUFFLED, Row
from mi_superposition.studies.sae.training import TextRequest

TITLE = "Features from a sparse autoencoder"
NAME = "stories"
_FULL_DOCUMENTS = 1000


def sae_section(request: SectionRequest) -> Section:
    """The table that was written with the bundled autoencoder, or that of its evaluation on real stories, and what its weights,
    a sentence and toy models say.
    """
    request.on_stage("evaluation")
    model, sae = load_model(NAME, device="cpu"), load_sae(NAME)
    rows, bundled = _rows(request)
    main = next(row for row in rows if row.sae == bundled and row.kind == SAE)
    numbers = {row.kind: row.numbers for row in rows if row.sae == bundled}
    request.on_stage("true features")
    recovery = feature_recovery()
    features = f"{sae.cfg.metadata.hook_name}{FEATURES}"
    return Section(
        slug="sae",
        title=TITLE,
        summary="Directions of which a few are active at a time: how much of the residual stream they explain, what the model makes of their sum, and how they share its dimensions and neurons.",
        number=f"{numbers[SAE]['explained_variance']:.3f} explained",
        number_is=f"share of the held-out variance, with {numbers[SAE]['l0']:.0f} of {sae.cfg.d_sae:,} features a token",
        control=f"{numbers[SHUFFLED]['explained_variance']:.3f} by an autoencoder of a model with shuffled weights, of that model; {numbers[PCA]['explained_variance']:.3f} by as many principal components, {numbers[RANDOM]['explained_variance']:.3f} by random directions",
        page=Page(
            slug="sae",
            title=TITLE,
            intro=f"A top-k autoencoder of SAELens's on {sae.cfg.metadata.hook_name} of the bundled story model. Variance explained is no proof of meaning: an autoencoder of a model with shuffled weights explains {numbers[SHUFFLED]['explained_variance']:.3f} of that model's activations{_where_more(rows)}.",
            items=[
                _recovery_table(recovery),
                *evaluation_items(rows, model, sae, main=main),
                *(
                    [
                        TableRecord(
                            id="pages",
                            title="A page for every feature",
                            look_at="Texts it is active on, what its decoder writes, the features most like it, and the neurons it reads from.",
                            columns=["hook", "features"],
                            rows=[[Link(features, f"{UNITS}/{features}.html"), f"{sae.cfg.d_sae:,}"]],
                        )
                    ]
                    if "neuroscope" in request.sections
                    else []
                ),
            ],
        ),
    )


def _where_more(rows: list[Row]) -> str:
    """Those sparsities at which one of a shuffled model explains more of that model than ours does of this one."""
    explained = {(row.sae, row.kind): row.numbers["explained_variance"] for row in rows if row.kind in (SAE, SHUFFLED)}
    more = [
        f"with {row.numbers['l0']:.0f} features a token even more ({explained[row.sae, SHUFFLED]:.3f}) than ours of this one ({explained[row.sae, SAE]:.3f})"
        for row in rows
        if row.kind == SAE and explained.get((row.sae, SHUFFLED), 0.0) > explained[row.sae, SAE]
    ]
    return "".join(f", {one}" for one in more)


def _rows(request: SectionRequest) -> tuple[list[Row], str]:
    """The table, and which of its autoencoders is the bundled one."""
    if request.real is None:
        return read_rows(BUNDLED_SAES[NAME]), read_json(BUNDLED_SAES[NAME] / EVALUATION)["bundled"]
    corpus, split = request.real.texts("tinystories", "train")
    evaluation = EvaluationRequest(
        NAME, TextRequest(model=NAME, corpus=corpus, split=split, device="cpu"), documents=_FULL_DOCUMENTS
    )
    out = request.real.runs / "sae-evaluation"
    write_sae_evaluation(
        out, evaluation, on_progress=lambda by, state: request.on_progress(state), should_stop=request.should_stop
    )
    return load_evaluation(out), NAME


def _recovery_table(recovery: Recovery) -> TableRecord:
    columns = {
        "autoencoder, sparsity 0.95 as the toy model had": recovery.sparse,
        "autoencoder, every feature always active": recovery.dense,
        "as many random directions": recovery.random,
    }
    return TableRecord(
        id="ground-truth",
        title="Where the true features are known",
        look_at=f"A toy model keeps {N_FEATURES} features in {N_HIDDEN} dimensions; an autoencoder sees only those dimensions. For each true feature the cosine with the nearest decoder direction. With every feature always active, the same directions are found no better than random ones come near them.",
        columns=["decoder", "mean", "least"],
        rows=[[name, f"{values.mean():.3f}", f"{values.min():.3f}"] for name, values in columns.items()],
    )
