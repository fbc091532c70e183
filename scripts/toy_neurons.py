"""Whether five neurons give each of ten features one of their own.

    python scripts/toy_neurons.py

`mi-superposition toy study neurons` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.neurons import PROBABILITIES, STUDY
from mi_superposition.studies.toy.study import StudySize, study_models
from mi_superposition.toy.geometry import represented
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    trained = models["relu"]
    print("sparsity  monosemantic  represented  features of each neuron (effective number)")
    for probability, W in zip(PROBABILITIES, trained.W_in, strict=True):
        numbers = " ".join(f"{number:.1f}" for number in features_per_neuron(W).tolist())
        print(f"{1 - probability:8.3f}  {int(monosemantic(W).sum()):12d}  {int(represented(W)):11d}  {numbers}")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
