"""What every neuron of a model responds to, found in one pass over a corpus."""

from mi_superposition.neurons.scan.accumulator import Calibration, ScanAccumulator, ScanSettings
from mi_superposition.neurons.scan.reader import UnitReader, layer_of, mlp_hooks
from mi_superposition.neurons.scan.result import Examples, NeuronScan, UnitScan, documents_needed, scan_result
from mi_superposition.neurons.scan.scan import calibrate, read_documents, scan_batches, scan_neurons

__all__ = [
    "Calibration",
    "Examples",
    "NeuronScan",
    "ScanAccumulator",
    "ScanSettings",
    "UnitReader",
    "UnitScan",
    "calibrate",
    "documents_needed",
    "layer_of",
    "mlp_hooks",
    "read_documents",
    "scan_batches",
    "scan_neurons",
    "scan_result",
]
