"""Training and test accuracy at the same epochs, in the recipe of Thaman et al. and with problems so few that they can be memorised.

    python scripts/addition_grokking.py --out runs/grokking.json                 # on a GPU if there is one
    python scripts/addition_grokking.py --out runs/grokking.json --steps 2000    # the first steps only

All trainings run side by side (`addition/stacked.py`), each with the initial weights, problems and batches that
`addition train --preset thaman --seed N` has.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.problems import sample_operands
from mi_superposition.addition.stacked import StackedAdamW, right_digits, stack_weights, stacked_logits, stacked_loss
from mi_superposition.addition.train import build_addition_model
from mi_superposition.files import write_json
from mi_superposition.training import seeded_generator

SEEDS = range(5)
# Training problems: theirs, and few.
SIZES = (25_000, 2_500)
# Epochs of the larger set after which all are measured, on so many training problems of each.
MEASURED = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 400, 500, 700, 1000)
N_MEASURED = 2_500


def main() -> None:
    """Train, and write and print the accuracies after each of the epochs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the numbers")
    parser.add_argument(
        "--steps", type=int, help="stop after so many steps; the learning rate falls as in the whole recipe"
    )
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = AdditionConfig.PRESETS["thaman"]
    settings = [(size, seed) for size in SIZES for seed in SEEDS]
    train, test = zip(*(_problems(recipe, size, seed) for size, seed in settings), strict=True)
    states = [dict(build_addition_model(recipe.replace(seed=seed)).state_dict()) for _, seed in settings]
    weights = {name: value.to(device) for name, value in stack_weights(states).items()}
    each = torch.full((len(settings),), 1.0, device=device)
    optimizer = StackedAdamW(weights, recipe.beta1, recipe.beta2 * each, recipe.weight_decay * each)
    epoch_steps = [size // recipe.batch_size for size, _ in settings]
    orders: dict[int, tuple[int, torch.Tensor]] = {}
    rows = []
    for step in range(min(options.steps or recipe.n_steps, recipe.n_steps)):
        batch = []
        for place, (size, seed) in enumerate(settings):
            epoch, number = divmod(step, epoch_steps[place])
            if orders.get(place, (-1,))[0] != epoch:
                orders[place] = (epoch, torch.randperm(size, generator=seeded_generator(seed, "epoch", epoch)))
            at = orders[place][1][number * recipe.batch_size : (number + 1) * recipe.batch_size]
            batch.append(train[place][at])
        operands = torch.stack(batch).to(device)
        loss = stacked_loss(stacked_logits(optimizer.weights, operands), right_digits(operands))
        rate = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / recipe.n_steps))
        optimizer.step(loss, rate * each, torch.tensor(float(step + 1), device=device))
        epoch, within = divmod(step + 1, epoch_steps[0])
        if not within and epoch in MEASURED:
            seen = torch.stack([problems[:N_MEASURED] for problems in train])
            found = [_accuracy(optimizer.weights, problems.to(device)) for problems in (seen, torch.stack(test))]
            rows.append({"step": step + 1, "epoch": epoch, "train": found[0], "test": found[1]})
            write_json(options.out, {"settings": settings, "rows": rows})
            gaps = [1e2 * (mine - other) for mine, other in zip(*found, strict=True)]
            print(f"epoch {epoch:4d}  train - test, points: " + " ".join(f"{gap:5.1f}" for gap in gaps), flush=True)


def _problems(recipe: AdditionConfig, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    train = sample_operands(size, part="train", generator=seeded_generator(seed, "train"))
    test = sample_operands(recipe.n_test, part="test", generator=seeded_generator(seed, "test"))
    return train, test[: recipe.n_tested]


@torch.no_grad()
def _accuracy(weights: dict[str, torch.Tensor], operands: torch.Tensor) -> list[float]:
    right = stacked_logits(weights, operands).argmax(dim=-1) == right_digits(operands)
    return right.double().mean(dim=(1, 2)).tolist()


if __name__ == "__main__":
    main()
