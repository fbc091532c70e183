"""The result of the study: every layer of the model with its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from mi_superposition.concepts.components import PlaneVariance, plane_variance
from mi_superposition.concepts.config import ConceptsConfig
from mi_superposition.concepts.halves import HalvesMeasured
from mi_superposition.concepts.layer import FeaturesMeasured, LayerMeasured, RandomMeasured
from mi_superposition.concepts.overlap import SharedComparison, compare_shared, mean_shared, shared_top_units
from mi_superposition.concepts.probe import balanced_accuracy_error
from mi_superposition.concepts.simple import WordCorrelations
from mi_superposition.results import Result
from mi_superposition.studies.concepts.inputs import State

# Parts of the names of layers of neurons, in language models and in encoders.
_NEURONS = ("mlp", "ffn", "intermediate")


@dataclass(frozen=True, repr=False)
class ConceptsResult(Result):
    """Every layer of the model and of its untrained copy, random word lists, a bag of words, and single words.

    ``trained``, ``untrained`` and ``random`` are by layer, in the order in which the model runs them; ``random`` is empty where the
    concepts are labels. ``labels`` are those of the held-out texts, -1 for none; texts of one of ``groups`` have the same word.
    ``words``: a few words of each concept alone, ``None`` for labels. ``features``: those of the sparse autoencoder, if any.
    ``halves``: accuracies over many halvings, with the layer chosen on training texts; ``None`` in runs of before they were measured.
    """

    DRAWN_BY: ClassVar[str] = "mi_superposition.pages.concepts.measure:figure"

    config: ConceptsConfig
    concepts: tuple[str, ...]
    n_texts: int
    n_train: int
    bag_of_words: float
    trained: Mapping[str, LayerMeasured]
    untrained: Mapping[str, LayerMeasured]
    random: Mapping[str, RandomMeasured]
    labels: Int[Tensor, " text"]
    groups: Int[Tensor, " text"]
    words: WordCorrelations | None = None
    features: FeaturesMeasured | None = None
    halves: HalvesMeasured | None = None

    @property
    def layers(self) -> dict[State, Mapping[str, LayerMeasured]]:
        """Layers by the state of the model."""
        return {"trained": self.trained, "untrained": self.untrained}

    @property
    def by_words(self) -> bool:
        """Whether concepts are word lists, and not labels."""
        return bool(self.random)

    @property
    def chance(self) -> float:
        """Balanced accuracy by chance."""
        return 1 / len(self.concepts)

    @property
    def of_concept(self) -> Tensor:
        """Which held-out texts belong to a concept, as booleans."""
        return self.labels >= 0

    @property
    def n_held_out(self) -> int:
        """Held-out texts of concepts."""
        return int(self.of_concept.sum())

    @property
    def n_held_out_groups(self) -> int:
        """Different groups of these texts: words, or the texts themselves."""
        return len(self.groups[self.of_concept].unique())

    def best(self, state: State) -> str:
        """The layer at which the probe is most accurate; every model has its own."""
        layers = self.layers[state]
        return max(layers, key=lambda name: layers[name].probe)

    @property
    def best_layer(self) -> str:
        """That of the trained model."""
        return self.best("trained")

    def best_probe(self, state: State) -> float:
        """Balanced accuracy of the probe at that layer."""
        return self.layers[state][self.best(state)].probe

    @property
    def best_random(self) -> float:
        """The largest over layers for random word lists (mean of the draws); 0 where there are none."""
        return max((random.probe for random in self.random.values()), default=0.0)

    @property
    def best_shuffled(self) -> float:
        """The largest over layers for shuffled labels."""
        return max(measured.shuffled for measured in self.trained.values())

    @property
    def told_accuracy(self) -> str:
        """The accuracy with its spread: mean and standard deviation over halvings, or that at the best layer with its standard error."""
        if self.halves is None:
            return f"{self.best_probe('trained'):.3f} ± {self.error:.3f}"
        return f"{self.halves.mean('trained'):.3f} ± {self.halves.deviation('trained'):.3f}"

    @property
    def told_how(self) -> str:
        """How that accuracy was measured."""
        if self.halves is None:
            return "one halving, at the layer that is best on the held-out texts"
        of = "words" if self.by_words else "texts"
        return f"mean and standard deviation of {len(self.halves.trained)} random halvings of the {of}, layer chosen on the training half"

    def accuracies(self) -> dict[str, float]:
        """What the trained model's accuracy is compared with, by name; over the same halvings, but for random word lists."""
        bag = "a bag of the other words" if self.by_words else "a bag of words"
        random = {"random word lists": self.best_random} if self.by_words else {}
        if (halves := self.halves) is None:
            found = {bag: self.bag_of_words, "untrained": self.best_probe("untrained")}
        else:
            found = {bag: halves.mean("bag_of_words")}
            if halves.denied:
                found |= {
                    "co-occurrence vectors of all words": halves.mean("word_vectors"),
                    "the model without the concept word": halves.mean("denied"),
                }
            found["untrained"] = halves.mean("untrained")
        return found | random | {"chance": self.chance}

    def shared_comparisons(self) -> list[SharedComparison]:
        """Units that concepts share at every layer and number of top units, beside random word lists; none in older runs."""
        keys = [(layer, k) for layer, random in self.random.items() for k in random.shared_of]
        observed = {(layer, k): mean_shared(shared_top_units(self.trained[layer].effects, k)) for layer, k in keys}
        return compare_shared(observed, {(layer, k): self.random[layer].shared_of[k] for layer, k in keys})

    @cached_property
    def error(self) -> float:
        """Standard error of the trained model's best accuracy, with held-out texts (or words) resampled."""
        some = self.of_concept
        predicted = self.trained[self.best_layer].predicted
        return balanced_accuracy_error(predicted, self.labels[some], self.groups[some], seed=0)

    @cached_property
    def plane(self) -> PlaneVariance:
        """How much of the variance in the plane of two principal components is between concepts, at the best layer."""
        best, some = self.best_layer, self.of_concept
        return plane_variance(
            self.trained[best].coordinates[some],
            self.untrained[best].coordinates[some],
            self.labels[some],
            self.groups[some],
        )

    @property
    def shares_units(self) -> bool:
        """Whether units that concepts share were counted: not where two labels are each other's complement."""
        return all(len(measured.shared) for measured in self.trained.values())

    @property
    def neuron_layer(self) -> str:
        """The last layer of neurons, or the last of all where the model shows none."""
        layers = list(self.trained)
        return ([name for name in layers if any(part in name for part in _NEURONS)] or layers)[-1]

    def unit_effects(self) -> dict[str, Float[Tensor, "concept unit"]]:
        """Effect (Cohen's d) of each concept on each unit of every layer of the trained model, and on each feature."""
        effects = {layer: measured.effects for layer, measured in self.trained.items()}
        return effects if self.features is None else effects | {self.features.name: self.features.effects}

    def summary(self) -> str:
        """The probe's accuracy, with its controls."""
        controls = ", ".join(f"{name} {value:.3f}" for name, value in self.accuracies().items())
        return (
            f"{len(self.concepts)} concepts in {self.config.model.name}: balanced accuracy of a linear probe {self.told_accuracy} "
            f"({self.told_how}; {controls})"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: balanced accuracies of the probe and of the nearest class mean, and the mean number of top units that
        two concepts share, with their controls.
        """
        rows = []
        for layer, trained in self.trained.items():
            untrained, random = self.untrained[layer], self.random.get(layer)
            row: dict[str, float | str] = {
                "layer": layer,
                "units": trained.n_units,
                "probe": trained.probe,
                "probe_untrained": untrained.probe,
                "probe_shuffled_labels": trained.shuffled,
                "class_mean": trained.nearest,
                "class_mean_untrained": untrained.nearest,
            }
            if random is not None:
                row["probe_random_lists"] = random.probe
            if self.shares_units:
                row |= {
                    "shared_units": trained.mean_shared,
                    "shared_units_untrained": untrained.mean_shared,
                    "shared_units_shuffled_labels": trained.chance_shared,
                }
                if random is not None:
                    row["shared_units_random_lists"] = random.mean_shared
            rows.append(row)
        return pd.DataFrame(rows).set_index("layer")

    def metrics(self) -> dict[str, float | int]:
        """All numbers, flat: ``LAYER.NUMBER`` of the trained model, ``LAYER.untrained.NUMBER`` and ``LAYER.random.NUMBER``."""
        metrics: dict[str, float | int] = {
            "chance": self.chance,
            "bag_of_words": self.bag_of_words,
            "texts": self.n_texts,
            "held_out_texts": self.n_held_out,
            "held_out_groups": self.n_held_out_groups,
            "best_probe_error": self.error,
        }
        if self.halves is not None:
            for name in ("trained", "untrained", "bag_of_words", "word_vectors", "denied"):
                if getattr(self.halves, name):
                    metrics[f"halvings.{name}"] = self.halves.mean(name)
                    metrics[f"halvings.{name}.sd"] = self.halves.deviation(name)
            metrics["halvings"] = len(self.halves.trained)
        for one in self.shared_comparisons():
            name = f"{one.layer}.shared_of_{one.k}"
            metrics |= {
                name: one.observed,
                f"{name}.random": one.random,
                f"{name}.p": one.p,
                f"{name}.p_holm": one.adjusted,
            }
        for state, layers in self.layers.items():
            for layer, measured in layers.items():
                prefix = f"{layer}." + ("" if state == "trained" else f"{state}.")
                metrics |= {f"{prefix}{name}": getattr(measured, name) for name in ("probe", "nearest", "shuffled")}
                for concept, separated in zip(self.concepts, measured.separations, strict=True):
                    metrics[f"{prefix}{concept}.difference"] = separated.difference
                    metrics[f"{prefix}{concept}.p"] = separated.p
                if len(measured.shared):
                    metrics[f"{prefix}shared_units"] = measured.mean_shared
                    metrics[f"{prefix}shared_units_by_chance"] = measured.chance_shared
        for layer, random in self.random.items():
            metrics[f"{layer}.random.probe"] = random.probe
            metrics[f"{layer}.random.shared_units"] = random.mean_shared
        if self.features is not None:
            for concept, effects in zip(self.concepts, self.features.effects, strict=True):
                metrics[f"{self.features.name}.{concept}.largest_effect"] = float(effects.abs().max())
            if self.features.random_largest:
                metrics[f"{self.features.name}.random.largest_effect"] = max(self.features.random_largest)
        return metrics
