"""Which heads of the addition model carry which digit: the study as one readable script.

    python scripts/head_ablation.py                   # the bundled model
    python scripts/head_ablation.py --model RUN       # a run of `mi-superposition addition train`

`mi-superposition heads ablate` does the same into a run folder, with figures.
"""

from __future__ import annotations

import argparse

import torch

from mi_superposition.addition.ablation import digits_of
from mi_superposition.addition.problems import answer_positions, encode_sums
from mi_superposition.addition.train import load_addition_model
from mi_superposition.heads import ablate_heads, keep_only, leave_out
from mi_superposition.studies.heads.ablate import ablation_study


def main() -> None:
    """Print the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="addition", help="bundled name or run folder")
    options = parser.parse_args()
    model = load_addition_model(options.model)
    n_heads, n_digits = model.cfg.n_heads, digits_of(model)

    # One sum, three kinds of condition, one call.
    a, b = 277_386 % 10**n_digits, 145_278 % 10**n_digits
    tokens = encode_sums([a], [b], n_digits)
    keep = torch.cat([torch.ones(1, n_heads, dtype=torch.bool), keep_only(n_heads), leave_out(n_heads)])
    answers = ablate_heads(model, tokens, keep)[:, 0, answer_positions(n_digits)].argmax(dim=-1)
    print(f"{a} + {b}, ones first: all heads say {_digits(answers[0])}, the sum is {_reversed(a + b, n_digits + 1)}")
    print(f"head 0 alone says {_digits(answers[1])}; without head 0 the others say {_digits(answers[1 + n_heads])}")

    study = ablation_study(model)
    maps, sets = study.maps, study.sets
    print(f"\nleaving out one head moves the right logit by {study.effects.share:.2f} of what all heads together do,")
    print(f"in untrained models by {study.untrained_effects.share:.2f}")
    print("\nanswer digit  all heads  no head  small set  its accuracy  other sets   mean   best  less accurate  ties")
    for digit in range(len(sets.size)):
        print(
            f"{digit:12d} {_percent(maps.accuracy[maps.of('all'), digit])} {_percent(maps.accuracy[maps.of('none'), digit])}"
            f" {int(sets.size[digit]):6d} heads {_percent(sets.accuracy[digit]):>12}"
            f" {'all' if sets.enumerated[digit] else 'random':>6} {sets.n_others[digit]:4d}"
            f" {_percent(sets.mean_of_others[digit]):>6} {_percent(sets.best_of_others[digit]):>6}"
            f" {sets.less_accurate[digit]:14d} {sets.as_accurate[digit]:5d}"
        )


def _digits(digits: torch.Tensor) -> str:
    return "".join(str(int(digit)) for digit in digits)


def _reversed(number: int, length: int) -> str:
    return f"{number:0{length}d}"[::-1]


def _percent(value: torch.Tensor) -> str:
    return f"{100 * float(value):8.1f}%"


if __name__ == "__main__":
    main()
