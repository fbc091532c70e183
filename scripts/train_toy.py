"""Train the bundled toy models from scratch: everything that the nine studies need.

    python scripts/train_toy.py --out runs/toy            # about eleven minutes on two cores; stop and resume at will
    python scripts/train_toy.py --out runs/toy --bundle   # and put them into the package

Into the package go the finished runs of `mi-superposition toy study`, without pages and histories.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import get_args

import mi_superposition as ms
from mi_superposition.cli import main as command_line
from mi_superposition.files import read_json, read_tensors, write_json, write_tensors
from mi_superposition.runs import MANIFEST, METRICS, seal
from mi_superposition.toy import bundled_study
from mi_superposition.toy.config import StudyName

# Studies with the weights of many instances, which would take too much room.
HALVED = {"dropout"}


def main() -> None:
    """Train, and print the results."""
    studies = get_args(StudyName)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--studies", nargs="+", choices=studies, default=list(studies), help="which of them")
    parser.add_argument("--bundle", action="store_true", help="write them into the package")
    options = parser.parse_args()
    for name in options.studies:
        out = options.out / name
        if code := command_line(["toy", "study", name, "--out", str(out)]):
            sys.exit(code)
        if options.bundle:
            bundle(out, bundled_study(name))
            print(f"{name}: {ms.load_run(bundled_study(name)).summary()}")


def bundle(study: Path, into: Path) -> None:
    """Copy a finished study into the package, in place of the one that is there; weights of many instances in half precision, from which
    its numbers are measured again.
    """
    shutil.rmtree(into, ignore_errors=True)
    for run in (study, *sorted((study / "runs").iterdir())):
        target = into / run.relative_to(study)
        target.mkdir(parents=True)
        for file in (METRICS, "weights.safetensors"):
            if (run / file).exists():
                shutil.copyfile(run / file, target / file)
        if into.name in HALVED and run != study:
            tensors, metadata = read_tensors(target / "weights.safetensors")
            halved = {
                name: values.half() if name.endswith(("W_in", "W_out", "b")) else values
                for name, values in tensors.items()
            }
            write_tensors(target / "weights.safetensors", halved, metadata)
        # What is true of the run wherever it lies.
        manifest = read_json(run / MANIFEST)
        write_json(target / MANIFEST, {key: manifest[key] for key in manifest if key != "git_commit"})
        seal(target)
    if into.name in HALVED:
        write_json(into / METRICS, ms.load_run(into).metrics())
        seal(into)


if __name__ == "__main__":
    main()
