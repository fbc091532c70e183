"""Whether neurons can compute |x| of more features than there are neurons.

    python scripts/toy_absolute.py

`mi-superposition toy study absolute` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.absolute import (
    PROBABILITIES,
    STUDY,
    dealt_anew,
    motifs_by_instance,
    pairs_by_instance,
)
from mi_superposition.studies.toy.study import StudySize, study_models
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    hundred, pairs, motif = (models[name] for name in ("hundred", "pairs", "motif"))
    print("sparsity  loss / constant's  monosemantic of 40  features a neuron")
    for row, probability in enumerate(PROBABILITIES):
        W = hundred.W_in[row]
        print(
            f"{1 - probability:8.3f}  {float(hundred.best_loss[row] / hundred.constant_loss[row]):17.3f}  "
            f"{int(monosemantic(W).sum()):18d}  {float(features_per_neuron(W).mean()):17.1f}"
        )
    print(f"\nfeatures computed by pairs, by instance, best first: {pairs_by_instance(pairs.weights).tolist()}")
    print(f"each neuron's features dealt anew: {pairs_by_instance(dealt_anew(pairs.weights)).tolist()}")
    print(f"asymmetric motifs by instance: {motifs_by_instance(motif.weights).tolist()}")
    print(f"each neuron's features dealt anew: {motifs_by_instance(dealt_anew(motif.weights)).tolist()}")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
