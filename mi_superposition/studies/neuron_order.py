"""The study of the order of neurons as a run folder, a page and a section of the report."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from mi_superposition.corpora import load_corpus
from mi_superposition.figures.neurons import control_scores, neighbour_curves
from mi_superposition.models import load_model, weights_of
from mi_superposition.neurons import (
    Spot,
    measure_control,
    neighbour_similarity,
    order_neurons,
)
from mi_superposition.neurons.control import KINDS, WEIGHT_KINDS
from mi_superposition.neurons.similarity import Measure, check_layer
from mi_superposition.runs import content_hash, open_run, write_file, write_tensors
from mi_superposition.site import FigureRecord, Page, Section, write_site
from mi_superposition.site.neuron_records import neuron_address
from mi_superposition.site.records import Item, Link, MatrixRecord, MatrixView, TableRecord
from mi_superposition.studies.neuron_order_study import (
    FEW_CONTROLS,
    MANY_NEURONS,
    NeuronOrderStudy,
    Source,
    activation_source,
    check_request,
    hardest,
    least_p,
    neuron_order_metrics,
    neuron_order_study,
    opposite_share,
    verdict,
    weight_source,
)
from mi_superposition.studies.request import SectionRequest

COMMAND = "neurons order"
ACTIVATIONS = "activations"
TITLE = "The order of neurons"
# Of the search in the report; it counts steps, so that the order is the same everywhere.
REPORT_SECONDS = 0.2
_SLUG = "neuron-order"
_MATRIX_ID = "similarity"
_NEURON_WEIGHTS = {"out": "output", "in": "input", "both": "input and output"}


def neuron_order_items(study: NeuronOrderStudy, *, what: str, pages: dict[int, str] | None = None) -> list[Item]:
    """Figures, tables and the matrix to zoom in."""
    pages = pages or {}
    hard = hardest(study)
    score, found = study.found.score, study.found
    along = {kind: neighbour_similarity(*example) for kind, example in study.examples.items()}
    example_similarity, example_order = study.examples[hard.kind]
    beating = [spot for spot in study.spots if spot.p <= least_p(study)]
    views = [
        MatrixView("trained", "Trained, ordered", _permuted(study.similarity, found.order), found.order),
        MatrixView("control", f"Control, ordered: {KINDS[hard.kind]}", _permuted(example_similarity, example_order), example_order),
        MatrixView("unordered", "Trained, not ordered", study.similarity, torch.arange(len(found.order)), values_of="trained"),
        MatrixView("clusters", "Trained, by cluster", _permuted(study.similarity, study.clusters.order), study.clusters.order, values_of="trained"),
    ]  # fmt: skip
    if len(found.order) > MANY_NEURONS:
        # Each view of so many neurons is megabytes of tiles.
        views.pop()
    return [
        FigureRecord(
            id="scores",
            title="Is the order more than sorting?",
            look_at=f"Any matrix looks ordered once it is sorted. Look at where the trained score lies against random matrices that were sorted too. {verdict(study)}",
            number=f"Score {score:.2f}; no order of these neurons scores above {found.upper_bound:.2f} ({100 * found.gap:.2f} % more). {100 * opposite_share(study):.0f} % of neighbours are opposite.",
            control=f"{float(hard.scores.mean()):.2f} ± {float(hard.scores.std()):.2f} ({KINDS[hard.kind]}, {len(hard.scores)} samples); {study.unordered_score:.2f} not ordered.",
            figure=control_scores(score, found.upper_bound, study.unordered_score, study.controls),
        ),
        TableRecord(
            id="controls",
            title="Every control",
            look_at="Sum of squared similarities of neighbours; the same search, with the same effort, on each sample. p is that of Student's t for one more draw from as many samples, two-sided; the percentile is the share of samples below the trained score. Clusters: HDBSCAN on one sample.",
            columns=["matrix", "samples", "score", "sd", "z of trained", "p", "percentile", "clusters"],
            rows=[
                ["trained", "1", f"{score:.2f}", "", "", "", "", f"{study.clusters.n_clusters}"],
                *(
                    [
                        KINDS[control.kind],
                        f"{len(control.scores)}",
                        f"{float(control.scores.mean()):.2f}",
                        f"{float(control.scores.std()):.3f}",
                        f"{control.z_score(score):+.1f}",
                        f"{control.p_value(score):.1g}",
                        f"{control.percentile(score):.0f}",
                        f"{study.clusters_by_chance[control.kind]}",
                    ]
                    for control in study.controls
                ),
            ],
        ),
        FigureRecord(
            id="neighbours",
            title="How nearly neighbours lie along one line",
            look_at="Where the trained curve lies above the bands on the right, that many pairs are nearer to one line, the same way or opposite, than sorted noise; on the left, where on the path they lie.",
            number=f"The largest of any two neighbours: {float(neighbour_similarity(study.similarity, found.order).abs().max()):.2f}.",
            control=f"{max(float(control.profiles.max()) for control in study.controls):.2f} is the most in any control sample.",
            figure=neighbour_curves(neighbour_similarity(study.similarity, found.order), study.controls, along),
        ),
        MatrixRecord(
            id=_MATRIX_ID,
            title="The matrix",
            look_at="Zoom with the wheel, two fingers or + and −; drag or use the arrow keys to move; , and . go along the diagonal. Red is alike, blue is opposite; zoomed out, a pixel shows the strongest entry it covers. Boxes mark the spots below.",
            number=f"The largest of any two of {len(found.order)} neurons, same way or opposite: {_largest(study.similarity):.2f}.",
            control=f"{_largest(example_similarity):.2f} in the ordered random matrix behind the second button ({KINDS[hard.kind]}).",
            what=_entry_word(what),
            views=views,
            spots=[(spot.start, len(spot.neurons)) for spot in beating],
            pages=pages,
        ),
        TableRecord(
            id="spots",
            title="Spots",
            look_at=f"Stretches of {len(study.spots[0].neurons) if study.spots else 0} neighbours by how nearly they lie along one line; opposite counts as much as alike, and the column says how many pairs of neighbours are. Excess: standard deviations above the stretches of the control that has the tightest ones ({KINDS[study.spot_control.kind]}). p: how often the tightest stretch of such a sample, anywhere in it, is as tight. {len(beating)} are tighter than every stretch of all {len(study.spot_control.window_most)} samples.",
            columns=["place", "mean squared similarity", "opposite", "excess", "p", "neurons"],
            rows=[
                [
                    Link(f"{spot.start}", f"#{_MATRIX_ID}={spot.start},{len(spot.neurons)}"),
                    f"{spot.similarity:.3f}",
                    f"{int((study.similarity[list(spot.neurons[:-1]), list(spot.neurons[1:])] < 0).sum())} of {len(spot.neurons) - 1}",
                    f"{spot.excess:+.1f} sd",
                    f"{spot.p:.2f}",
                    [Link(str(neuron), pages[neuron]) if neuron in pages else str(neuron) for neuron in spot.neurons],
                ]
                for spot in study.spots[:20]
            ],
        ),
    ]


def spots_csv(spots: list[Spot]) -> bytes:
    """The spots as a table: one row each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["place", "mean_squared_similarity", "excess_sd", "p", "neurons"])
    for spot in spots:
        neurons = " ".join(map(str, spot.neurons))
        writer.writerow([spot.start, f"{spot.similarity:.6f}", f"{spot.excess:.4f}", f"{spot.p:.4f}", neurons])
    return text.getvalue().encode()


def write_neuron_order_run(
    out: Path,
    *,
    model_name: str,
    layer: int | None = None,
    weights: str = "out",
    measure: Measure = "cosine",
    corpus_name: str = "stories",
    split: str = "train",
    column: str = "text",
    rows: int = 500,
    n_controls: int | None = None,
    window: int = 8,
    seed: int = 0,
    seconds: float = 0.5,
    pages: Path | None = None,
    device: str = "auto",
    on_stage: Callable[[str], None] = lambda stage: None,
) -> bool:
    """Run the study into a run folder; true when it was finished already.

    ``layer`` is the last by default. ``pages`` is a site with neuron pages: those that are there are linked.
    ``corpus_name``, ``split``, ``column`` and ``rows`` are for ``weights="activations"``. Raises as ``load_model``, ``load_corpus`` and ``open_run`` do.
    """
    check_request(n_controls, window, seconds, rows)
    model = load_model(model_name, device=device)
    layer = model.cfg.n_layers - 1 if layer is None else layer
    inputs: dict[str, object] = {"model": {"name": model_name, "sha256": content_hash(weights_of(model))}}
    config: dict[str, object] = dict(
        layer=layer, weights=weights, measure=measure, controls=n_controls, window=window, seed=seed, seconds=seconds
    )
    linked: dict[int, str] = {}
    if weights in (*_NEURON_WEIGHTS, ACTIVATIONS):
        check_layer(model, layer)
        linked = _linked_pages(pages, out / "page", layer, model.blocks[layer].mlp.W_out.shape[0])
    if weights == ACTIVATIONS:
        corpus = load_corpus(corpus_name, split=split, column=column)
        inputs["corpus"] = corpus.identity()
        config |= dict(rows=rows, split=split, column=column)
        source = activation_source(model, layer, corpus, rows, seed)
        what = f"Correlation between the activations of layer {layer}'s neurons over {corpus_name}"
    else:
        source = weight_source(model, layer, weights, seed, measure)
        named = weights not in _NEURON_WEIGHTS
        of = f"rows of {weights}" if named else f"{_NEURON_WEIGHTS[weights]} directions of layer {layer}"
        what = f"{'Cosine' if measure == 'cosine' else 'Product'} of the {of}"
    with open_run(out, COMMAND, config, inputs) as run:
        if run.finished:
            return True
        study = neuron_order_study(
            source, n_controls=n_controls, window=window, seed=seed, seconds=seconds, on_stage=on_stage
        )
        on_stage("pages")
        write_tensors(
            out / "order.safetensors",
            {
                "order": study.found.order,
                "cluster_order": study.clusters.order,
                "cluster_label": study.clusters.label,
                "neighbour_similarity": neighbour_similarity(study.similarity, study.found.order),
                **{f"{control.kind}_scores": control.scores for control in study.controls},
            },
        )
        write_file(out / "spots.csv", spots_csv(study.spots))
        page = Page(
            slug="order",
            title=f"The order of neurons in {model_name}",
            intro=f"{what}: the order in which neighbours lie most nearly along one line, the same way or opposite, and what of it sorting alone would give.",
            items=neuron_order_items(study, what=what, pages=linked),
        )
        write_site([order_section(study, page)], out / "page", title=TITLE, lead="")
        run.finish(neuron_order_metrics(study))
    return False


def order_section(study: NeuronOrderStudy, page: Page) -> Section:
    """The card and pages of a study."""
    hard = hardest(study)
    return Section(
        slug=_SLUG,
        title=TITLE,
        summary="Does a meaningful order of neurons fall out of the weights? Sorting makes any matrix look ordered, so the order is compared with sorted random matrices.",
        number=f"{hard.z_score(study.found.score):+.1f} sd",
        number_is=f"the trained order's score against its hardest control ({KINDS[hard.kind]})",
        control=f"0 ± 1 by chance; no order scores more than {100 * study.found.gap:.2f} % above the one found",
        page=page,
    )


def neuron_order_section(request: SectionRequest) -> Section:
    """The report's section: the bundled story model, its last layer in full, and every layer in short."""
    model = load_model("stories", device="cpu")
    layer = model.cfg.n_layers - 1
    study = neuron_order_study(report_source(model), seconds=REPORT_SECONDS, on_stage=request.on_stage)
    pages = {}
    if "neuroscope" in request.sections:
        pages = {neuron: neuron_address(layer, neuron) for neuron in range(len(study.found.order))}
    items = neuron_order_items(study, what=f"Cosine of the output directions of layer {layer}", pages=pages)
    items.insert(2, _every_layer(model, request.on_stage))
    page = Page(
        slug=_SLUG,
        title=TITLE,
        intro=f"The bundled story model, {model.cfg.d_mlp} neurons in layer {layer}: neurons whose output directions lie along one line, the same way or opposite, side by side.",
        items=items,
    )
    return order_section(study, page)


def report_source(model: HookedTransformer) -> Source:
    """What the report orders: the output directions of the last layer's neurons."""
    return weight_source(model, model.cfg.n_layers - 1, "out", 0)


def place_address(place: int, n_shown: int) -> str:
    """Where the report shows so many neurons of the order from a place on."""
    return f"{_SLUG}.html#{_MATRIX_ID}={place},{n_shown}"


def _every_layer(model: HookedTransformer, on_stage: Callable[[str], None]) -> TableRecord:
    """The z-scores of all layers and directions, with a short search and few samples."""
    rows = []
    for layer in range(model.cfg.n_layers):
        for weights in ("in", "out", "both"):
            on_stage(f"layer {layer} {weights}")
            source = weight_source(model, layer, weights, 0)
            found = order_neurons(source.trained(), seconds=0.05)
            cells = [f"layer {layer}, {weights}", f"{found.score:.2f}", f"{100 * found.gap:.1f} %"]
            for kind in WEIGHT_KINDS:
                control = measure_control(kind, source.samples[kind](FEW_CONTROLS), seed=0, seconds=0.05)
                cells.append(f"{control.z_score(found.score):+.0f}")
            rows.append(cells)
    return TableRecord(
        id="every-layer",
        title="Every layer, inputs and outputs",
        look_at=f"z-scores of the trained score against {FEW_CONTROLS} samples of each control, with a short search; so few samples give the sign only.",
        columns=["neurons", "score", "gap to bound", *(f"z: {KINDS[kind]}" for kind in WEIGHT_KINDS)],
        rows=rows,
    )


def _entry_word(what: str) -> str:
    """The short name of an entry of the matrix: the first word of what it is."""
    return what.split()[0].lower()


def _largest(similarity: Float[Tensor, "neuron neuron"]) -> float:
    """The largest magnitude off the diagonal."""
    return float((similarity - similarity * torch.eye(len(similarity))).abs().max())


def _permuted(similarity: Float[Tensor, "neuron neuron"], order: Int[Tensor, " neuron"]) -> Tensor:
    return similarity[order][:, order]


def _linked_pages(pages: Path | None, page_folder: Path, layer: int, n_neurons: int) -> dict[int, str]:
    """Addresses, from the page, of the neuron pages that exist."""
    if pages is None:
        return {}
    found = {neuron: pages / neuron_address(layer, neuron) for neuron in range(n_neurons)}
    return {
        neuron: Path(os.path.relpath(path, page_folder)).as_posix() for neuron, path in found.items() if path.is_file()
    }
