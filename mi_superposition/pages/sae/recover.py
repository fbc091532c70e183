"""The page of a test whether autoencoders find true features."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from mi_superposition.figures.lines import Line, lines
from mi_superposition.sae import FeatureRecovery
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.records import TableRecord
from mi_superposition.studies.sae.recover import load


def sections(folder: Path) -> list[Section]:
    """A finished run as a page."""
    recovery = load(folder)
    sparse, dense, random = (float(cosines.mean()) for cosines in (recovery.sparse, recovery.dense, recovery.random))
    record = FigureRecord(
        id="cosines",
        title="Cosine with the nearest decoder direction",
        look_at="One point per true feature, sorted for each decoder; 1 means that a decoder direction equals the direction of the feature.",
        number=f"{sparse:.3f} on average with sparse features.",
        control=f"{random:.3f} for random directions; {dense:.3f} if all features are always active.",
        figure=figure(recovery),
    )
    page = Page(
        slug="recovery",
        title="Recovery of known features",
        intro="Whether sparse autoencoders find the true features of a toy model, where these are known (Sharkey et al. 2022).",
        items=[table(recovery), record],
    )
    return [
        Section(
            slug="recovery",
            title=page.title,
            summary=page.intro,
            number=f"{sparse:.3f}",
            number_is="mean cosine of a true feature with the nearest decoder direction",
            control=f"{random:.3f} for random directions; {dense:.3f} if all features are always active",
            page=page,
        )
    ]


def figure(recovery: FeatureRecovery) -> go.Figure:
    """Cosines of the true features with the nearest decoder direction, sorted."""
    series = {
        name: Line([float(rank) for rank in range(1, len(cosines) + 1)], cosines.sort(descending=True).values.tolist())
        for name, cosines in _decoders(recovery).items()
    }
    return lines(series, x_title="true features, sorted", y_title="cosine with the nearest decoder direction")


def table(recovery: FeatureRecovery) -> TableRecord:
    """Mean and smallest cosine of each decoder."""
    config = recovery.config
    return TableRecord(
        id="ground-truth",
        title="Toy model with known features",
        look_at=f"A toy model represents {config.n_features} features in {config.n_hidden} dimensions, and an SAE is trained on those dimensions only. For each true feature: cosine with the nearest decoder direction. If every feature is always active, the SAE does not find them better than random directions do.",
        columns=["decoder", "mean", "minimum"],
        rows=[[name, f"{values.mean():.3f}", f"{values.min():.3f}"] for name, values in _decoders(recovery).items()],
    )


def _decoders(recovery: FeatureRecovery) -> dict[str, Float[Tensor, " feature"]]:
    sparsity = 1 - recovery.config.probability
    return {
        f"SAE, sparsity {sparsity:g} (as in the toy model's training)": recovery.sparse,
        "SAE, all features always active": recovery.dense,
        "as many random directions": recovery.random,
    }
