"""Whether five neurons give each of ten features one of their own.

    python scripts/toy_neurons.py                    # of the models that come with the package
    python scripts/toy_neurons.py --run runs/neurons

RUN is made by `mi-superposition toy study neurons --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study
from mi_superposition.toy.geometry import represented
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic

BUNDLED = bundled_study("neurons")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    trained = study.models["relu"]
    print("sparsity  monosemantic  represented  features of each neuron (effective number)")
    for probability, W in zip(trained.config.probability, trained.W_in, strict=True):
        numbers = " ".join(f"{number:.1f}" for number in features_per_neuron(W).tolist())
        print(f"{1 - probability:8.3f}  {int(monosemantic(W).sum()):12d}  {int(represented(W)):11d}  {numbers}")
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
