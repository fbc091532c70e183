"""The addition model made by hand: accuracy on random problems and on chains of nines, in double and in single precision.

python scripts/exact_addition.py                  # prints the table of docs/addition.md
python scripts/exact_addition.py --out FOLDER     # also writes it, in single precision, as a model that commands take
python scripts/exact_addition.py --models runs/addition/nines-0      # beside models that were trained
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformer_lens import HookedTransformer

from mi_superposition.addition.construction import exact_adder
from mi_superposition.addition.lookup import lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, chains_of_nines, fresh_operands
from mi_superposition.addition.train import load_addition_model
from mi_superposition.models import save_attention_only
from mi_superposition.training import seeded_generator

N_RANDOM, N_CHAINS, BATCH = 1_000_000, 100_000, 10_000


@torch.no_grad()
def wrong_answers(model: HookedTransformer, operands: torch.Tensor) -> tuple[list[int], int]:
    """How many answers are wrong, by digit and as whole sums."""
    wrong = torch.cat(
        [
            lookup_logits(model, one_hot_operands(batch).to(model.W_E.dtype)).argmax(dim=-1) != answer_digits(batch)
            for batch in operands.split(BATCH)
        ]
    )
    return wrong.sum(dim=0).tolist(), int(wrong.any(dim=1).sum())


def main() -> None:
    """Print the table; write the model if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder to write the model into")
    parser.add_argument("--models", nargs="*", default=["addition-exact"], help="trained models beside it")
    options = parser.parse_args()
    problems = {
        f"{N_RANDOM:,} random problems": fresh_operands(N_RANDOM, part="test", generator=seeded_generator(0, "fresh")),
        f"{N_CHAINS:,} chains of nines": chains_of_nines(N_CHAINS, generator=seeded_generator(0, "chains")),
    }
    models = {"hand, double precision": exact_adder(), "hand, single precision": exact_adder().float()}
    models |= {name: load_addition_model(name) for name in options.models}
    print("wrong answers: by digit, ones first, and whole sums")
    for name, model in models.items():
        for kind, operands in problems.items():
            by_digit, sums = wrong_answers(model, operands)
            print(f"{name:24} {kind:28} {by_digit} {sums}")
    if options.out:
        save_attention_only(models["hand, single precision"], options.out)


if __name__ == "__main__":
    main()
