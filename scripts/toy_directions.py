"""Which of five features a two-dimensional bottleneck represents, and in which directions.

    python scripts/toy_directions.py                    # of the models that come with the package
    python scripts/toy_directions.py --run runs/directions

RUN is made by `mi-superposition toy study directions --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study
from mi_superposition.toy.geometry import angles, feature_norms, shape_counts

BUNDLED = bundled_study("directions")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    for name, trained in study.models.items():
        print(
            f"\n{name}, best of {trained.loss.shape[1]}\nsparsity  loss / constant's  norms of the features           shapes"
        )
        ratios = trained.loss_ratio.amin(dim=1)
        for setting, W, ratio in zip(trained.config.settings, trained.W_in, ratios, strict=True):
            norms = " ".join(f"{norm:.2f}" for norm in feature_norms(W).tolist())
            print(f"{1 - setting.probability:8.2f}  {float(ratio):17.3f}  {norms:32}  {shape_counts(W)}")
    print("\nangles at sparsity 0.9 with ReLU, degrees")
    relu = study.models["relu"]
    for row in angles(relu.W_in[relu.config.probability.index(0.1)]).tolist():
        print("  ".join(f"{angle:4.0f}" for angle in row))
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
