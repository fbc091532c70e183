"""How sparse, and how important, features must be to share dimensions.

    python scripts/toy_sparsity.py            # a minute and a half on two cores
    python scripts/toy_sparsity.py --full     # 400 features in 30 dimensions, as in the source

`mi-superposition toy study sparsity` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.sparsity import IMPORTANCES, PROBABILITIES, STAIR_PROBABILITIES, STUDY, superposed
from mi_superposition.studies.toy.study import StudySize, study_models
from mi_superposition.toy.geometry import dimensions_per_feature, represented, shape_counts


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    for name in ("phase", "phase_linear"):
        print(
            f"\n{name}: # where two features share one dimension; importance {IMPORTANCES[0]:g} to {IMPORTANCES[-1]:g}"
        )
        for probability, row in zip(PROBABILITIES, superposed(models[name]), strict=True):
            print(f"sparsity {1 - probability:.2f}  {''.join('#' if both else '.' for both in row)}")
    stairs = models["staircase"]
    print(f"\n{stairs.config.n_features} features in {stairs.config.n_hidden} dimensions")
    for probability, W in zip(STAIR_PROBABILITIES, stairs.W_in, strict=True):
        print(
            f"sparsity {1 - probability:.3f}  {float(dimensions_per_feature(W)):.2f} dimensions a feature, "
            f"{int(represented(W))} represented: {shape_counts(W)}"
        )
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
