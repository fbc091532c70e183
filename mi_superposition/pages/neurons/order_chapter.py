"""The report's chapter on the order of neurons."""

from __future__ import annotations

from mi_superposition.neurons.config import OrderConfig
from mi_superposition.pages.neurons.order import SLUG, TITLE, order_section, unprocessed
from mi_superposition.pages.neurons.order_items import MATRIX_ID, items
from mi_superposition.pages.request import ChapterRequest, Job, Runs
from mi_superposition.parts import DevicePart
from mi_superposition.site import Page, Section
from mi_superposition.site.unit_records import neuron_address
from mi_superposition.studies.neurons.order import load


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
    return order_section(result, page)


def address_in_order(position: int, n: int) -> str:
    """Where the report shows ``n`` neurons of the order from a position on."""
    return f"{SLUG}.html#{MATRIX_ID}={position},{n}"
