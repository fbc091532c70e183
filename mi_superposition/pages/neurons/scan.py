"""The pages of a scan: an index, one table per hook, one page per unit. A site of their own, or a part of the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go

from mi_superposition.figures.neurons import activation_histogram, distributions
from mi_superposition.linalg import shares_by_bin
from mi_superposition.neurons import NeuronScan, UnitExamples
from mi_superposition.neurons.config import Layout, PagesConfig, ScanConfig
from mi_superposition.neurons.scan.duplicates import NEAR_DUPLICATE
from mi_superposition.neurons.scan.finish import FEWEST_OCCURRENCES
from mi_superposition.neurons.scan.names import layer_name
from mi_superposition.neurons.scan.scan import CALIBRATION_ROWS
from mi_superposition.pages.losses import losses_of
from mi_superposition.pages.neurons.records import Related, document_records, layer_records, unit_records
from mi_superposition.pages.neurons.scanned import ScannedUnits, open_scan
from mi_superposition.progress import SILENT, Progress
from mi_superposition.site.folder import UNITS, SiteFolder, opened_site
from mi_superposition.site.unit_pages import write_unit_pages
from mi_superposition.site.unit_records import ScanRecord, UnitRecord
from mi_superposition.training import Stopped

_TITLE = "Neuroscope"
# Hooks whose distributions are drawn, from the last one back: more lines cannot be distinguished.
_HOOKS_DRAWN = 3


def run(config: PagesConfig, progress: Progress) -> str:
    """The command ``neurons pages``."""
    n_units = _write(config.scan, config.out, progress, device=config.device.device, layout=config.layout)
    return f"{n_units:,} units: {config.out / 'index.html'}"


def write(folder: Path, out: Path, progress: Progress = SILENT) -> Path:
    """The pages of the scan in a finished run folder as a site of their own; its index.

    Raises ``RequestError`` when ``folder`` is no finished scan, its model is gone or has changed, or ``out`` holds other files.
    """
    _write(folder, out, progress, device="cpu", layout=PagesConfig.layout)
    return out / "index.html"


def figure(scan: NeuronScan) -> go.Figure:
    """How many contexts units respond to, with examples permuted across them as a control."""
    groups = {}
    for hook, units in list(scan.hooks.items())[-_HOOKS_DRAWN:]:
        groups[f"{layer_name(hook)}, trained"] = units.contexts
        groups[f"{layer_name(hook)}, permuted across units"] = units.contexts_shuffled
    return distributions(*shares_by_bin(groups), "effective number of contexts", "fraction of units")


def unit_figure(examples: UnitExamples) -> go.Figure:
    """The distribution of one unit's activations."""
    return activation_histogram(examples.edges, examples.histogram)


def write_scan_pages(
    scanned: ScannedUnits,
    record: ScanRecord,
    site: SiteFolder,
    *,
    site_title: str,
    index: str,
    progress: Progress = SILENT,
    related: Related | None = None,
    together: bool = False,
) -> None:
    """The index, tables, pages and documents of a scan, in a site; ``related`` leads from its units to other pages. ``together``: many
    units in a file.

    Raises ``training.Stopped`` when asked to stop.
    """

    def counted() -> Iterator[UnitRecord]:
        for done, unit in enumerate(unit_records(scanned, related=related)):
            if progress.should_stop():
                raise Stopped(done, "page")
            yield unit
            progress.advance(1, unit.name)

    progress.begin("page", scanned.scan.n_units)
    documents = document_records(scanned)
    write_unit_pages(record, counted(), documents, site, site_title=site_title, index=index, together=together)


def scan_record(scanned: ScannedUnits, config: ScanConfig) -> ScanRecord:
    """What the index says of a scan. Of a path on this machine it shows the last part."""
    scan, settings = scanned.scan, scanned.scan.settings
    model, corpus = (
        Path(name).name if Path(name).exists() else name for name in (config.model.name, config.text.corpus)
    )
    precision = config.forward.precision
    facts = [
        ("model", model if precision == "float32" else f"{model}, {precision} arithmetic"),
        ("corpus", corpus),
        ("documents", f"{scan.n_documents:,}"),
        ("tokens", f"{scan.n_tokens:,}"),
        ("hooks", str(len(scan.hooks))),
    ]
    what = "features" if scanned.saes and len(scan.hooks) == 1 else "neurons"
    remarks = [
        "Beginning-of-text, end-of-text and padding tokens are excluded from all numbers and examples.",
        "A document longer than the context is split into sequences; each sequence is read without the text before it.",
        f"Largest and smallest activations: at most one per document. A document is skipped as a near-duplicate of a better example if the Jaccard similarity of their sets of token 5-grams is at least {100 * NEAR_DUPLICATE:.0f} % (estimated by min-hashing). {settings.spare} spare candidates are kept to replace skipped ones; with more near-duplicates than that, fewer examples are shown.",
        f"The histogram and the ten intervals divide the activation range measured on the first {CALIBRATION_ROWS} sequences into equal parts; values outside the range belong to the outermost intervals and bins. Examples are drawn uniformly within each interval.",
        f"Shading shows the activation (orange: positive, blue: negative). Activations are kept for {settings.reach} tokens before and after each largest activation, and for the tokens shown around the other examples.",
        f"Fires on: tokens with the largest mean activation, among tokens that occur at least {FEWEST_OCCURRENCES} times.",
        f"Active: activation above {settings.active_above:g}. Contexts: the effective number of different contexts among the largest activations (Vendi score of the similarity (c + c²) / 2 of two examples of cosine c). It is computed from the model's residual stream at those tokens (before the MLP for neurons, at the hook itself for features), minus its mean, projected onto 64 random directions. The control permutes the examples across {what}. One feature that occurs in varied text also counts as several contexts.",
        "Lists based on weights (raises, lowers, driven by, most similar) are omitted where they would mislead: for units that are neither MLP neurons nor SAE features, for the inputs of gated MLPs, and for outputs that pass through another normalisation.",
        "Raises and lowers: W_out W_U, with the centring and weight of the final normalisation folded in (but not its division by the norm), minus the mean over tokens. Effects through later layers are not included.",
        "Driven by: how much each token's embedding alone, normalised, adds to the neuron's input (no positional embedding, attention or earlier layers).",
    ]
    if settings.correlation_share:
        share = 100 * settings.correlation_share
        remarks.append(f"Correlations are computed from {share:.3g} % of the tokens, drawn at random.")
    if scanned.saes:
        remarks.append(
            "SAE features: “raises” and “lowers” use the decoder direction. “Reads from” and “read by”: the largest cosines, by magnitude, between a neuron's output direction and a feature's encoder direction."
        )
    return ScanRecord(f"The {what} of {Path(config.model.name).name}", facts, remarks, layer_records(scanned))


def _write(folder: Path, out: Path, progress: Progress, *, device: str, layout: Layout) -> int:
    SiteFolder(out, UNITS)
    scanned, config = open_scan(folder, device=device)
    record = scan_record(scanned, config)
    if losses := losses_of(folder):
        record = replace(record, facts=[*record.facts, ("documents not read as they stand", losses)])
    with opened_site(out, UNITS) as site:
        together = PagesConfig.lays_together(layout, scanned.scan.n_units)
        write_scan_pages(
            scanned, record, site, site_title=_TITLE, index="index.html", progress=progress, together=together
        )
    return scanned.scan.n_units
