"""Whether dropout prevents superposition.

    python scripts/toy_dropout.py                    # of the models that come with the package
    python scripts/toy_dropout.py --run runs/dropout

RUN is made by `mi-superposition toy study dropout --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study

BUNDLED = bundled_study("dropout")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    for run_name, measures in study.means.items():
        config = study.models[run_name].config
        for name, values in measures._asdict().items():
            print(f"\n{name.replace('_', ' ')}, importance {run_name}, mean of {study.n_instances}")
            print(f"dropout        {'  '.join(f'{value:5.2f}' for value in config.dropout)}")
            for probability, row in zip(config.probability, values.tolist(), strict=True):
                print(f"sparsity {1 - probability:.2f}  {'  '.join(f'{value:5.2f}' for value in row)}")
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
