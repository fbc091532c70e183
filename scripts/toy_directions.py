"""Which of five features a two-dimensional bottleneck keeps, and where it puts them.

    python scripts/toy_directions.py                 # half a minute on two cores
    python scripts/toy_directions.py --instances 256

`mi-superposition toy study directions` does the same into a run folder, with figures.
"""

from __future__ import annotations

import tyro

from mi_superposition.studies.toy.directions import PROBABILITIES, STUDY
from mi_superposition.studies.toy.study import StudySize, study_models
from mi_superposition.toy.geometry import angles, feature_norms, shape_counts


def main() -> None:
    """Print the study."""
    models = study_models(STUDY, tyro.cli(StudySize, description=__doc__))
    for name, trained in models.items():
        print(
            f"\n{name}, best of {trained.loss.shape[1]}\nsparsity  loss / constant's  norms of the features           figures"
        )
        for setting, W in zip(trained.config.settings, trained.W_in, strict=True):
            row = trained.config.settings.index(setting)
            norms = " ".join(f"{norm:.2f}" for norm in feature_norms(W).tolist())
            share = float(trained.best_loss[row] / trained.constant_loss[row])
            print(f"{1 - setting.probability:8.2f}  {share:17.3f}  {norms:32}  {shape_counts(W)}")
    print("\nangles at sparsity 0.9, degrees")
    for row in angles(models["relu"].W_in[PROBABILITIES.index(0.1)]).tolist():
        print("  ".join(f"{angle:4.0f}" for angle in row))
    print(f"\n{STUDY.outcome(models)}")


if __name__ == "__main__":
    main()
