"""Neuroscope: the pages of a scan as a site of their own, and as a section of the report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_superposition.corpora import load_corpus, model_batches
from mi_superposition.corpora.tokens import visible_tokens
from mi_superposition.errors import RequestError
from mi_superposition.figures.neurons import distributions
from mi_superposition.linalg import shares_by_bin
from mi_superposition.models import FEATURES, Encode, load_model, untrained_copy, weights_of
from mi_superposition.neurons import NeuronScan, ScanSettings
from mi_superposition.neurons.scan import (
    UnitReader,
    UnitScan,
    calibrate,
    documents_needed,
    mlp_hooks,
    read_documents,
    scan_batches,
    scan_result,
)
from mi_superposition.neurons.scan.result import FEWEST_OCCURRENCES, NEAR_DUPLICATE
from mi_superposition.neurons.scan.scan import CALIBRATION_ROWS
from mi_superposition.runs import content_hash, read_manifest
from mi_superposition.sae import check_sae, load_sae
from mi_superposition.sae.files import one_sae_folder, sae_identity
from mi_superposition.site import FigureRecord, Page, Section
from mi_superposition.site.neuron_pages import write_neuron_pages
from mi_superposition.site.neuron_records import NeuronRecord, ScanRecord, layer_name, layer_slug, unit_slug, unit_word
from mi_superposition.site.records import UNITS, Link, TableRecord
from mi_superposition.site.write import check_site_folder
from mi_superposition.studies.neuron_records import (
    Related,
    Saes,
    document_records,
    layer_records,
    neuron_records,
    unit_effects,
)
from mi_superposition.studies.neuron_scan import COMMAND as SCAN_COMMAND
from mi_superposition.studies.neuron_scan import load_scan, scanned_saes
from mi_superposition.studies.related import related_units
from mi_superposition.studies.request import SectionRequest
from mi_superposition.training import Stopped, seeded_generator

TITLE = "Neuroscope"
SECTION_TITLE = "What makes each neuron fire"
# The report scans so many documents of the bundled corpus, with the trained and with an untrained model.
REPORT_DOCUMENTS = 500
_FULL_DOCUMENTS = 5000
_PAGES_A_STAGE = 1024
_CORPORA = {"stories": "the bundled corpus", "TinyStories": "TinyStories, validation"}
_ROWS_AT_ONCE = 32
_RANDOM_DIRECTIONS = 512
# Neurons of many words and one context stand on so many different tokens at least.
_FEWEST_TOKENS = 10
_NAMED, _WORDS = 8, 5


def write_neuroscope(
    run: Path, out: Path, *, device: str = "cpu", on_pages: Callable[[int, str], None] = lambda pages, state: None
) -> int:
    """The pages of a finished scan as a site of their own; how many neurons have one.

    Raises ``RequestError`` when ``run`` is no finished scan, its model is gone or another one by now, or ``out`` holds
    other files.
    """
    check_site_folder(out)
    manifest = read_manifest(run, SCAN_COMMAND)
    scan, asked = load_scan(run), manifest["config"]["model"]
    model = load_model(asked, device=device)
    if content_hash(weights_of(model)) != manifest["inputs"]["model"]["sha256"]:
        raise RequestError(f"{asked!r} is another model than the one {str(run)!r} scanned: scan again")
    sae_name = manifest["config"].get("sae")
    if sae_name is not None and sae_identity(one_sae_folder(sae_name)) != manifest["inputs"]["sae"]["sha256"]:
        raise RequestError(f"{sae_name!r} is another autoencoder than the one {str(run)!r} scanned: scan again")
    saes = scanned_saes(sae_name, model)
    record = scan_record(
        scan,
        model,
        model_name=asked,
        corpus_name=manifest["config"]["corpus"],
        precision=manifest["config"]["precision"],
        saes=saes,
    )
    write_scan_pages(scan, model, record, out, site_title=TITLE, index="index.html", on_pages=on_pages, saes=saes)
    return sum(layer.n_units for layer in record.layers)


def write_scan_pages(
    scan: NeuronScan,
    model: Any,
    record: ScanRecord,
    out: Path,
    *,
    site_title: str,
    index: str,
    on_pages: Callable[[int, str], None] = lambda pages, state: None,
    saes: Saes | None = None,
    related: Related | None = None,
) -> None:
    """The index, tables, pages and documents of a scan under ``out``; ``related`` leads from its units to other pages."""

    def counted() -> Iterator[NeuronRecord]:
        for neuron in neuron_records(scan, model, saes=saes, related=related):
            yield neuron
            on_pages(1, neuron.name)

    write_neuron_pages(record, counted(), document_records(scan, model), out, site_title=site_title, index=index)


def scan_record(
    scan: NeuronScan,
    model: Any,
    *,
    model_name: str,
    corpus_name: str,
    precision: str = "float32",
    saes: Saes | None = None,
) -> ScanRecord:
    """What the index says of a scan. Of a path on this machine it shows the last part."""
    settings = scan.settings
    names = [Path(name).name if Path(name).exists() else name for name in (model_name, corpus_name)]
    facts = [
        ("model", names[0] if precision == "float32" else f"{names[0]}, {precision} arithmetic"),
        ("corpus", names[1]),
        ("documents", f"{scan.n_documents:,}"),
        ("tokens", f"{scan.n_tokens:,}"),
        ("layers", str(len(scan.hooks))),
    ]
    remarks = [
        "Beginning, end and padding tokens never count, neither in the numbers nor among the examples.",
        "The model reads a document longer than its context in pieces, each without what came before.",
        f"Largest and least activations: one a document. A document is passed over as a near-duplicate of a better example when, of the runs of five tokens in either, both have {100 * NEAR_DUPLICATE:.0f} % (estimated by min-hashes); {settings.spare} further candidates are kept to stand in, so with more near-duplicates there are fewer examples.",
        f"Tenths and histogram divide the range found in the first {CALIBRATION_ROWS} rows; what lies beyond belongs to the outermost tenths and bars. Examples are drawn uniformly from each tenth.",
        f"Shading is by the size of the activation (orange above zero, blue below), kept for {settings.reach} tokens before and after the largest activations, and for the tokens shown around the others.",
        f"Fires on: the tokens with the largest mean activation among those seen at least {FEWEST_OCCURRENCES} times.",
        f"Active: above {settings.active_above:g}. Contexts: the effective number of different contexts among the largest activations, in the model's own representation (on 64 random directions), beside the same for examples dealt at random. One feature in varied surroundings also counts as several.",
        "Lists of weights (raises, lowers, driven by, alike) are left out where they would mislead: for units that are neither MLP neurons nor features, inputs of gated MLPs, outputs that a further normalisation follows.",
        "Raises and lowers: W_out W_U with the final normalisation's centring and weight folded in, its division left out, the mean over tokens taken off. Later layers, which may undo it, are not in it.",
        "Driven by: what each token's embedding alone, normalised, adds to the neuron's input; no position, no attention, no earlier layer.",
    ]
    if settings.correlation_share:
        share = 100 * settings.correlation_share
        remarks.append(f"Correlations are computed from {share:.3g} % of the tokens, drawn at random.")
    if saes:
        remarks.append(
            "Features: raises and lowers are the decoder's; reads from and read by are the cosine of what a neuron writes and what a feature's encoder reads, the strongest of either sign."
        )
    what = "features" if saes and len(scan.hooks) == 1 else "neurons"
    return ScanRecord(f"The {what} of {Path(model_name).name}", facts, remarks, layer_records(scan, model, saes))


def neuroscope_section(request: SectionRequest) -> Section:
    """The report's section: every neuron of the bundled story model has its page; how many contexts each serves, beside
    an untrained model; the neurons of many words and one context and those of most contexts, by rule.
    """
    corpus_name, texts = _texts(request)
    model = load_model("stories", device="cpu")
    sae = load_sae("stories")
    hook = check_sae(sae, model)
    saes = {f"{hook}{FEATURES}": sae}
    request.on_stage("neurons and features, trained")
    neurons: dict[str, Encode | None] = dict.fromkeys(mlp_hooks(model))
    scan = _scan_texts(model, model, neurons | {hook: sae.encode}, texts, request)
    request.on_stage("neurons, untrained")
    scans = {"trained": scan, "untrained": _scan_texts(untrained_copy(model, 0), model, neurons, texts, request)}
    last_hook = mlp_hooks(model)[-1]
    request.on_stage("random directions")
    # What the last layer's neurons and the features are directions of.
    spaces = {last_hook: last_hook.replace("mlp.hook_post", "hook_resid_mid"), f"{hook}{FEATURES}": hook}
    drawn = _scan_texts(model, model, dict.fromkeys(spaces.values(), along_random_directions(model)), texts, request)
    of_any = {of: float(drawn.hooks[f"{space}{FEATURES}"].contexts.median()) for of, space in spaces.items()}
    last = layer_name(last_hook)
    medians = {name: float(one.hooks[last_hook].contexts.median()) for name, one in scans.items()}
    dealt = float(scan.hooks[last_hook].contexts_shuffled.median())
    features = scan.hooks[f"{hook}{FEATURES}"]
    # One active in fewer documents has fewer contexts for that reason alone.
    often = (features.top.document >= 0).all(dim=1)
    contexts_of_features = float(features.contexts[often].median())
    record = scan_record(scan, model, model_name="stories", corpus_name=corpus_name, saes=saes)
    related = related_units(model, saes, request)
    n_pages = 0

    def on_pages(pages: int, state: str) -> None:  # noqa: ARG001
        nonlocal n_pages
        n_pages += pages
        if n_pages % _PAGES_A_STAGE == 0:
            request.on_stage(f"{n_pages:,} pages")

    page = Page(
        slug="neuroscope",
        title=SECTION_TITLE,
        intro=f"The bundled story model on {scan.n_documents:,} documents ({scan.n_tokens:,} tokens) of {_CORPORA[corpus_name]}: a page for every one of its {sum(one.n_units for one in scans['untrained'].hooks.values()):,} neurons, and for the {sae.cfg.d_sae:,} features of the bundled sparse autoencoder.",
        items=[
            _every_layer(scan),
            FigureRecord(
                id="contexts",
                title="How many contexts a neuron serves",
                look_at="For each neuron the effective number of different contexts among its 20 largest activations, in the model's own representation: 1 if all look alike to the model, 20 at most. One feature in varied surroundings also counts as several. Beside them the features of the sparse autoencoder; one that is active in few documents has few examples, and so few contexts. Along any direction the largest activations have something in common: what random directions give is the control that says most.",
                number=f"{medians['trained']:.1f} contexts: median of {last} (of 20 examples); {contexts_of_features:.1f} of the {int(often.sum()):,} features active in as many documents",
                control=f"{of_any[last_hook]:.1f} for random directions of what {last} reads, {of_any[f'{hook}{FEATURES}']:.1f} of where the features lie; {medians['untrained']:.1f} in the untrained model; {dealt:.1f} when examples are dealt at random among neurons",
                figure=distributions(
                    *shares_by_bin(
                        _context_groups(scans)
                        | {
                            f"{space}, random directions": drawn.hooks[f"{space}{FEATURES}"].contexts
                            for space in spaces.values()
                        }
                    ),
                    "effective number of contexts",
                    "share of neurons",
                ),
            ),
            _neuron_table(scan, model, saes, most=True),
            _neuron_table(scan, model, saes, most=False),
        ],
    )
    return Section(
        slug="neuroscope",
        title=SECTION_TITLE,
        summary="A page for every neuron: the texts it fires on most and least, examples from its whole range, its histogram, what it writes, and its neighbours. How many different contexts does one neuron serve?",
        number=f"{medians['trained']:.1f} contexts",
        number_is=f"median effective number of contexts among a neuron's 20 largest activations ({last})",
        control=f"{of_any[last_hook]:.1f} for random directions of what the layer reads; {medians['untrained']:.1f} in an untrained model; {dealt:.1f} with examples dealt at random",
        page=page,
        write_more=lambda out, title: write_scan_pages(
            scan,
            model,
            record,
            out,
            site_title=title,
            index=f"{UNITS}/index.html",
            saes=saes,
            related=related,
            on_pages=on_pages,
        ),
        folders=(UNITS,),
    )


def _texts(request: SectionRequest) -> tuple[str, list[str]]:
    """The first documents of the bundled corpus, or more of real stories; and what the corpus is called."""
    if request.real is None:
        return "stories", list(itertools.islice(load_corpus("stories"), REPORT_DOCUMENTS))
    name, split = request.real.texts("tinystories", "validation")
    return "TinyStories", list(itertools.islice(load_corpus(name, split=split), _FULL_DOCUMENTS))


def along_random_directions(model: Any) -> Encode:
    """The control: activations along 512 random directions, ``[..., d_model] -> [..., 512]``, whose largest say what any direction's would."""
    generator = seeded_generator(0, "random directions")
    directions = torch.randn(model.cfg.d_model, _RANDOM_DIRECTIONS, generator=generator)
    return lambda activations: activations @ directions


def _scan_texts(
    network: Any, model: Any, hooks: Mapping[str, Encode | None], texts: list[str], request: SectionRequest
) -> NeuronScan:
    """Texts, as ``model`` reads them, scanned in ``network``: hooks, or what is encoded of them."""
    n_tokens = 0

    def on_tokens(tokens: int) -> None:
        nonlocal n_tokens
        n_tokens += tokens
        if request.should_stop():
            raise Stopped(n_tokens, "token")
        request.on_progress(f"{n_tokens:,} tokens")

    def batches(some: list[str]) -> Any:
        return model_batches(model, some, _ROWS_AT_ONCE, by_length=True)

    reader = UnitReader.of(network, hooks)
    accumulator = scan_batches(
        reader,
        batches(texts),
        calibrate(reader, batches(texts[:CALIBRATION_ROWS])),
        ScanSettings(),
        on_tokens=on_tokens,
    )
    return scan_result(accumulator, read_documents(batches(texts), documents_needed(accumulator)))


def _context_groups(scans: Mapping[str, NeuronScan]) -> dict[str, Float[Tensor, " unit"]]:
    groups = {}
    for name, scan in scans.items():
        for hook, found in scan.hooks.items():
            groups[f"{layer_name(hook)}, {name}"] = found.contexts
            if name == "trained":
                groups[f"{layer_name(hook)}, dealt at random"] = found.contexts_shuffled
    return groups


def _every_layer(scan: NeuronScan) -> TableRecord:
    rows: list[list[str | Link]] = []
    for hook, found in scan.hooks.items():
        rows.append(
            [
                Link(layer_name(hook), f"{UNITS}/{layer_slug(hook)}.html"),
                f"{found.n_units:,}",
                f"{100 * float(found.fraction_active.median()):.1f} %",
                f"{float(found.maximum.median()):.2f}",
                f"{float(found.skewness.median()):.1f}",
                f"{float(found.contexts.median()):.1f}",
                f"{float(found.contexts_shuffled.median()):.1f}",
            ]
        )
    return TableRecord(
        id="every-neuron",
        title="Every neuron",
        look_at="Each layer's table leads to its neurons. Medians over neurons.",
        columns=["layer", "units", "active", "largest", "skew", "contexts", "dealt at random"],
        rows=rows,
        further=Link("Index and search of all neurons", f"{UNITS}/index.html"),
    )


def _neuron_table(scan: NeuronScan, model: Any, saes: Saes, *, most: bool) -> TableRecord:
    """Neurons by how many different tokens their examples peak on for every context they serve."""
    strings = visible_tokens(model.tokenizer, model.cfg.d_vocab)
    rows: list[list[str | Link]] = []
    for hook, found in scan.hooks.items():
        where = f"{layer_name(hook).lower()}," if unit_word(hook) == "neuron" else unit_word(hook)
        words = [_peak_words(scan, found, unit, strings) for unit in range(found.n_units)]
        different = torch.tensor([len(some) for some in words])
        order = (
            (different * (different >= _FEWEST_TOKENS) / found.contexts.clamp_min(1)).argsort(descending=True)
            if most
            else found.contexts.argsort(descending=True)
        )
        effects = unit_effects(model, hook, saes, _WORDS)
        for unit in order[:_NAMED].tolist():
            rows.append(
                [
                    Link(f"{where} {unit}", f"{UNITS}/{unit_slug(hook, unit)}.html"),
                    f"{float(found.contexts[unit]):.1f}",
                    str(int(different[unit])),
                    " ".join(words[unit][:_WORDS]),
                    " ".join(strings[token].strip() or "␣" for token in effects.top[unit].tolist()) if effects else "",
                ]
            )
    return TableRecord(
        id="telling" if most else "not-telling",
        title="Many words, one context" if most else "The most contexts",
        look_at=(
            f"Chosen by rule: of each layer the {_NAMED} neurons whose largest activations stand on the most different tokens ({_FEWEST_TOKENS} at least) for every context they serve: many words, one context to the model."
            if most
            else f"Chosen by rule: of each layer the {_NAMED} neurons with the most contexts. To the model their examples have little more in common than examples dealt at random."
        ),
        columns=["neuron", "contexts", "different tokens", "largest activations on", "raises the logits of"],
        rows=rows,
        words={"largest activations on", "raises the logits of"},
    )


def _peak_words(scan: NeuronScan, found: UnitScan, unit: int, strings: list[str]) -> list[str]:
    """The different tokens a unit's largest activations stand on, the strongest first, without spaces and capitals."""
    words: dict[str, None] = {}
    for document, place in zip(found.top.document[unit].tolist(), found.top.place[unit].tolist(), strict=True):
        if document >= 0:
            words[strings[scan.documents[document][place]].strip().lower()] = None
    return list(words)
