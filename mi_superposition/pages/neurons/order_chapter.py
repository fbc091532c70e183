"""The report's chapter on the order of neurons."""

from __future__ import annotations

from dataclasses import replace

from mi_superposition.neurons.config import OrderConfig
from mi_superposition.pages.neurons.order import SLUG, TITLE, order_section, unprocessed
from mi_superposition.pages.neurons.order_items import MATRIX_ID, items
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.parts import DevicePart
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative
from mi_superposition.site.unit_records import neuron_address
from mi_superposition.studies.neurons.order import load

_COMMAND = "mi-superposition neurons order --model stories --layer 1 --weights out --out RUN"
ALTERNATIVES = (
    Alternative(
        "without the closest pairs, the rest ordered again beside controls drawn anew",
        "+4.0 % without the 66 neurons in pairs above 0.35; +1.8 % without 148 in pairs above 0.3, no longer above every order of every sample (40.64 "
        "and 40.77)",
        _COMMAND,
        "neuron-order.md",
    ),
    Alternative(
        "other controls: shuffled rows, untrained, Gaussian",
        "the trained score is further above these (+37.3, +37.4 and +38.0 %) than above the same row norms and spectrum (+11.1 %)",
        _COMMAND,
        "neuron-order.md",
    ),
    Alternative(
        "processed weights: layer norms folded in, outputs centred",
        "57.51 instead of 57.40",
        'python -c "import mi_superposition as ms; from mi_superposition.neurons import neuron_vectors; print(ms.order_neurons(neuron_vectors('
        "ms.load_model('stories', process_weights=True), 1, 'out').similarity(), seconds=0.5))\"",
        "neuron-order.md",
    ),
    Alternative(
        "groups instead of pairs",
        "no more clusters than by chance: HDBSCAN finds 2, and 0 to 13 in samples of the controls; the structure is one of pairs and small groups",
        _COMMAND,
        "neuron-order.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:  # noqa: ARG001
    """The last layer of the bundled story model in full, and every layer with a short search."""
    config = OrderConfig(seconds=0.2, every_layer=True, device=DevicePart(device="cpu"))
    return {"order": Job("neurons order", config)}


def section(runs: Runs, request: ChapterRequest) -> Section:
    """The chapter, from the folder of its run."""
    result = load(runs[SLUG]["order"])
    layer, n_neurons = result.config.layer, len(result.order.order)
    assert layer is not None
    pages = {}
    if "neuroscope" in request.chapters:
        pages = {neuron: neuron_address(layer, neuron) for neuron in range(n_neurons)}
    page = Page(
        slug=SLUG,
        title=TITLE,
        intro=(
            f"The {n_neurons:,} neurons of layer {layer} of the bundled story model, ordered so that neighbouring neurons have parallel or "
            f"antiparallel output directions (large squared cosine).{unprocessed(result.config)} The method follows K. Thaman, A. Rigg, "
            "N. Oozeer and J. David, “Experiments in Superposition” (Alignment Jam 10); the controls are ours."
        ),
        items=items(result, pages),
    )
    return replace(order_section(result, page), alternatives=ALTERNATIVES)


def address_in_order(position: int, n: int) -> str:
    """Where the report shows ``n`` neurons of the order from a position on."""
    return f"{SLUG}.html#{MATRIX_ID}={position},{n}"
