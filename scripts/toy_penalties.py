"""Whether L1, or features of uneven sparsity, make neurons monosemantic.

    python scripts/toy_penalties.py                    # of the models that come with the package
    python scripts/toy_penalties.py --run runs/penalties

RUN is made by `mi-superposition toy study penalties --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study

BUNDLED = bundled_study("penalties")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    print(
        f"fraction of polysemantic neurons   L1 {'  '.join(f'{weight:6g}' for weight in study.models['relu'].config.l1)}"
    )
    for name, shares in study.mean_polysemantic.items():
        for sparsity, row in zip(("even", "uneven"), shares.tolist(), strict=True):
            print(f"{name}, {sparsity:6} sparsity                 {'  '.join(f'{value:6.2f}' for value in row)}")
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
