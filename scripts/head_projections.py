"""Where each head puts the ten digits: how circular they lie under Q, K, V and O, ranked, beside an untrained model.

    python scripts/head_projections.py [--model RUN]

`mi-superposition heads project` does the same into a run folder, with figures and the animation over training.
"""

from __future__ import annotations

import argparse

from mi_superposition.addition.train import load_addition_model
from mi_superposition.heads import digit_circularity, project_heads
from mi_superposition.models import untrained_copy


def main() -> None:
    """Print the ranking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="addition", help="bundled name or run folder")
    parser.add_argument("--top", type=int, default=5, help="heads shown for each matrix")
    options = parser.parse_args()
    model = load_addition_model(options.model)
    trained = digit_circularity(project_heads(model, tokens=range(10)))
    untrained = digit_circularity(project_heads(untrained_copy(model, seed=0), tokens=range(10)))
    for name, measured in trained.items():
        order = measured.share.argsort(descending=True)
        print(
            f"{name}: mean share in one frequency {measured.share.mean():.2f}, untrained {untrained[name].share.mean():.2f}"
        )
        for head in order[: options.top].tolist():
            print(
                f"   head {head:2d}: share {measured.share[head]:.3f} at frequency {int(measured.frequency[head])}, "
                f"roundness {measured.roundness[head]:.2f}"
            )


if __name__ == "__main__":
    main()
