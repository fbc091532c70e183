"""Two statements of Pramodith on directions: how many can be nearly orthogonal, and that some neurons answer to one feature.

    mi-superposition neurons contexts --model stories --sae stories --out contexts
    python scripts/replicas/pramodith_directions.py --contexts contexts --out directions.json

Random unit vectors are taken one after another where they are nearly orthogonal to all that were taken. The exponent is that of the
chance that two are not, which this cannot do worse than. A neuron that answers to one feature has about one context among its twenty
largest activations (docs/neuroscope.md). Two minutes on one core.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from replica import PRAMODITH, Row, report, spread
from torch import Tensor

import mi_superposition as ms
from mi_superposition.linalg import unit_rows

COSINE, REFUSED = 0.3, 200
DIMENSIONS = (16, 32, 48, 64, 80, 96)
FEW = (1.5, 2.0)


def nearly_orthogonal(d: int, generator: torch.Generator, *, at_once: int = 256) -> Float[Tensor, "vector d"]:
    """Random unit vectors of which no two have a cosine above the limit in magnitude; no more are drawn when so many in a row do not fit."""
    taken = torch.zeros(0, d)
    refused = 0
    while refused < REFUSED:
        drawn = unit_rows(torch.randn(at_once, d, generator=generator))
        fits = (drawn @ taken.T).abs().amax(dim=1) <= COSINE if len(taken) else torch.ones(at_once, dtype=torch.bool)
        among = (drawn @ drawn.T).abs() <= COSINE
        new: list[int] = []
        for number in range(at_once):
            if fits[number] and bool(among[number, new].all()):
                new.append(number)
                refused = 0
            else:
                refused += 1
                if refused == REFUSED:
                    break
        taken = torch.cat([taken, drawn[new]])
    return taken


def fit(x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"]) -> tuple[float, float]:
    """Slope of a straight line, and the root of the mean squared distance from it."""
    slope, start = np.polyfit(x, y, 1)
    return float(slope), float(np.sqrt(np.square(y - slope * x - start).mean()))


def welch(d: int) -> float:
    """How many vectors there can be at most, where the bound of Welch 1974 says: where the cosine squared times d is below 1."""
    return d * (1 - COSINE**2) / (1 - d * COSINE**2) if d * COSINE**2 < 1 else math.inf


def main(contexts: Path, seeds: int = 5, dimensions: tuple[int, ...] = DIMENSIONS, out: Path | None = None) -> None:
    """Count.

    Args:
        contexts: Run folder of `neurons contexts`.
        seeds: Sets of vectors for each dimension, from seed 0 up.
        dimensions: Dimensions, at least three.
        out: JSON file of all numbers.
    """
    counts = {
        d: [len(nearly_orthogonal(d, torch.Generator().manual_seed(seed))) for seed in range(seeds)] for d in dimensions
    }
    d = np.array(dimensions, dtype=float)
    sizes = np.log([np.mean(some) for some in counts.values()])
    (exponent, off), (_, off_power) = fit(d, sizes), fit(np.log(d), sizes)
    rows = [
        Row(f"{one} dimensions: random vectors with cosines of at most {COSINE}", "many more than dimensions", spread(counts[one]), f"{one} exactly orthogonal, at most {welch(one):.0f}" if math.isfinite(welch(one)) else f"{one} exactly orthogonal", "ours")
        for one in dimensions
    ]  # fmt: skip
    limit = -math.log(1 - COSINE**2) / 2
    rows.append(Row("their number grows exponentially with the dimension: exponent", "exponentially", exponent, f"at least {limit:.4f} for many dimensions; distance from a straight line {off:.3f}, {off_power:.3f} if it were a power", "confirmed" if off < off_power and exponent > 0 else "not confirmed", "of the logarithm of the number by dimension, least squares"))  # fmt: skip
    run: Any = ms.load_run(contexts)
    details: dict[str, Any] = {"numbers": {str(one): some for one, some in counts.items()}, "neurons": {}}
    for hook, found in run.hooks.items():
        n = int(found.often.sum())
        for few in FEW if n else ():
            mine = (found.contexts[found.often] < few).double().mean()
            drawn = {name: float((some < few).double().mean()) for name, some in found.directions.items()}
            control = ", ".join(
                f"{name} {100 * share:.1f} %" for name, share in sorted(drawn.items(), key=lambda one: one[1])
            )
            if found.untrained is not None:
                control += f"; untrained {100 * float((found.untrained < few).double().mean()):.1f} %"
            what = f"{hook}: units with fewer than {few:g} contexts"
            rows.append(Row(what, "some", f"{round(float(mine) * n)} of {n} ({100 * float(mine):.1f} %)", f"random directions: {control}", "confirmed" if float(mine) > max(drawn.values()) else "not confirmed"))  # fmt: skip
            details["neurons"][what] = {"share": float(mine), "directions": drawn}
    settings = {"cosine": COSINE, "refused in a row": REFUSED, "seeds": seeds, "model": run.config.model.name, "documents": run.n_documents}  # fmt: skip
    report("directions", PRAMODITH, settings, rows, details, out)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
