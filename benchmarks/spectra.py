"""The spectrum of a layer's activations: accumulated in one pass, against keeping them all and taking the SVD.

    python benchmarks/spectra.py

Activations come in batches of 1,000, as a network gives them, single precision. The usual way keeps every batch, centres and calls
`torch.linalg.svdvals`; ours adds each batch to a covariance and forgets it. Memory is what each adds at its peak, in a process of its
own. The lower bound is the product of matrices x^T x over all batches, of which half is multiplied.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from timing import Row, interleaved, machine, parser, write_rows

from mi_superposition.spectra import activation_spectrum, effective_ranks
from mi_superposition.streaming import CovarianceAccumulator

BATCH = 1000
SIZES = ((10_000, 512), (20_000, 1024))


def batches(n: int, d: int) -> Iterator[torch.Tensor]:
    """Activations that decay from one direction to the next, about a mean."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, d + 1).float().rsqrt()
    for _ in range(n // BATCH):
        yield torch.randn(BATCH, d, generator=generator) * scale + 1


def usual(given: list[torch.Tensor]) -> torch.Tensor:
    """All of them, centred, decomposed."""
    x = torch.cat(given)
    return torch.linalg.svdvals(x - x.mean(dim=0)) / len(x) ** 0.5


def ours(given: list[torch.Tensor]) -> torch.Tensor:
    """One pass."""
    seen = CovarianceAccumulator(given[0].shape[1])
    for batch in given:
        seen.update(batch)
    return activation_spectrum(seen.covariance())


def lower_bound(given: list[torch.Tensor]) -> torch.Tensor:
    """The products alone, from the diagonal on: they are symmetric."""
    d, rows = given[0].shape[1], 256
    total = torch.zeros(d, d)
    for batch in given:
        for first in range(0, d, rows):
            total[first : first + rows, first:].addmm_(batch[:, first : first + rows].T, batch[:, first:])
    return total


WAYS: dict[str, Callable[[list[torch.Tensor]], torch.Tensor]] = {"all kept, svdvals": usual, "ours": ours}


def peak(way: str, n: int, d: int) -> float:
    """MiB added at the peak, in a process of its own that makes each batch when it is asked for."""
    command = [sys.executable, __file__, "--memory-of", way, str(n), str(d)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _measure_memory(way: str, n: int, d: int) -> None:
    status = Path("/proc/self/status")
    WAYS[way](list(batches(BATCH, 8)))

    def kilobytes(field: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(field)).split()[1])

    before = kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    if way == "ours":
        seen = CovarianceAccumulator(d)
        for batch in batches(n, d):
            seen.update(batch)
        activation_spectrum(seen.covariance())
    else:
        WAYS[way](list(batches(n, d)))
    print((kilobytes("VmHWM") - before) / 1024)


def measured(sizes: tuple[tuple[int, int], ...], rounds: int) -> list[Row]:
    """A row a size."""
    rows = []
    for n, d in sizes:
        given = list(batches(n, d))
        calls: dict[str, Callable[[], torch.Tensor]] = {
            name: lambda way=way, given=given: way(given) for name, way in {**WAYS, "lower bound": lower_bound}.items()
        }
        taken = interleaved(calls, rounds)
        ranks = {name: effective_ranks(way(given)).energy_rank for name, way in WAYS.items()}
        memory = {name: peak(name, n, d) for name in WAYS} if Path("/proc/self/clear_refs").exists() else {}
        told = ", ".join(f"{name} {value:.0f} MiB" for name, value in memory.items())
        remark = f"energy rank {ranks['ours']} and {ranks['all kept, svdvals']}" + (f"; {told}" if told else "")
        task = f"spectrum of {n:,} activations of {d:,} channels"
        rows.append(
            Row(
                task,
                taken["ours"],
                "all kept, svdvals",
                taken["all kept, svdvals"],
                "half of x^T x",
                taken["lower bound"],
                remark,
            )
        )
    return rows


def main() -> None:
    """Print the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--rounds", type=int, default=5)
    options_of.add_argument("--memory-of", nargs=3, help="one way, activations and channels: its peak memory alone")
    options = options_of.parse_args()
    if options.memory_of:
        way, n, d = options.memory_of
        _measure_memory(way, int(n), int(d))
        return
    rows = measured(((2000, 64),) if options.quick else SIZES, 1 if options.quick else options.rounds)
    if options.rows:
        write_rows(options.rows, rows)
        return
    print(machine())
    for row in rows:
        print(
            f"{row.task}: ours {row.ours:.3f} s, {row.usual_way} {row.usual:.3f} s, lower bound {row.lower_bound:.3f} s; {row.remark}"
        )


if __name__ == "__main__":
    main()
