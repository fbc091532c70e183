"""What a model represents of concepts, compared with an untrained model, random word lists and permuted labels.

    python scripts/concepts.py
    python scripts/concepts.py --model DIR --corpus train.parquet --labels none

`mi-superposition concepts` does the same and writes a page. With ``--bundle`` the result goes into the package, for the report;
the texts do not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import tyro

from mi_superposition.cli.terminal import StoppedByUser, terminal_progress
from mi_superposition.concepts import ConceptsConfig
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import MANIFEST, METRICS, seal
from mi_superposition.studies.concepts import measure as study


def main(config: ConceptsConfig, out: Path | None = None, bundle: str | None = None) -> None:
    """Measure, print.

    Args:
        config: What to measure.
        out: Run folder, to resume if it was stopped. Default: none is kept.
        bundle: Name under which the result goes into the package.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch) / "run"
        with terminal_progress() as progress:
            study.measure(config, folder, progress)
        result = study.load(folder)
        if bundle is not None:
            target = study.BUNDLED / bundle
            target.mkdir(parents=True, exist_ok=True)
            for name in (MANIFEST, METRICS, study.RESULT):
                shutil.copy(folder / name, target / name)
            seal(target)
            print(f"bundled in {target}", file=sys.stderr)
    print(result.told())
    if result.halves is not None:
        for name in ("trained", "untrained", "denied", "word_vectors", "bag_of_words"):
            if getattr(result.halves, name):
                print(
                    f"{name}: {result.halves.mean(name):.3f} ± {result.halves.deviation(name):.3f} over {len(result.halves.trained)} halvings"
                )
    for one in result.shared_comparisons():
        print(
            f"{one.layer}, top {one.k}: {one.observed:.2f} shared, random {one.random:.2f} ± {one.deviation:.2f}, p = {one.p:.3f}, "
            f"adjusted {one.adjusted:.2f}"
        )
    for layer, random in result.random.items():
        print(
            f"{layer}: concepts share {result.trained[layer].mean_shared:.1f} of their {result.config.units_per_concept} units on average, "
            f"untrained {result.untrained[layer].mean_shared:.1f}, random word lists {random.mean_shared:.1f} ({min(random.shared):.1f} to "
            f"{max(random.shared):.1f})"
        )


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
