"""The report's section on sparse autoencoders: the bundled one, its table, and whether such a thing finds true features."""

from __future__ import annotations

from collections.abc import Callable

from mi_superposition.models import load_model
from mi_superposition.runs import read_json
from mi_superposition.sae import load_sae
from mi_superposition.sae.files import BUNDLED_SAES
from mi_superposition.site import Page, Section
from mi_superposition.site.records import Link, TableRecord
from mi_superposition.studies.sae.evaluation import EVALUATION, read_rows
from mi_superposition.studies.sae.ground_truth import N_FEATURES, N_HIDDEN, Recovery, feature_recovery
from mi_superposition.studies.sae.page import evaluation_items
from mi_superposition.studies.sae.rows import PCA, RANDOM, SAE, SHUFFLED

NAME = "stories"


def sae_section(on_stage: Callable[[str], None]) -> Section:
    """The table that was written with the bundled autoencoder, and what its weights, a sentence and toy models say."""
    on_stage("sparse autoencoder")
    model, sae = load_model(NAME, device="cpu"), load_sae(NAME)
    rows = read_rows(BUNDLED_SAES[NAME])
    bundled = read_json(BUNDLED_SAES[NAME] / EVALUATION)["bundled"]
    main = next(row for row in rows if row.sae == bundled and row.kind == SAE)
    numbers = {row.kind: row.numbers for row in rows if row.sae == bundled}
    on_stage("sparse autoencoder, true features")
    recovery = feature_recovery()
    features = f"{sae.cfg.metadata.hook_name}.features"
    return Section(
        slug="sae",
        title="Features from a sparse autoencoder",
        summary="Directions of which a few are active at a time: how much of the residual stream they explain, what the model makes of their sum, and how they share its dimensions and neurons.",
        number=f"{numbers[SAE]['explained_variance']:.3f} explained",
        number_is=f"share of the held-out variance, with {numbers[SAE]['l0']:.0f} of {sae.cfg.d_sae:,} features a token",
        control=f"{numbers[PCA]['explained_variance']:.3f} by as many principal components, {numbers[RANDOM]['explained_variance']:.3f} by random directions",
        page=Page(
            slug="sae",
            title="Features from a sparse autoencoder",
            intro=f"A top-k autoencoder of SAELens's on {sae.cfg.metadata.hook_name} of the bundled story model. Variance explained is no proof of meaning: an autoencoder of a model with shuffled weights explains {numbers[SHUFFLED]['explained_variance']:.3f} of that model's activations.",
            items=[
                _recovery_table(recovery),
                *evaluation_items(rows, model, sae, main=main),
                TableRecord(
                    id="pages",
                    title="A page for every feature",
                    look_at="Texts it is active on, what its decoder writes, the features most like it, and the neurons it reads from.",
                    columns=["hook", "features"],
                    rows=[[Link(features, f"neurons/{features}.html"), f"{sae.cfg.d_sae:,}"]],
                ),
            ],
        ),
    )


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
