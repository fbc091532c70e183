"""MLP neurons: how alike they are, in what order they lie best, and what of it sorting alone would give."""

from mi_superposition.linalg import cosine_similarity, inner_products
from mi_superposition.neurons.cluster import ClusterOrder, cluster_neurons
from mi_superposition.neurons.control import Control, control_vectors, measure_control, randomised
from mi_superposition.neurons.order import NeuronOrder, neighbour_similarity, order_neurons
from mi_superposition.neurons.scan import NeuronScan, ScanSettings, scan_neurons
from mi_superposition.neurons.similarity import NeuronVectors, neuron_correlations, neuron_vectors
from mi_superposition.neurons.spots import Spot, find_spots

__all__ = [
    "ClusterOrder",
    "Control",
    "NeuronOrder",
    "NeuronScan",
    "NeuronVectors",
    "ScanSettings",
    "Spot",
    "cluster_neurons",
    "control_vectors",
    "cosine_similarity",
    "find_spots",
    "inner_products",
    "measure_control",
    "neighbour_similarity",
    "neuron_correlations",
    "neuron_vectors",
    "order_neurons",
    "randomised",
    "scan_neurons",
]
