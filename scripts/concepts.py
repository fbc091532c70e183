"""What a model keeps of concepts, beside an untrained model, random word lists and permuted labels.

    python scripts/concepts.py
    python scripts/concepts.py --model DIR --corpus train.parquet --labels none

`mi-superposition concepts` does the same with more options and writes a page. With ``--bundle`` what was found goes into the
package, for the report; the texts do not.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from mi_superposition.cli.command import StoppedByUser, progress, stop_on_signal, text_table
from mi_superposition.concepts.overlap import mean_shared
from mi_superposition.runs import MANIFEST, METRICS
from mi_superposition.studies.concepts.findings import FINDINGS
from mi_superposition.studies.concepts.page import accuracy_rows, intro
from mi_superposition.studies.concepts.section import BUNDLED
from mi_superposition.studies.concepts.study import ConceptsRequest, load_findings, write_concepts_run


@dataclass(frozen=True)
class Options:
    """What to look for where."""

    model: str = "stories"
    """Language model or encoder: bundled, folder or id on the hub."""
    corpus: str = "stories"
    """Bundled corpus, file or dataset id on the hub."""
    labels: str = "auto"
    """Column with labels, 'none' for word lists, or 'auto'."""
    most: int = 8000
    """Texts from the first on."""
    sae: str | None = None
    """Sparse autoencoder whose features are looked at too."""
    out: Path | None = None
    """Run folder, to go on with if it was stopped. Default: none is kept."""
    bundle: str | None = None
    """Name under which what was found goes into the package."""


def main() -> None:
    """Measure, print."""
    options = tyro.cli(Options, description=__doc__)
    request = ConceptsRequest(options.model, options.corpus, labels=options.labels, most=options.most, sae=options.sae)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch) / "run"
        with stop_on_signal() as stopping, progress("text") as on_text:
            write_concepts_run(out, request, on_text=on_text, should_stop=stopping)
        findings = load_findings(out)
        if options.bundle:
            folder = BUNDLED / options.bundle
            folder.mkdir(parents=True, exist_ok=True)
            for name in (MANIFEST, METRICS, FINDINGS):
                shutil.copy(out / name, folder / name)
            print(f"bundled in {folder}", file=sys.stderr)
    print(intro(findings))
    print(text_table(*accuracy_rows(findings)))
    for layer, found in findings.layers["trained"].items():
        if len(found.shared):
            untrained = mean_shared(findings.layers["untrained"][layer].shared)
            line = (
                f"{layer}: two concepts share {mean_shared(found.shared):.1f} of their units, untrained {untrained:.1f}"
            )
            if layer in findings.random:
                shared = findings.random[layer].shared
                line += f", random word lists {sum(shared) / len(shared):.1f} ({min(shared):.1f} to {max(shared):.1f})"
            print(line)


if __name__ == "__main__":
    try:
        main()
    except StoppedByUser as stop:
        sys.exit(str(stop))
