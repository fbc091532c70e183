"""What a model keeps of concepts: directions, probes, correlations, and the units that concepts share."""

from mi_superposition.concepts.directions import (
    ConceptDirections,
    Separation,
    concept_directions,
    principal_coordinates,
    separation,
)
from mi_superposition.concepts.overlap import effect_sizes, mean_shared, shared_units, top_units
from mi_superposition.concepts.pooling import masked_mean, pool_texts
from mi_superposition.concepts.probe import bag_of_words_accuracy, balanced_accuracy, probe_accuracy
from mi_superposition.concepts.simple import SimpleLanguageModel
from mi_superposition.concepts.words import held, load_concepts, random_lists, sentences

__all__ = [
    "ConceptDirections",
    "Separation",
    "SimpleLanguageModel",
    "bag_of_words_accuracy",
    "balanced_accuracy",
    "concept_directions",
    "effect_sizes",
    "held",
    "load_concepts",
    "masked_mean",
    "mean_shared",
    "pool_texts",
    "principal_coordinates",
    "probe_accuracy",
    "random_lists",
    "sentences",
    "separation",
    "shared_units",
    "top_units",
]
