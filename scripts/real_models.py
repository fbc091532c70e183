"""Everything that is measured on two real pretrained models: one run folder after another, each resumes (hours on two cores).

    python scripts/real_models.py --models FOLDER --data FOLDER --out runs/real

measures SmolLM2-135M-Instruct (`FOLDER/smollm2-135m`, a Hugging Face folder) and all-MiniLM-L6-v2 (`FOLDER/minilm`) on TinyStories
(`train.parquet` and `validation.parquet` in the folder of data, each with a column 'text'). `--list` prints the commands, `--only order
sae` takes those whose name begins so, `--jobs 4` runs four at a time, `--device cuda` uses a GPU. seconds.json has how long each took.

    python scripts/real_models.py --out runs/real --bundle

writes the numbers of the finished ones, not the weights, into the package, from where the report shows them.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mi_superposition.files import read_json, write_json
from mi_superposition.real import BUNDLED_REAL
from mi_superposition.runs import MANIFEST, METRICS

# Layers named before anything was measured: a sixth, half and five sixths of the way.
N_LAYERS, SOME_LAYERS, MIDDLE = 30, (5, 15, 25), 15
SECONDS = "seconds.json"
_WRITING = threading.Lock()
# Of steps with thousands of numbers, by how the step's name begins, those kept: the share of the largest possible rank; the headline of
# concepts with its controls and each layer's probe; what is done to heads by their mean, with its controls.
KEPT = {
    "spectra": r"\.possible_ratio$",
    "concepts": r"^[^.]*$|^halvings\.|\.probe$",
    "heads-ablate": r"^[^/]*$|/mean_|/random_direction_loss|/untrained_loss|whole_layer|^task_[^/]*/[^/]*$",
}


@dataclass(frozen=True)
class Step:
    """One command of ours; ``{smollm2}``, ``{minilm}``, ``{train}``, ``{held_out}``, ``{out}`` and ``{device}`` stand for folders and device."""

    name: str
    command: str


def steps() -> list[Step]:
    """All commands, in an order in which each finds what it needs."""
    text = "--model {smollm2} --corpus {train}"
    hooks = " ".join(f"blocks.{layer}.mlp.hook_post" for layer in SOME_LAYERS)
    residual = f"blocks.{MIDDLE}.hook_resid_pre"
    return [
        *(
            Step(
                f"order-{layer}",
                f"neurons order --model {{smollm2}} --layer {layer} --weights out --controls 5 --seconds 0.2 --device cpu",
            )
            for layer in range(N_LAYERS)
        ),
        Step("scan", f"neurons scan {text} --documents 1000 --shard 100 --device {{device}}"),
        Step("contexts", f"neurons contexts {text} --documents 300 --shard 100 --hook {hooks} --device {{device}}"),
        Step("sae", f"sae train {text} --hook {residual} --d-sae 8192 --k 32 --tokens 3000000 --device {{device}}"),
        Step(
            "sae-evaluation",
            "sae evaluate --sae {out}/sae --model {smollm2} --corpus {held_out} --documents 300 --control-corpus {train} --device {device}",
        ),
        Step("spectra", f"spectra {text} --documents 200 --device {{device}}"),
        Step("heads-scan", f"heads scan {text} --documents 40 --device {{device}}"),
        Step(
            "heads-ablate",
            f"heads ablate {text} --layer {' '.join(map(str, SOME_LAYERS))} --documents 10 --document-tokens 96 --reference-documents 20 --task-sets 0 --device {{device}}",
        ),
        # Fewer texts and halvings than by default: there are two probes in each of 30 layers, of 576 and 1,536 dimensions.
        Step(
            "concepts",
            f"concepts {text} --concepts stories --documents 4000 --halvings 4 --random-lists 10 --random-probes 1 --device {{device}}",
        ),
        Step("concepts-minilm", "concepts --model {minilm} --corpus {train} --concepts stories --device {device}"),
    ]


def main() -> None:
    """Run, or bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", type=Path, help="folder with 'smollm2-135m' and 'minilm'")
    parser.add_argument("--data", type=Path, help="folder with TinyStories' train.parquet and validation.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", nargs="+", help="steps whose names begin with one of these")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    parser.add_argument("--bundle", action="store_true", help="write the numbers into the package and stop")
    parser.add_argument("--machine", help="with --bundle: name of the machine that measured, if it was another")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    options = parser.parse_args()
    wanted = [step for step in steps() if options.only is None or step.name.startswith(tuple(options.only))]
    if not wanted:
        parser.error(f"--only {' '.join(options.only)}: there are {', '.join(step.name for step in steps())}")
    if options.list:
        print("\n".join(f"mi-superposition {step.command} --out {{out}}/{step.name}" for step in wanted))
        return
    if options.bundle:
        print(bundle(wanted, options.out, options.machine or f"{platform.processor() or platform.machine()}"))
        return
    if options.models is None or options.data is None:
        parser.error("--models and --data: give both folders")
    places = {
        "smollm2": options.models / "smollm2-135m",
        "minilm": options.models / "minilm",
        "train": options.data / "train.parquet",
        "held_out": options.data / "validation.parquet",
        "out": options.out,
        "device": options.device,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    # The evaluation reads what the training left.
    later = [step for step in wanted if "{out}/" in step.command]
    codes = []
    for together in ([step for step in wanted if step not in later], later):
        with ThreadPoolExecutor(options.jobs) as pool:
            codes += pool.map(lambda step: run(step, places, options.out), together)
    sys.exit(any(codes))


def run(step: Step, places: dict[str, object], out: Path) -> int:
    """One command, in a process of its own, and how long it took where it was not finished before."""
    words = [word.format(**places) for word in step.command.split()]
    began = time.monotonic()
    code = subprocess.call([sys.executable, "-m", "mi_superposition.cli", *words, "--out", str(out / step.name)])
    taken = time.monotonic() - began
    print(f"{step.name}: {'done' if code == 0 else f'exit code {code}'} after {taken:.0f} s", flush=True)
    with _WRITING:
        known = seconds_of(out)
        if code == 0 and step.name not in known:
            write_json(out / SECONDS, known | {step.name: round(taken, 1)})
    return code


def seconds_of(out: Path) -> dict[str, float]:
    """How long each finished step took; of one that was stopped, its last part."""
    return read_json(out / SECONDS) if (out / SECONDS).exists() else {}


def bundle(wanted: list[Step], out: Path, machine: str) -> Path:
    """Write what was measured on a machine into the package, beside what is there of other steps; where to."""
    finished = [step.name for step in wanted if (out / step.name / METRICS).exists()]
    known = read_json(BUNDLED_REAL) if BUNDLED_REAL.exists() else {"metrics": {}, "seconds": {}, "machines": {}}
    seconds = seconds_of(out)
    for name in finished:
        known["metrics"][name] = {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in summarised(read_json(out / name / METRICS)).items()
            if is_kept(name, key)
        }
        known["machines"][name] = machine
        if name in seconds:
            known["seconds"][name] = seconds[name]
    order = [step.name for step in steps()]
    in_order = {
        entry: {name: known[entry][name] for name in order if name in known[entry]}
        for entry in ("metrics", "seconds", "machines")
    }
    write_json(BUNDLED_REAL, {"name": "SmolLM2-135M-Instruct", "sha256": _hash(out, finished)} | in_order)
    return BUNDLED_REAL


def summarised(metrics: dict[str, Any]) -> dict[str, float | int | None]:
    """Numbers as they are; of a number of every head (a list) the median and both ends."""
    found: dict[str, float | int | None] = {}
    for key, value in metrics.items():
        if isinstance(value, int | float | None):
            found[key] = value
        elif isinstance(value, list) and (numbers := [one for one in value if isinstance(one, int | float)]):
            found |= {f"{key}/median": median(numbers), f"{key}/largest": max(numbers), f"{key}/smallest": min(numbers)}
    return found


def is_kept(step: str, key: str) -> bool:
    """Whether a number of a step goes into the package."""
    return all(re.search(pattern, key) for begin, pattern in KEPT.items() if step.startswith(begin))


def _hash(out: Path, finished: list[str]) -> str:
    """Of SmolLM2's weights, which all steps but the encoder's must have read."""
    read = {
        read_json(out / name / MANIFEST)["inputs"]["model"]["sha256"] for name in finished if name != "concepts-minilm"
    } | ({read_json(BUNDLED_REAL)["sha256"]} if BUNDLED_REAL.exists() else set())
    if len(read) != 1:
        sys.exit(
            f"real_models.py: the runs in {str(out)!r} and what is bundled read different weights: {sorted(read)}; remove {str(BUNDLED_REAL)!r} to bundle others"
        )
    return read.pop()


if __name__ == "__main__":
    main()
