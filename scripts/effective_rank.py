"""How many directions the layers of a network use: trained, untrained, and in random matrices.

    python scripts/effective_rank.py
    python scripts/effective_rank.py --model resnet50 --images DIR --stem small-pooled --out runs/resnet

`mi-superposition spectra` has the same options and writes a page. With ``--bundle`` the result goes into the package, for the
report; the weights do not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import tyro

from mi_superposition.cli.terminal import StoppedByUser, terminal_progress
from mi_superposition.errors import RequestError, WorkError
from mi_superposition.runs import seal
from mi_superposition.spectra import SpectraConfig
from mi_superposition.studies.spectra import measure as study
from mi_superposition.studies.spectra.network import STATES


def main(config: SpectraConfig, out: Path | None = None, bundle: str | None = None) -> None:
    """Train, measure, print.

    Args:
        config: What to measure on what.
        out: Run folder; a run that was stopped is resumed. Default: none is kept.
        bundle: Name under which the result goes into the package.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch) / "run"
        with terminal_progress() as progress:
            study.measure(config, folder, progress)
        result = study.load(folder)
        if bundle is not None:
            bundled = study.BUNDLED / bundle
            bundled.mkdir(parents=True, exist_ok=True)
            for name in study.KEPT:
                if (folder / name).exists():
                    shutil.copy(folder / name, bundled / name)
            seal(bundled)
            print(f"bundled in {bundled}", file=sys.stderr)
    print(result.told())
    for kind in result.kinds:
        means = ", ".join(f"{state} {result.mean_ratio(state, kind):.3f}" for state in result.all_spectra)
        print(f"{kind}: energy rank / maximum, mean over layers: {means}")
        depth = {state: result.depth_correlation(state, kind) for state in STATES}
        if None not in depth.values():
            print(f"  Spearman correlation with depth: {', '.join(f'{state} {depth[state]:+.2f}' for state in depth)}")


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    except (StoppedByUser, RequestError, WorkError) as stop:
        sys.exit(str(stop))
