"""The report's chapter on what makes each neuron fire: the pages of all neurons and features, and how many contexts they respond to."""

from __future__ import annotations

from dataclasses import replace

from mi_superposition.neurons.config import ContextsConfig
from mi_superposition.pages.neurons import contexts
from mi_superposition.pages.neurons.related import related_units
from mi_superposition.pages.neurons.scan import scan_record, write_scan_pages
from mi_superposition.pages.neurons.scanned import open_scan
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative
from mi_superposition.site.records import UNITS
from mi_superposition.studies.neurons.contexts import COMMAND, load

_SLUG, _TITLE, _JOB = "neuroscope", "What makes each neuron fire", "contexts"
_MODEL = "stories"
# Of real stories; of the bundled ones as many as the command reads.
_FULL_DOCUMENTS = 5000
_COMMAND = "mi-superposition neurons contexts --model stories --sae stories --out RUN"
ALTERNATIVES = (
    Alternative(
        "the other layer",
        "the same: 10.0 contexts in layer 0, within 5.1 to 14.5 along random directions of five kinds",
        _COMMAND,
        "neuroscope.md",
    ),
    Alternative(
        "features of a sparse autoencoder, not neurons",
        "the same: 4.9 contexts, within 3.1 to 13.9",
        _COMMAND,
        "neuroscope.md",
    ),
    Alternative(
        "the whole bundled corpus, not 500 documents",
        "fewer contexts, as with any larger corpus: 9.4 in layer 1, and 18.6 with examples permuted across neurons",
        "mi-superposition neurons scan --model stories --corpus stories --out RUN",
        "neuroscope.md",
    ),
    Alternative(
        "another similarity of two examples: the cosine itself",
        "opposite examples are one context, and 20 independent ones in 64 dimensions 17.6 instead of 19.2: not used any more",
        "pytest tests/neurons/test_polysemanticity.py",
        "neuroscope.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """The neurons of the bundled story model and the features of its autoencoder, on bundled or on real stories."""
    config = ContextsConfig().replace(model=_MODEL, sae=_MODEL, correlation_share=1 / 32, device="cpu")
    if request.real is not None:
        corpus, split = request.real.texts("tinystories", "validation")
        config = config.replace(corpus=corpus, split=split, documents=_FULL_DOCUMENTS)
    return {_JOB: Job(COMMAND, config, kept=request.real is not None)}


def section(runs: Runs, request: ChapterRequest) -> Section:
    """The chapter, from the folders of its run, with links to the chapters of the order and of concepts."""
    folder = runs[_SLUG][_JOB]
    result = load(folder)
    scanned, config = open_scan(folder, device="cpu")
    record = scan_record(scanned, config)
    related = related_units(runs, scanned)
    corpus = "the bundled corpus" if request.real is None else "TinyStories, validation"
    n_features = sum(sae.W_dec.shape[0] for sae in scanned.saes.values())
    page = Page(
        slug=_SLUG,
        title=_TITLE,
        intro=f"The bundled story model on {result.n_documents:,} documents ({result.n_tokens:,} tokens) of {corpus}: one page for each of its {scanned.scan.n_units - n_features:,} neurons and each of the {n_features:,} features of the bundled sparse autoencoder. The pages follow Neuroscope (N. Nanda 2022).",
        items=contexts.items(result, scanned, linked=True),
    )
    return replace(
        contexts.section(result, page, title=_TITLE),
        summary="One page per neuron: the texts with its largest and smallest activations, examples from its whole range, a histogram, the tokens it promotes, and similar neurons. How many different contexts does one neuron respond to?",
        write_more=lambda site, title: write_scan_pages(
            scanned,
            record,
            site,
            site_title=title,
            index=f"{UNITS}/index.html",
            related=related,
            progress=request.progress,
        ),
        folders=(UNITS,),
        alternatives=ALTERNATIVES,
    )
