"""Which activation computes AND, OR, max and x² better.

    python scripts/toy_logic.py                    # of the models that come with the package
    python scripts/toy_logic.py --run runs/logic

RUN is made by `mi-superposition toy study logic --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study

BUNDLED = bundled_study("logic")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    print("loss / best constant's: best, median, worst instance")
    for (task, row), one in study.comparisons.items():
        said = []
        for activation in ("relu", "gelu"):
            ratio = study.models[f"{task}-{activation}"].loss_ratio[row]
            said.append(f"{activation} {float(ratio.min()):.3f} {float(ratio.median()):.3f} {float(ratio.max()):.3f}")
        probability = study.models[f"{task}-relu"].config.probability[row]
        print(
            f"{task:6} sparsity {1 - probability:.2f}  {'   '.join(said)}   lower median: {one.median}"
            f"{'' if one.significant else ', not significant'}"
        )
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
