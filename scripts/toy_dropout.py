"""Whether dropout keeps features out of superposition.

    python scripts/toy_dropout.py

`mi-superposition toy study dropout` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.dropout import DROPOUT, KINDS, PROBABILITIES, STUDY, measured
from mi_superposition.studies.toy.study import StudySize, study_models


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    for kind, name, values in ((one, *found) for one in KINDS for found in measured(models[one]).items()):
        print(f"\n{name}, features {KINDS[kind]}\ndropout        {'  '.join(f'{value:5.2f}' for value in DROPOUT)}")
        for probability, row in zip(PROBABILITIES, values.tolist(), strict=True):
            print(f"sparsity {1 - probability:.2f}  {'  '.join(f'{value:5.2f}' for value in row)}")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
