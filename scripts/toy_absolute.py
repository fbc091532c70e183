"""Whether neurons can compute |x| of more features than there are neurons.

    python scripts/toy_absolute.py                    # of the models that come with the package
    python scripts/toy_absolute.py --run runs/absolute

RUN is made by `mi-superposition toy study absolute --out RUN`, which also writes its page.
"""

from __future__ import annotations

from pathlib import Path

import tyro

import mi_superposition as ms
from mi_superposition.toy import bundled_study
from mi_superposition.toy.polysemanticity import features_per_neuron, monosemantic

BUNDLED = bundled_study("absolute")


def main(run: Path = BUNDLED) -> None:
    """Print the study."""
    study = ms.load_run(run)
    hundred = study.models["hundred"]
    print("sparsity  loss / constant's  monosemantic of 40  features per neuron")
    for probability, W, ratio in zip(
        hundred.config.probability, hundred.W_in, hundred.loss_ratio.amin(dim=1), strict=True
    ):
        print(
            f"{1 - probability:8.3f}  {float(ratio):17.3f}  {int(monosemantic(W).sum()):18d}  {float(features_per_neuron(W).mean()):19.1f}"
        )
    print(f"\nfeatures computed by pairs, by instance, best first: {study.pairs.tolist()}")
    print(f"features permuted within each neuron: {study.permuted_pairs.tolist()}")
    print(f"asymmetric motifs by instance: {[len(motifs) for motifs in study.motifs]}")
    print(f"features permuted within each neuron: {[len(motifs) for motifs in study.permuted_motifs]}")
    print(f"\n{study.summary()}")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
