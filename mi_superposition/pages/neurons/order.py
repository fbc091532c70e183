"""The page of a study of the order of neurons."""

from __future__ import annotations

import math
import os
from pathlib import Path

from mi_superposition.neurons.config import OrderConfig
from mi_superposition.pages.neurons.order_items import Linked, bounded, items, without_close
from mi_superposition.progress import SILENT, Progress
from mi_superposition.runs import PAGE
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Headline
from mi_superposition.site.unit_records import found_address
from mi_superposition.site.write import write_site
from mi_superposition.studies.neurons.order import ACTIVATIONS, NEURON_WEIGHTS, load
from mi_superposition.studies.neurons.order_result import OrderResult

TITLE = "The order of neurons"
SLUG = "neuron-order"


def write(folder: Path, out: Path, progress: Progress = SILENT) -> Path:  # noqa: ARG001
    """Write the page of a finished run into ``out``, with links from there to neuron pages; the file to open."""
    write_site(sections(folder, out), out, title=TITLE, lead="")
    return out / "index.html"


def sections(folder: Path, page_folder: Path | None = None) -> list[Section]:
    """A finished run as a page for ``page_folder`` (default: ``page`` in the run folder)."""
    result = load(folder)
    page = Page(
        slug="order",
        title=f"The order of neurons in {result.config.model.name}",
        intro=(
            f"{described(result.config)}. The order maximises the sum of squared similarities of neighbours; controls show how high that "
            f"sum gets without any structure.{unprocessed(result.config)} After K. Thaman, A. Rigg, N. Oozeer and J. David, “Experiments in Superposition” (Alignment "
            "Jam 10), which ordered the neurons of TinyStories-2L; the controls are ours."
        ),
        items=items(result, _linked_pages(result, page_folder or folder / PAGE)),
    )
    return [order_section(result, page)]


def order_section(result: OrderResult, page: Page) -> Section:
    """The card and the page."""
    hardest, strictest = result.hardest, result.strictest
    what = "activations" if result.config.weights == ACTIVATIONS else "weights"
    return Section(
        slug=SLUG,
        title=TITLE,
        summary=(
            f"Is there a meaningful order of neurons in the {what} alone? Any matrix looks ordered after it is ordered, so the score is "
            "compared with random matrices ordered by the same search."
        ),
        number=f"{100 * result.gain:+.1f} %",
        number_is=f"score of the trained order relative to the mean of its hardest control ({hardest.name})",
        control="; ".join(
            [
                *bounded(result),
                *without_close(result),
                f"z = {strictest.z_score(result.order.score):+.1f}"
                + ("" if strictest is hardest else f" ({strictest.name})"),
            ]
        ),
        page=page,
        headline=headline(result),
    )


def headline(result: OrderResult) -> Headline:
    """Whether the trained score is above those of ordered random matrices, and above what any order of these could reach, in per cent of the
    mean of the hardest control. Where the bounds were not computed, above its largest sample.
    """
    hardest, highest = result.hardest, result.highest_control
    bounded = math.isfinite(highest)
    name = "any order of any control sample (bound)" if bounded else f"the highest sample: {hardest.name}"
    return Headline(
        100 * result.gain,
        {
            f"mean of the hardest control: {hardest.name}": 0.0,
            name: 100 * hardest.gain(highest if bounded else float(hardest.scores.max())),
        },
        yes="Neighbours in the order are more alike than ordering alone can make them",
        no="The order is not shown to be more than an effect of ordering",
    )


def described(config: OrderConfig) -> str:
    """Which similarity of which neurons."""
    if config.weights == ACTIVATIONS:
        return f"Correlation between the activations of layer {config.layer}'s neurons over {config.text.corpus}"
    directions = {"out": "output", "in": "input", "gate": "gate", "both": "input and output"}
    of = f"rows of {config.weights}"
    if config.weights in NEURON_WEIGHTS:
        of = f"{directions[config.weights]} directions of layer {config.layer}"
    return f"{'Cosine' if config.measure == 'cosine' else 'Inner product'} of the {of}"


def unprocessed(config: OrderConfig) -> str:
    """That the weights are those of the file, where weights are ordered."""
    return (
        ""
        if config.weights == ACTIVATIONS
        else " Weights are as the model was trained: no layer norm is folded into them, nothing centred."
    )


def _linked_pages(result: OrderResult, page_folder: Path) -> Linked:
    """Addresses, from the page, of the neuron pages that exist."""
    config = result.config
    site = config.links.pages
    if site is None or config.weights not in (*NEURON_WEIGHTS, ACTIVATIONS):
        return {}
    assert config.layer is not None
    hook = f"blocks.{config.layer}.mlp.hook_post"
    found = {neuron: found_address(site, hook, neuron) for neuron in range(len(result.order.order))}
    here = page_folder.resolve()
    return {
        neuron: Path(os.path.relpath(site / address, here)).as_posix()
        for neuron, address in found.items()
        if address is not None
    }
