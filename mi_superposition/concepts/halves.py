"""A probe's accuracy over many halvings of each concept's words, with the layer chosen on the training half alone, and its controls.

One halving says little: which words are held out moves the accuracy by several points. And the best of many layers on held-out texts is too
good: the layer is chosen by cross-validation within the training half.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from torch import Tensor

from mi_superposition.concepts.probe import bag_of_words_accuracy, balanced_accuracy, probe_accuracy, probe_predictions
from mi_superposition.concepts.split import ConceptSplit
from mi_superposition.linalg import unit_rows

# Words with vectors: the most frequent ones, in at least so many texts.
_VOCABULARY, _LEAST_TEXTS = 4000, 5
_D_WORD = 128


@dataclass(frozen=True)
class HalvesMeasured:
    """Balanced accuracies on held-out texts, one for each halving, the layer chosen on training texts alone.

    ``layers`` are those chosen for the trained model. ``bag_of_words``: which other words a text contains. Where concepts are word lists,
    ``word_vectors``: the mean of co-occurrence vectors of all of a text's words, without a model; ``denied``: the trained model reading the
    texts with their concept words left out.
    """

    layers: tuple[str, ...]
    trained: tuple[float, ...]
    untrained: tuple[float, ...]
    bag_of_words: tuple[float, ...]
    word_vectors: tuple[float, ...] = field(default=())
    denied: tuple[float, ...] = field(default=())

    def mean(self, name: str) -> float:
        """Mean over halvings of one of the accuracies."""
        values = getattr(self, name)
        return sum(values) / len(values)

    def deviation(self, name: str) -> float:
        """Their standard deviation; 0 for a single halving."""
        values = torch.tensor(getattr(self, name), dtype=torch.float64)
        return float(values.std()) if len(values) > 1 else 0.0

    @property
    def usual_layer(self) -> str:
        """The layer chosen most often."""
        return Counter(self.layers).most_common(1)[0][0]


def measure_halves(
    splits: Sequence[ConceptSplit],
    trained: Mapping[str, Float[Tensor, "text _d"]],
    untrained: Mapping[str, Float[Tensor, "text _d"]],
    *,
    texts: Sequence[str],
    without: Sequence[str],
    word_vectors: Float[Tensor, "text e"] | None = None,
    denied: Mapping[str, Float[Tensor, "text _d"]] | None = None,
    on_split: Callable[[], None] = lambda: None,
) -> HalvesMeasured:
    """Measure every split. Activations are of all texts, by layer; ``without`` are words that a bag of words is not to see."""
    found: dict[str, list[float]] = {
        name: [] for name in ("trained", "untrained", "bag_of_words", "word_vectors", "denied")
    }
    layers = []
    for split in splits:
        on_split()
        layer, accuracy = nested_accuracy(trained, split)
        layers.append(layer)
        found["trained"].append(accuracy)
        found["untrained"].append(nested_accuracy(untrained, split)[1])
        train, test = split.train.of_concepts(), split.test.of_concepts()
        train_texts, test_texts = ([texts[index] for index in side.index.tolist()] for side in (train, test))
        found["bag_of_words"].append(
            bag_of_words_accuracy(train_texts, train.labels, test_texts, test.labels, without=without)
        )
        if word_vectors is not None:
            found["word_vectors"].append(_accuracy(word_vectors, split))
        if denied is not None:
            found["denied"].append(nested_accuracy(denied, split)[1])
    return HalvesMeasured(tuple(layers), **{name: tuple(values) for name, values in found.items()})


def nested_accuracy(layers: Mapping[str, Float[Tensor, "text _d"]], split: ConceptSplit) -> tuple[str, float]:
    """The layer that a two-fold cross-validation within the training texts finds best (of equals the first), and the accuracy there on the
    held-out texts. No word is in both folds, and the held-out texts are not looked at.
    """
    layer = max(layers, key=lambda name: cross_validated(layers[name], split))
    return layer, _accuracy(layers[layer], split)


def cross_validated(points: Float[Tensor, "text d"], split: ConceptSplit) -> float:
    """Balanced accuracy within the training texts: each fold predicted from the other; 0 where a fold has texts of one concept only."""
    train = split.train.of_concepts()
    fold = _folds(train.labels, train.groups)
    predicted = torch.full_like(train.labels, -1)
    for held_out in (False, True):
        learnt, asked = fold != held_out, fold == held_out
        if not bool(asked.any()) or len(train.labels[learnt].unique()) < 2:
            return 0.0
        predicted[asked] = probe_predictions(
            points[train.index[learnt]], train.labels[learnt], points[train.index[asked]]
        )
    return balanced_accuracy(predicted, train.labels)


def _folds(labels: Int[Tensor, " text"], groups: Int[Tensor, " text"]) -> Tensor:
    """For each text, as booleans, which of two folds it is in: the groups (words) of each concept by turns, from the largest on."""
    fold = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        own = labels == label
        sizes = Counter(groups[own].tolist())
        for number, (group, _) in enumerate(sizes.most_common()):
            fold[own & (groups == group)] = bool(number % 2)
    return fold


def _accuracy(points: Float[Tensor, "text d"], split: ConceptSplit) -> float:
    train, test = split.train.of_concepts(), split.test.of_concepts()
    return probe_accuracy(points[train.index], train.labels, points[test.index], test.labels)


def co_occurrence_vectors(words: Sequence[set[str]], *, dimensions: int = _D_WORD) -> Float[Tensor, "text e"]:
    """Each text as the mean of the vectors of its words: singular vectors of positive pointwise mutual information of words in the same text.

    No model is used. Source: Levy & Goldberg 2014, "Neural word embedding as implicit matrix factorization". Texts without a frequent word
    are 0.
    """
    counts = Counter(word for some in words for word in some)
    known = [
        word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= _LEAST_TEXTS
    ]
    place = {word: number for number, word in enumerate(known[:_VOCABULARY])}
    if len(place) < 2:
        return torch.zeros(len(words), 1)
    entries = [(row, place[word]) for row, some in enumerate(words) for word in sorted(some) if word in place]
    rows, columns = zip(*entries, strict=True)
    holds = csr_matrix(([1.0] * len(entries), (rows, columns)), shape=(len(words), len(place)))
    together = torch.from_numpy((holds.T @ holds).toarray()).fill_diagonal_(0)
    total = together.sum(dim=1)
    expected = total[:, None] * total[None, :] / total.sum().clamp_min(1)
    information = (together.clamp_min(1e-12) / expected.clamp_min(1e-12)).log().clamp_min(0)
    decomposed = TruncatedSVD(min(dimensions, len(place) - 1), random_state=0).fit_transform(information.numpy())
    vectors = unit_rows(torch.from_numpy(decomposed).float())
    return torch.from_numpy(holds @ vectors.numpy()).float() / torch.from_numpy(holds.sum(axis=1)).float().clamp_min(1)
