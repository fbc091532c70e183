"""Train the bundled toy models: everything the nine studies need, from nothing.

    python scripts/train_toy.py --out runs/toy            # about eleven minutes on two cores; stop and go on at will
    python scripts/train_toy.py --out runs/toy --bundle   # and put them into the package

A study's runs stay where `mi-superposition toy study` would leave them. Into the package go the kept instances' weights and
the losses of all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from mi_superposition.runs import METRICS, read_json, read_manifest, write_json
from mi_superposition.studies.toy import STUDIES
from mi_superposition.studies.toy.study import BUNDLED, StudySize, bundled_models, train_study
from mi_superposition.toy import load_toy
from mi_superposition.toy.models import save_toy


def main() -> None:
    """Train, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="which of them")
    parser.add_argument("--bundle", action="store_true", help="write them into the package")
    options = parser.parse_args()
    for name in options.studies:
        study = STUDIES[name]
        total = sum(config.n_steps for config in study.sized(StudySize()).values())
        with tqdm(total=total, unit="step", desc=name) as bar:
            train_study(study, options.out / name, on_step=lambda by, state, bar=bar: bar.update(by))
        if options.bundle:
            for run in study.sized(StudySize()):
                source, target = options.out / name / "runs" / run, BUNDLED / name / run
                save_toy(load_toy(source), target)
                # What is true of the run wherever it lies.
                manifest = read_manifest(source)
                write_json(target / "manifest.json", {key: manifest[key] for key in manifest if key != "git_commit"})
                write_json(target / METRICS, read_json(source / METRICS))
            print(f"{name}: {study.outcome(bundled_models(study))}")


if __name__ == "__main__":
    main()
