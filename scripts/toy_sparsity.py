"""How sparse, and how important, features must be to share dimensions.

    python scripts/toy_sparsity.py                    # of the models that come with the package
    python scripts/toy_sparsity.py --run runs/sparsity

RUN is made by `mi-superposition toy study sparsity --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study

BUNDLED = bundled_study("sparsity")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    for name, superposed in study.superposed.items():
        config = study.models[name].config
        low, *_, high = config.importance_ratio
        print(f"\n{name}: # where two features share one dimension; importance of the second {low:g} to {high:g}")
        for probability, row in zip(config.probability, superposed, strict=True):
            print(f"sparsity {1 - probability:.2f}  {''.join('#' if both else '.' for both in row)}")
    config = study.models["staircase"].config
    print(f"\n{config.n_features} features in {config.n_hidden} dimensions")
    for probability, stair in zip(config.probability, study.stairs, strict=True):
        print(
            f"sparsity {1 - probability:.3f}  {stair.dimensions_per_feature:.2f} dimensions per feature, "
            f"{stair.represented} represented: {stair.features_by_shape}"
        )
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
