"""Whether neurons can compute |x| of more features than there are neurons.

    python scripts/toy_absolute.py

`mi-superposition toy study absolute` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.absolute import PROBABILITIES, STUDY, motifs_by_instance, pairs_by_instance
from mi_superposition.studies.toy.study import StudySize, study_models
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic
from mi_superposition.toy.train import initial_weights


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
    print(f"\npairs by instance, best first: {pairs_by_instance(pairs.weights).tolist()}")
    print(f"untrained: {int(pairs_by_instance(initial_weights(pairs.config)).sum())} in all")
    print(f"asymmetric motifs by instance: {motifs_by_instance(motif.weights).tolist()}")
    print(f"untrained: {int(motifs_by_instance(initial_weights(motif.config)).sum())} in all")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
