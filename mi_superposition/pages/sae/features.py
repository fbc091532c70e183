"""The features of one autoencoder, as figures with their words."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
import torch

from mi_superposition.figures.neurons import distributions
from mi_superposition.figures.sae import feature_heatmaps, sentence_features
from mi_superposition.linalg import shares_by_bin
from mi_superposition.sae import Fidelity
from mi_superposition.sae.features import Participation
from mi_superposition.site import FigureRecord
from mi_superposition.site.records import Item
from mi_superposition.studies.sae.features import GAUSSIAN, SPECTRUM, TRAINED, LearnedFeatures, Sharing

_KINDS = {TRAINED: "trained", SPECTRUM: "same norms and spectrum", GAUSSIAN: "random"}


def density_figure(fidelity: Fidelity) -> go.Figure:
    """Of how many tokens each feature that ever fired takes part in, the distribution."""
    density = (fidelity.fires[fidelity.fires > 0].double() / fidelity.n_tokens).log10().float()
    return distributions(
        *shares_by_bin({"trained": density}),
        "fraction of tokens on which a feature is active (log10)",
        "fraction of features",
    )


def participation_figure(measured: Participation) -> go.Figure:
    """How many features read from each neuron, the distribution."""
    return _per_neuron({TRAINED: measured.features_of_neuron})


def feature_items(features: LearnedFeatures) -> list[Item]:
    """Everything that is shown of an autoencoder's features."""
    shared = [] if features.sharing is None else [_sharing(features.sharing)]
    return [_nearest(features), *shared, _decoder(features), _sentence(features)]


def _nearest(features: LearnedFeatures) -> FigureRecord:
    """How near each feature's direction is to another one, next to random directions."""
    medians = {kind: float(cosines.median()) for kind, cosines in features.nearest.items()}
    n, d = features.n_features, features.decoder.shape[1]
    groups = {_KINDS[kind]: cosines for kind, cosines in features.nearest.items()}
    return FigureRecord(
        id="crowding",
        title=f"How close {n:,} feature directions in {d} dimensions are",
        look_at=f"With {n / d:.1f} features per dimension (set by the SAE width), the directions cannot all be orthogonal. Shown: for each feature, the cosine with its nearest other feature.",
        number=f"{medians[TRAINED]:.2f}: median cosine with the nearest feature",
        control=f"{medians[GAUSSIAN]:.2f} for as many random directions, {medians[SPECTRUM]:.2f} for random directions with the same norms and singular values",
        figure=distributions(*shares_by_bin(groups), "cosine with the nearest feature", "fraction of features"),
    )


def _sharing(sharing: Sharing) -> FigureRecord:
    """How many features read from each neuron before the hook."""
    per_neuron = {kind: counts.float() for kind, counts in sharing.features_of_neuron.items()}
    means = {kind: float(counts.mean()) for kind, counts in per_neuron.items()}
    per_feature = sharing.neurons_of_feature
    return FigureRecord(
        id="sharing",
        title="Features per neuron",
        look_at=f"For each of the {len(per_neuron[TRAINED]):,} MLP neurons before this hook: the number of features whose encoder direction has a larger |cosine| with the neuron's output direction than 99.9 % of random directions. By this criterion a feature reads from {per_feature[TRAINED]:.1f} neurons on average ({per_feature[SPECTRUM]:.1f} for random directions with the encoder's norms and spectrum).",
        number=f"{means[TRAINED]:.1f} features per neuron on average, median {per_neuron[TRAINED].median():.0f}",
        control=f"{means[GAUSSIAN]:.1f} for random directions, {means[SPECTRUM]:.1f} for random ones with the encoder's norms and spectrum",
        figure=_per_neuron(sharing.features_of_neuron),
    )


def _per_neuron(counts: Mapping[str, torch.Tensor]) -> go.Figure:
    groups = {_KINDS[kind]: values.float() for kind, values in counts.items()}
    # A bin for each number.
    n_bins = int(max(values.max() for values in groups.values())) + 1
    return distributions(*shares_by_bin(groups, n_bins), "features per neuron", "fraction of neurons")


def _decoder(features: LearnedFeatures) -> FigureRecord:
    """The heat map of learned features in Stringer's “Unravelling Superposition”, next to as many random ones."""
    shown, random = features.decoder, features.random_decoder
    peaks = [float((one.abs().amax(dim=1) / one.norm(dim=1)).median()) for one in (shown, random)]
    return FigureRecord(
        id="decoder",
        title="Learned features",
        look_at=f"Decoder directions of {len(shown)} evenly spaced features, one row each, after a heat map in R. A. Stringer, “Unravelling Superposition”. A column that stands out is a dimension used by many features. A feature aligned with one dimension would be a row with one strong entry.",
        number=f"{peaks[0]:.2f}: median of the largest |entry| relative to the norm",
        control=f"{peaks[1]:.2f} for random directions; 1 if each feature were aligned with one dimension",
        figure=feature_heatmaps({"learned": shown, "random": random}),
    )


def _sentence(features: LearnedFeatures) -> FigureRecord:
    """The features of one sentence: bars of their strength, and at which tokens they are active."""
    study = features.sentence
    n = len(study.features.features)
    return FigureRecord(
        id="sentence",
        title="The features of a sentence",
        look_at=f"“{study.sentence}” The features with the largest activation at any token, each named by the tokens whose logits it raises most; bars show the largest activation. Features that depend on context, and not on the token alone, disappear when the same tokens are read in another order.",
        number=f"{study.mean_lost:.1f} of {n} are not among the top {n} when the tokens are shuffled (mean of {len(study.kept_in_random_order)} orders)",
        control=f"0 of {n} if features depended only on their token",
        figure=sentence_features(study.features),
    )
