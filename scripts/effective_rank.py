"""How many directions the layers of a network use, trained, untrained and at random.

    python scripts/effective_rank.py
    python scripts/effective_rank.py --network resnet50 --images DIR --stem small-pooled --out runs/resnet

`mi-superposition spectra` does the same with more options and writes a page. With ``--bundle`` what was found goes into
the package, for the report; the weights do not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from mi_superposition.cli.command import StoppedByUser, progress, stop_on_signal, text_table
from mi_superposition.models.classifiers import Stem
from mi_superposition.spectra.classifier import ClassifierTraining
from mi_superposition.spectra.result import KINDS
from mi_superposition.studies.spectra.page import depth_in_words, intro, mean_ratio, ranks_table
from mi_superposition.studies.spectra.section import BUNDLED
from mi_superposition.studies.spectra.study import (
    KEPT,
    SpectraRequest,
    load_findings,
    open_subject,
    write_spectra_run,
)


@dataclass(frozen=True)
class Options:
    """What to measure."""

    network: str = "simplenet"
    """'simplenet', 'resnet50', with --images any image classifier of transformers; else a language model."""
    images: str | None = None
    """'digits', folder with train.parquet and test.parquet, or dataset id on the hub."""
    epochs: int = 20
    """Passes over the images trained on."""
    batch_size: int = 64
    """Images in a step."""
    weight_decay: float = 0.0
    """AdamW's."""
    most: int | None = None
    """How many images or documents are measured. Default: all."""
    stem: Stem = "imagenet"
    """A ResNet's first convolution."""
    out: Path | None = None
    """Run folder, to go on with if it was stopped. Default: none is kept."""
    bundle: str | None = None
    """Name under which what was found goes into the package."""


def main() -> None:
    """Train, measure, print."""
    options = tyro.cli(Options, description=__doc__)
    training = ClassifierTraining(options.epochs, options.batch_size, weight_decay=options.weight_decay)
    request = SpectraRequest(options.network, options.images, training=training, stem=options.stem, most=options.most)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch) / "run"
        with progress("image") as on_image:
            subject = open_subject(request, on_image=on_image)
        with stop_on_signal() as stopping, progress("step", subject.total) as on_step:
            write_spectra_run(out, request, subject, on_step=on_step, should_stop=stopping)
        findings = load_findings(out)
        if options.bundle:
            folder = BUNDLED / options.bundle
            folder.mkdir(parents=True, exist_ok=True)
            for name in KEPT:
                if (out / name).exists():
                    shutil.copy(out / name, folder / name)
            print(f"bundled in {folder}", file=sys.stderr)
    print(intro(findings))
    print(text_table(*ranks_table(findings)))
    for kind in KINDS:
        means = ", ".join(f"{state} {mean_ratio(findings, state, kind):.3f}" for state in findings.all_spectra())
        print(f"{kind}: energy rank over the largest, mean of the layers: {means}; {depth_in_words(findings, kind)}")


if __name__ == "__main__":
    try:
        main()
    except StoppedByUser as stop:
        sys.exit(str(stop))
