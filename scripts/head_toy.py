"""The toy that calibrates `heads trigrams`: does a feature spread over heads where there are too few, and does the measure say so?

    python scripts/head_toy.py

Writes mi_superposition/bundled/heads/toy.json, which the page of `heads trigrams` shows. About two minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import mi_superposition
from mi_superposition.files import write_json
from mi_superposition.heads.trigrams.sharing import (
    carriers,
    mean_and_error,
    participation_ratio,
    unbiased_participation_ratio,
)
from mi_superposition.heads.trigrams.toy import ToyTask, best_of, toy_edges
from mi_superposition.models import untrained_copy

OUT = Path(mi_superposition.__file__).parent / "bundled" / "heads" / "toy.json"


def main() -> None:
    """Train, measure and write the toy for every number of heads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--d-head", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task, rows = ToyTask(), []
    for n_heads in asked.heads:
        model, losses = best_of(task, n_heads, range(asked.seeds), d_head=asked.d_head, n_steps=asked.steps)
        numbers = {}
        for name, one in {"": model, "_untrained": untrained_copy(model, seed=0)}.items():
            table = toy_edges(one, task)
            numbers |= {
                f"heads_per_feature{name}": mean_and_error(
                    unbiased_participation_ratio(table.heads, table.error[0, :, :-1])
                )[0],
                f"heads_per_feature_raw{name}": mean_and_error(participation_ratio(table.heads))[0],
                f"carriers{name}": float(
                    carriers(table.heads, table.error[0, :, :-1], table.n_documents).sum(1).float().mean()
                ),
                f"effect{name}": float(table.together.mean()),
            }
        rows.append({"n_heads": n_heads, "losses": losses, **numbers})
        print(rows[-1], flush=True)
        write_json(
            asked.out, {"n_a": task.n_a, "n_b": task.n_b, "d_head": asked.d_head, "n_steps": asked.steps, "rows": rows}
        )


if __name__ == "__main__":
    main()
