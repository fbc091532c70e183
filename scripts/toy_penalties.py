"""Whether L1, or features of uneven sparsity, make neurons monosemantic.

    python scripts/toy_penalties.py

`mi-superposition toy study penalties` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.penalties import ACTIVATIONS, L1, SPARSITIES, STUDY, mean_share
from mi_superposition.studies.toy.study import StudySize, study_models


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    print(f"polysemantic share of neurons   L1 {'  '.join(f'{weight:6g}' for weight in L1)}")
    for name, label in ACTIVATIONS.items():
        for sparsity, row in zip(SPARSITIES, mean_share(models[name]).tolist(), strict=True):
            print(f"{label}, {sparsity:25}   {'  '.join(f'{value:6.2f}' for value in row)}")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
