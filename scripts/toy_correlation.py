"""Where a model puts features that occur together, or never together.

    python scripts/toy_correlation.py

`mi-superposition toy study correlation` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.correlation import PROBABILITIES, STUDY, cosine_within_pairs, relation
from mi_superposition.studies.toy.study import StudySize, study_models


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    for name, trained in models.items():
        print(f"\n{name} features: the pairs of the best instance")
        for probability, pairs in zip(PROBABILITIES, cosine_within_pairs(trained.W_in).tolist(), strict=True):
            said = ", ".join(f"{cosine:.2f} {relation(cosine)}" for cosine in pairs)
            print(f"sparsity {1 - probability:.2f}  {said}")
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
