"""Whether neurons become monosemantic when there are enough of them.

    python scripts/toy_width.py                    # of the models that come with the package
    python scripts/toy_width.py --run runs/width

RUN is made by `mi-superposition toy study width --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study

BUNDLED = bundled_study("width")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    first = next(iter(study.models.values()))
    print(f"fraction of polysemantic neurons at step  {'  '.join(f'{step:5d}' for step in first.snapshots)}")
    for name, by_step in study.polysemantic_over_training.items():
        shares = "  ".join(f"{float(share.mean()):5.2f}" for share in by_step.values())
        print(f"{study.models[name].config.n_hidden:4d} neurons                              {shares}")
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
