"""Linear probes with held-out accuracy, and the same regression on a bag of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mi_superposition.errors import RequestError

# Inverse regularisation strength: keeps probes of a thousand dimensions from learning their texts by heart.
_C = 0.01
_STEPS = 200
_TOLERANCE = 1e-3


def balanced_accuracy(predicted: Int[Tensor, " text"], labels: Int[Tensor, " text"]) -> float:
    """Mean over concepts of the fraction of their texts predicted correctly (0 to 1; by chance 1 over the number of concepts)."""
    return float(balanced_accuracy_score(labels.numpy(), predicted.numpy()))


def probe_predictions(
    points: Float[Tensor, "text d"], labels: Int[Tensor, " text"], held_out: Float[Tensor, "other d"]
) -> Int[Tensor, " other"]:
    """The labels that a logistic regression on standardised activations predicts for held-out texts (a linear probe, Alain &
    Bengio 2016).

    Raises ``RequestError`` for labels of a single concept.
    """
    _check_two(labels)
    probe = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=_C, class_weight="balanced", max_iter=_STEPS, tol=_TOLERANCE),
    )
    probe.fit(points.numpy(), labels.numpy())
    return torch.from_numpy(np.asarray(probe.predict(held_out.numpy())))


def probe_accuracy(
    points: Float[Tensor, "text d"],
    labels: Int[Tensor, " text"],
    held_out: Float[Tensor, "other d"],
    held_out_labels: Int[Tensor, " other"],
) -> float:
    """Balanced accuracy of ``probe_predictions``. Raises as it does."""
    return balanced_accuracy(probe_predictions(points, labels, held_out), held_out_labels)


def balanced_accuracy_error(
    predicted: Int[Tensor, " text"],
    labels: Int[Tensor, " text"],
    groups: Int[Tensor, " text"],
    *,
    seed: int,
    draws: int = 1000,
) -> float:
    """Standard error of the balanced accuracy: its standard deviation when every concept's groups are resampled with replacement.

    Texts of one group (those with the same word) are correct or wrong together, so there are as many independent texts as groups.
    Source: the cluster bootstrap, Davison & Hinkley 1997, chapter 3.8.
    """
    random = np.random.default_rng(seed)
    accuracies = np.zeros(draws)
    concepts = labels.unique()
    for concept in concepts:
        own = labels == concept
        _, group = groups[own].unique(return_inverse=True)
        correct = np.bincount(group.numpy(), weights=(predicted[own] == concept).numpy())
        n = np.bincount(group.numpy())
        drawn = random.integers(len(n), size=(draws, len(n)))
        accuracies += correct[drawn].sum(axis=1) / n[drawn].sum(axis=1)
    return float((accuracies / len(concepts)).std())


def bag_of_words_accuracy(
    texts: Sequence[str],
    labels: Int[Tensor, " text"],
    held_out: Sequence[str],
    held_out_labels: Int[Tensor, " other"],
    *,
    without: Sequence[str] = (),
) -> float:
    """Balanced accuracy of a logistic regression on which words a text contains, without any model.

    ``without`` are words to leave out: words that define the labels of the training texts and never occur in the others
    would be all it learns. Raises as ``probe_accuracy``.
    """
    _check_two(labels)
    probe = make_pipeline(
        CountVectorizer(binary=True, min_df=2, stop_words=list(without) or None),
        LogisticRegression(class_weight="balanced", max_iter=_STEPS),
    )
    probe.fit(list(texts), labels.numpy())
    return float(balanced_accuracy_score(held_out_labels.numpy(), np.asarray(probe.predict(list(held_out)))))


def _check_two(labels: Int[Tensor, " text"]) -> None:
    if len(kinds := labels.unique()) < 2:
        raise RequestError(f"all {len(labels)} texts have the label {int(kinds[0])}: a probe needs two")
