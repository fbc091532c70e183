"""Where a model puts features that occur together, or never together.

    python scripts/toy_correlation.py                    # of the models that come with the package
    python scripts/toy_correlation.py --run runs/correlation

RUN is made by `mi-superposition toy study correlation --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study

BUNDLED = bundled_study("correlation")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    for name, trained in study.models.items():
        print(f"\n{name} features: cosines within the pairs of the best instance, and how many pairs are what")
        for probability, cosines, relations in zip(
            trained.config.probability, study.cosines[name][:, 0].tolist(), study.relations[name], strict=True
        ):
            print(
                f"sparsity {1 - probability:.2f}  {'  '.join(f'{cosine:5.2f}' for cosine in cosines)}  {dict(relations)}"
            )
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
