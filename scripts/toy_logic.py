"""Which activation computes AND, OR, max and x² better.

    python scripts/toy_logic.py

`mi-superposition toy study logic` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.logic import ACTIVATIONS, PROBABILITIES, STUDY, comparisons
from mi_superposition.studies.toy.study import StudySize, study_models


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    print("loss / best constant's: best, median, worst instance")
    for (task, row), found in comparisons(models).items():
        said = []
        for activation, label in ACTIVATIONS.items():
            trained = models[f"{task}-{activation}"]
            share = trained.loss[row] / trained.constant_loss[row]
            said.append(f"{label} {float(share.min()):.3f} {float(share.median()):.3f} {float(share.max()):.3f}")
        sure = "sure" if found.sure else "not sure"
        print(
            f"{task:6} sparsity {1 - PROBABILITIES[row]:.2f}  {'   '.join(said)}   lower median: {found.median}, {sure}"
        )
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
