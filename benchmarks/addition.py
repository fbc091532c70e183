"""Training step and head ablation: ours against the usual way, interleaved, medians, one process, one machine.

    python benchmarks/addition.py

Lower bounds: the table's rows added up for each problem and the same gradient added back, by the compiled loops alone, for
the step; one bare forward pass for the ablation. Beside them the lookup form by autograd, and the table's two products, which
it cannot do without and the compiled step does. Peak memory is measured in a fresh process for each side.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numba import njit
from timing import Row, interleaved, machine, parser, write_rows

from mi_superposition import load_model
from mi_superposition.addition.ablation import one_digit_operands
from mi_superposition.addition.config import AdditionConfig
from mi_superposition.addition.fused import FusedGradient, FusedLearner
from mi_superposition.addition.fused.kernel import gather, scatter
from mi_superposition.addition.lookup import lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, fresh_operands, masked, with_answers
from mi_superposition.addition.train import build_addition_model
from mi_superposition.heads import ablate_heads, keep_only
from mi_superposition.models import BUNDLED_MODELS, load_weights, weights_of
from mi_superposition.training import fixed_arithmetic

# Calls of one way in a row before the other's turn: training is a row of steps, not single ones.
BLOCK = 5


def training_steps(batch: int, *, trained: bool = False) -> dict[str, Callable[[], None]]:
    """One optimizer step on the same problems, batch and optimizer: plain transformer, compiled, table, and lower bounds.

    ``trained`` starts from the bundled weights, whose attention is far from even.
    """
    training_set = fresh_operands(25_000, part="train", generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(training_set), generator=torch.Generator().manual_seed(1))[:batch]
    operands = training_set[order]
    tokens, right, one_hot = masked(with_answers(operands)), answer_digits(operands), one_hot_operands(operands)
    config = AdditionConfig()
    models = [build_addition_model(config) for _ in range(3)]
    if trained:
        for model in models:
            load_weights(model, weights_of(load_model("addition", device="cpu")), source=BUNDLED_MODELS["addition"])
    plain_model, table_model, our_model = models
    plain_optimizer = torch.optim.AdamW(plain_model.parameters(), lr=1e-3)
    table_optimizer = torch.optim.AdamW(table_model.parameters(), lr=1e-3, fused=True)
    table = torch.rand(one_hot.shape[1], 7 * 3 * 32)
    product = torch.empty(batch, table.shape[1])
    gradient = FusedGradient(our_model, 6, threads=torch.get_num_threads())
    # Taking the problems from the training set is part of our step, and so are their digits and rows.
    learner = FusedLearner(
        gradient, lambda step: training_set[order], no_loss, lambda step: 1e-3, betas=(0.9, 0.999), weight_decay=0.01
    )
    chosen = (operands + 10 * torch.arange(12)).numpy()
    rows = table.view(-1, 7, 96).transpose(0, 1).contiguous().numpy()
    grad_rows, threads = np.zeros_like(rows), torch.get_num_threads()
    pool = ThreadPoolExecutor(threads)

    def plain() -> None:
        logits = plain_model(tokens)[:, 12:]
        loss = F.cross_entropy(logits.flatten(0, 1), right.flatten())
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()

    def ours() -> None:
        learner.step(0)

    def by_autograd() -> None:
        logits = lookup_logits(table_model, one_hot_operands(operands))
        by_class = rearrange(logits, "problem digit value -> 1 value (problem digit)")
        loss = F.cross_entropy(by_class, right.reshape(1, -1))
        table_optimizer.zero_grad()
        loss.backward()
        table_optimizer.step()

    def products() -> None:
        torch.mm(one_hot, table, out=product)
        torch.mm(one_hot.t(), product)

    def lower_bound() -> None:
        if threads == 1:
            _add_rows(rows, grad_rows, chosen, 0, 1)
        else:
            list(pool.map(lambda first: _add_rows(rows, grad_rows, chosen, first, threads), range(threads)))

    return {
        "plain HookedTransformer": plain,
        "compiled step": ours,
        "lookup form by autograd": by_autograd,
        "the table's two products": products,
        "lower bound: the table's rows added up and back": lower_bound,
    }


def no_loss(step: int) -> torch.Tensor:
    """Of a step whose scores are too wide for a table; none here is."""
    raise AssertionError(f"step {step} fell back to autograd")


@njit(nogil=True)
def _add_rows(rows, grad_rows, chosen, first, every):
    """For some of the queries, the sum of each problem's rows, and that sum added back to them."""
    n_columns = rows.shape[2]
    constant, sums = np.zeros((1, n_columns), np.float32), np.empty((32, n_columns), np.float32)
    for q in range(first, len(rows), every):
        for start in range(0, len(chosen), 32):
            some = chosen[start : start + 32]
            gather(rows[q], constant, some, sums)
            scatter(sums, some, grad_rows[q])


def ablations() -> dict[str, Callable[[], None]]:
    """33 conditions (all heads ablated, each kept alone) on the 100 one-digit problems."""
    model = load_model("addition", device="cpu")
    tokens = masked(with_answers(one_digit_operands(6)))
    keep = torch.cat([torch.zeros(1, 32, dtype=torch.bool), keep_only(32)])

    def zero(z, hook, kept):  # noqa: ARG001 - TransformerLens passes it by name
        return z * kept[:, None]

    @torch.no_grad()
    def loop() -> None:
        for condition in keep:
            hook = ("blocks.0.attn.hook_z", functools.partial(zero, kept=condition))
            model.run_with_hooks(tokens, fwd_hooks=[hook])

    def ours() -> None:
        ablate_heads(model, tokens, keep)

    @torch.no_grad()
    def lower_bound() -> None:
        model(tokens)

    return {"loop of run_with_hooks": loop, "ablate_heads": ours, "lower bound: one forward pass": lower_bound}


CASES: dict[str, Callable[[], dict[str, Callable[[], None]]]] = {
    "training step, batch 256": functools.partial(training_steps, 256),
    "the same, trained weights": functools.partial(training_steps, 256, trained=True),
    "training step, batch 1024": functools.partial(training_steps, 1024),
    "33 head-ablation conditions": ablations,
}


def peak_memory(case: str, way: str) -> float | None:
    """MiB that ten calls of one way add at their peak, in a fresh process with everything built (Linux only)."""
    command = [sys.executable, __file__, "--memory-of", case, way]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return float(answer) if answer else None


def _measure_memory(case: str, way: str) -> None:
    run, status = CASES[case]()[way], Path("/proc/self/status")
    if not status.exists():
        return
    before = _kilobytes(status, "VmRSS")
    # Forget the peak of imports and building.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(10):
        run()
    print((_kilobytes(status, "VmHWM") - before) / 1024)


def _kilobytes(status: Path, field: str) -> int:
    [line] = [line for line in status.read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1])


def rows(quick: bool) -> list[Row]:
    """For the common table, with all threads."""
    found = []
    for case, task in {
        "training step, batch 256": "addition: a training step, batch 256",
        "training step, batch 1024": "addition: a training step, batch 1,024",
        "33 head-ablation conditions": "33 head-ablation conditions, 100 problems",
    }.items():
        with fixed_arithmetic(torch.get_num_threads()):
            taken = interleaved(
                CASES[case](), 1 if quick else 20, block=1 if quick else BLOCK, warm_up=0 if quick else 3
            )
        (usual_way, usual), (_, ours), *_, (bound_is, bound) = taken.items()
        found.append(Row(task, ours, usual_way, usual, bound_is.removeprefix("lower bound: "), bound))
    return found


def main() -> None:
    """Print one table."""
    options_of = parser(__doc__)
    options_of.add_argument("--repeats", type=int, default=20)
    options_of.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options_of.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options_of.add_argument(
        "--cpu-time",
        action="store_true",
        help="the processor's seconds and no memory; with --threads 1, on a busy machine",
    )
    options_of.add_argument("--memory-of", nargs=2, help="one case and way: its peak memory alone")
    options = options_of.parse_args()
    if options.memory_of:
        _measure_memory(*options.memory_of)
        return
    if options.rows:
        write_rows(options.rows, rows(options.quick))
        return
    print(machine())
    print(f"medians of {options.repeats} interleaved blocks of {BLOCK} calls\n")
    print(f"{'case':30} {'way':48} {'threads':>7} {'ms':>9} {'ratio to ours':>14} {'peak MiB':>9}")
    clock = time.process_time if options.cpu_time else time.perf_counter
    for case in options.cases:
        build, memory = CASES[case], {}
        if not options.cpu_time:
            memory = {way: peak_memory(case, way) for way in build() if not way.startswith("lower bound")}
        for threads in options.threads:
            with fixed_arithmetic(threads):
                taken = interleaved(build(), options.repeats, block=BLOCK, warm_up=2, clock=clock)
            ours = list(taken.values())[1]
            for way, median in taken.items():
                peak = " " * 9 if memory.get(way) is None else f"{memory[way]:9.1f}"
                print(f"{case:30} {way:48} {threads:7d} {1000 * median:9.2f} {median / ours:14.2f} {peak}", flush=True)


if __name__ == "__main__":
    main()
