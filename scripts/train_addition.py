"""Train the bundled addition models: five seeds of the `paper` preset, one of `exact`; bundle the best of each.

With `--presets thaman` five seeds in the recipe of Thaman et al., with `--presets nines` one on harder problems; they are not bundled.

    python scripts/train_addition.py --runs runs/addition            # trains; stop and go on as you like
    python scripts/train_addition.py --runs runs/addition --bundle   # also replaces the bundled models

The table it prints is the one in the README.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.problems import fresh_operands
from mi_superposition.addition.train import evaluate_addition, train_addition
from mi_superposition.files import read_json
from mi_superposition.models import BUNDLED_MODELS, MODEL_CONFIG, MODEL_WEIGHTS, SNAPSHOTS, load_model
from mi_superposition.runs import HISTORY, MANIFEST, METRICS, seal
from mi_superposition.training import seeded_generator

PAPER_SEEDS = range(5)
# Of recipes that draw new problems at every step.
FRESH_SEEDS = (0,)
BUNDLED = {"paper": "addition", "exact": "addition-exact"}
N_FRESH = 1_000_000
# Of some eighty snapshots so many go into the package: enough frames for the animation.
BUNDLED_SNAPSHOTS = 14


def main() -> None:
    """Train what is missing, measure everything, bundle if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--presets", nargs="+", default=["paper", "exact"], choices=list(AdditionConfig.PRESETS))
    parser.add_argument("--bundle", action="store_true", help="replace the bundled models")
    options = parser.parse_args()

    fresh = fresh_operands(N_FRESH, part="test", generator=seeded_generator(0, "fresh"))
    print(
        f"{'run':10} {'test digits':>12} {'test sums':>10} {'train digits':>13} {'fresh digits':>13} {'fresh sums':>11}   fresh, by digit"
    )
    for preset in options.presets:
        scores = {}
        for seed in PAPER_SEEDS if AdditionConfig.PRESETS[preset].n_train else FRESH_SEEDS:
            out = options.runs / f"{preset}-{seed}"
            train_addition(AdditionConfig.PRESETS[preset].replace(seed=seed), out)
            metrics = read_json(out / METRICS)
            accuracy = evaluate_addition(load_model(out, device="cpu"), fresh)
            scores[out] = accuracy.per_digit
            print(
                f"{out.name:10} {100 * metrics['test_accuracy']:11.2f}% {100 * metrics['test_sum_accuracy']:9.2f}% {100 * metrics['train_accuracy']:12.2f}% "
                f"{100 * accuracy.per_digit:12.3f}% {100 * accuracy.whole_sum:10.2f}%   "
                + " ".join(f"{100 * float(digit):.2f}" for digit in accuracy.by_digit)
            )
        if options.bundle and preset in BUNDLED:
            best = max(scores, key=lambda out: scores[out])
            bundle(best, BUNDLED_MODELS[BUNDLED[preset]])
            print(f"bundled {best.name}")


def bundle(run: Path, place: Path) -> None:
    """Copy a finished run into the package, thinning its snapshots evenly over their (geometric) epochs."""
    if place.exists():
        shutil.rmtree(place)
    (place / SNAPSHOTS).mkdir(parents=True)
    for name in (MANIFEST, METRICS, HISTORY, MODEL_CONFIG, MODEL_WEIGHTS):
        shutil.copy(run / name, place / name)
    seal(place)
    snapshots = sorted((run / SNAPSHOTS).glob("*.safetensors"))
    last = len(snapshots) - 1
    for index in sorted({round(frame * last / (BUNDLED_SNAPSHOTS - 1)) for frame in range(BUNDLED_SNAPSHOTS)}):
        shutil.copy(snapshots[index], place / SNAPSHOTS / snapshots[index].name)


if __name__ == "__main__":
    main()
