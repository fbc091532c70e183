"""Training step and head ablation: ours against the usual way, interleaved, medians, one process, one machine.

    python benchmarks/addition.py

Floors: the one-hot product and its transpose for the step, one bare forward pass for the ablation. Peak memory is
measured in a fresh process for each side.
"""

from __future__ import annotations

import argparse
import functools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

from mi_superposition import load_model
from mi_superposition.addition.ablation import one_digit_operands
from mi_superposition.addition.config import preset_config
from mi_superposition.addition.lookup import lookup_logits, one_hot_operands
from mi_superposition.addition.problems import answer_digits, fresh_operands, masked, with_answers
from mi_superposition.addition.train import build_addition_model
from mi_superposition.heads import ablate_heads, keep_only
from mi_superposition.models import BUNDLED_MODELS, load_weights, weights_of
from mi_superposition.training import fixed_arithmetic

# Calls of one way in a row before the other's turn: training is a row of steps, not single ones.
BLOCK = 5


def training_steps(batch: int, *, trained: bool = False) -> dict[str, Callable[[], None]]:
    """One optimizer step on the same problems, batch and optimizer: plain transformer, table, and the table's floor.

    ``trained`` starts from the bundled weights, whose attention is far from even.
    """
    operands = fresh_operands(batch, part="train", generator=torch.Generator().manual_seed(0))
    tokens, right, one_hot = masked(with_answers(operands)), answer_digits(operands), one_hot_operands(operands)
    config = preset_config("paper")
    plain_model, our_model = build_addition_model(config), build_addition_model(config)
    if trained:
        for model in (plain_model, our_model):
            load_weights(model, weights_of(load_model("addition", device="cpu")), source=BUNDLED_MODELS["addition"])
    plain_optimizer = torch.optim.AdamW(plain_model.parameters(), lr=1e-3)
    our_optimizer = torch.optim.AdamW(our_model.parameters(), lr=1e-3, fused=True)
    table = torch.rand(one_hot.shape[1], 7 * 3 * 32)
    product = torch.empty(batch, table.shape[1])

    def plain() -> None:
        logits = plain_model(tokens)[:, 12:]
        loss = F.cross_entropy(logits.flatten(0, 1), right.flatten())
        plain_optimizer.zero_grad()
        loss.backward()
        plain_optimizer.step()

    def ours() -> None:
        # The one-hot rows are part of our step, as in training.
        logits = lookup_logits(our_model, one_hot_operands(operands))
        by_class = rearrange(logits, "problem digit value -> 1 value (problem digit)")
        loss = F.cross_entropy(by_class, right.reshape(1, -1))
        our_optimizer.zero_grad()
        loss.backward()
        our_optimizer.step()

    def floor() -> None:
        torch.mm(one_hot, table, out=product)
        torch.mm(one_hot.t(), product)

    return {"plain HookedTransformer": plain, "lookup form": ours, "floor: the table's two products": floor}


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
    def floor() -> None:
        model(tokens)

    return {"loop of run_with_hooks": loop, "ablate_heads": ours, "floor: one forward pass": floor}


CASES: dict[str, Callable[[], dict[str, Callable[[], None]]]] = {
    "training step, batch 256": functools.partial(training_steps, 256),
    "the same, trained weights": functools.partial(training_steps, 256, trained=True),
    "training step, batch 1024": functools.partial(training_steps, 1024),
    "33 head-ablation conditions": ablations,
}


def interleaved(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds a call of each way, taken in turn so that the machine's moods fall on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 3):
        for name, way in ways.items():
            began = time.perf_counter()
            for _ in range(BLOCK):
                way()
            if round_ >= 3:
                seconds[name].append((time.perf_counter() - began) / BLOCK)
    return seconds


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


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        _measure_memory(*options.memory_of)
        return
    print(
        f"{_processor()}, {platform.system()} {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"medians of {options.repeats} interleaved blocks of {BLOCK} calls\n")
    print(f"{'case':30} {'way':34} {'threads':>7} {'ms':>9} {'ratio to ours':>14} {'peak MiB':>9}")
    for case, build in CASES.items():
        memory = {way: peak_memory(case, way) for way in build() if not way.startswith("floor")}
        for threads in options.threads:
            with fixed_arithmetic(threads):
                seconds = interleaved(build(), options.repeats)
            ours = statistics.median(list(seconds.values())[1])
            for way, values in seconds.items():
                median = statistics.median(values)
                peak = " " * 9 if memory.get(way) is None else f"{memory[way]:9.1f}"
                print(f"{case:30} {way:34} {threads:7d} {1000 * median:9.2f} {median / ours:14.2f} {peak}")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    name = names[0].split(":")[1].strip() if names else platform.processor()
    return f"{len(names) or '?'} × {name}"


if __name__ == "__main__":
    main()
