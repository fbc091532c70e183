"""The report's section on concepts, from runs that come with the package (made by ``scripts/concepts.py``)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from mi_superposition.concepts.overlap import mean_shared
from mi_superposition.models import FEATURES
from mi_superposition.runs import read_manifest
from mi_superposition.site import Page, Section
from mi_superposition.site.neuron_records import unit_slug
from mi_superposition.site.records import UNITS, Item, Link, TableRecord
from mi_superposition.studies.concepts.encoder import EncoderRequest, train_encoder_run
from mi_superposition.studies.concepts.findings import STATES, Findings
from mi_superposition.studies.concepts.page import concepts_items, intro, neuron_layer
from mi_superposition.studies.concepts.study import COMMAND, ConceptsRequest, load_findings, write_concepts_run
from mi_superposition.studies.request import SectionRequest

TITLE = "Concepts"
BUNDLED = Path(__file__).parents[2] / "bundled" / "concepts"
STORIES = "stories"
# SST-2's training file holds phrases of its sentences, nested in one another, and the encoder was trained on their labels
# (scripts/train_encoder.py): labels are looked for in the validation sentences; words in the phrases, of which there are enough.
REAL = {
    "sst2-labels-stories": "Sentiment of review sentences, story model",
    "sst2-labels-encoder": "Sentiment of review sentences, encoder trained on the sentiment of others",
    "sst2-words-encoder": "Words of sentiment in review phrases, encoder trained on their sentiment",
}
_TRAINED_ON = {
    "sst2-labels-encoder": "This encoder was trained to tell this very label, of other sentences; a probe shows where it keeps what it learnt, not that it came about by itself. ",
    "sst2-words-encoder": "This encoder was trained to tell the sentiment of these very phrases: they are held out from the probe, not from the encoder. ",
}


def concepts_section(request: SectionRequest) -> Section:
    """Tell what was measured of the bundled story model, with links to its neurons' and features' pages, and on real sentences."""
    request.on_stage("bundled findings" if request.real is None else "sentences")
    stories = bundled_stories()
    real = {name: _on_real_sentences(name, request) for name in REAL}
    pages = neuron_pages(stories) if "neuroscope" in request.sections else {}
    items: list[Item] = [
        _overview(
            {
                STORIES: ("Words in stories, story model (below)", stories),
                **{name: (title, real[name]) for name, title in REAL.items()},
            }
        ),
        *concepts_items(stories, pages=pages),
    ]
    trained, untrained = (stories.layers[state][stories.best(state)].probe for state in STATES)
    return Section(
        slug="concepts",
        title=TITLE,
        summary="Whether a model keeps the words of a concept together, told by words that a probe never learnt from, and whether concepts share neurons.",
        number=f"{trained:.3f} right",
        number_is=f"share of a concept's held-out sentences that a linear probe tells by words it never learnt from, mean of {len(stories.concepts)} concepts",
        control=f"{stories.bag_of_words:.3f} by the other words alone, {untrained:.3f} untrained, {stories.best_random:.3f} for random word lists, {stories.chance:.3f} chance",
        page=Page(slug="concepts", title=TITLE, intro=intro(stories), items=items),
        more=[
            Page(slug=f"concepts-{name}", title=f"Concepts: {title}", intro=_TRAINED_ON.get(name, "") + intro(real[name]), items=concepts_items(real[name]))
            for name, title in REAL.items()
        ],
    )  # fmt: skip


def neuron_pages(findings: Findings) -> Mapping[str, Mapping[int, str]]:
    """Addresses of the pages of the bundled model's neurons and features, by layer."""
    return {
        name: {unit: f"{UNITS}/{unit_slug(name, unit)}.html" for unit in range(effects.shape[1])}
        for name, effects in findings.unit_effects().items()
        if name.endswith((".mlp.hook_post", FEATURES))
    }


@functools.cache
def bundled_stories() -> Findings:
    """What was found of the bundled story model."""
    return load_findings(BUNDLED / STORIES)


def concept_address(layer: str, findings: Findings) -> str:
    """Where the report tells which of a layer's units a concept moves most."""
    if findings.features is not None and layer == findings.features.name:
        return "concepts.html#features"
    return "concepts.html#several" if layer == neuron_layer(findings) else "concepts.html#overlap-layers"


def _on_real_sentences(name: str, request: SectionRequest) -> Findings:
    """What comes with the package, or the same asked again of real sentences."""
    if request.real is None:
        return load_findings(BUNDLED / name)
    asked = read_manifest(BUNDLED / name, COMMAND)["config"]
    corpus, split = request.real.texts("sst2", Path(asked["corpus"]).stem)
    asked |= {"corpus": corpus, "split": split}

    def on_text(by: int, state: str) -> None:  # noqa: ARG001
        request.on_progress(f"{name}: {state}")

    if asked["model"] != STORIES:
        train, test = (request.real.texts("sst2", part) for part in ("train", "validation"))
        encoder = EncoderRequest(train[0], test[0], request.real.tokenizer(), train_split=train[1], test_split=test[1])
        asked["model"] = str(request.real.runs / asked["model"])
        train_encoder_run(
            Path(asked["model"]), encoder, on_row=on_text, on_step=on_text, should_stop=request.should_stop
        )
    out = request.real.runs / f"concepts-{name}"
    write_concepts_run(out, ConceptsRequest(**asked), on_text=on_text, should_stop=request.should_stop)
    return load_findings(out)


def _overview(runs: Mapping[str, tuple[str, Findings]]) -> TableRecord:
    rows = []
    for name, (title, findings) in runs.items():
        trained, untrained = (findings.layers[state][findings.best(state)].probe for state in STATES)
        shared = ["–", "–", "–"]
        if findings.shares_units:
            layer = neuron_layer(findings)
            random = findings.random[layer].shared
            shared = [
                f"{mean_shared(findings.layers['trained'][layer].shared):.1f}",
                f"{mean_shared(findings.layers['untrained'][layer].shared):.1f}",
                f"{sum(random) / len(random):.1f} ({min(random):.1f} to {max(random):.1f})",
            ]
        rows.append(
            [
                title if name == STORIES else Link(title, f"concepts-{name}.html"),
                f"{trained:.3f} ± {findings.error:.3f}",
                f"{untrained:.3f}",
                f"{findings.best_random:.3f}" if findings.by_words else "–",
                f"{findings.bag_of_words:.3f}",
                f"{findings.chance:.3f}",
                *shared,
            ]
        )
    return TableRecord(
        id="runs",
        title="Four questions",
        look_at=(
            "Balanced accuracy on held-out texts of a linear probe (± one standard error), untrained and for random word lists, each at the layer "
            "where it is best; of the words alone, and by chance. Shared: of the 20 neurons of the last layer that a concept moves most, how many "
            "two concepts share on average."
        ),
        columns=["concepts", "probe", "untrained", "random lists", "words alone", "chance", "shared", "untrained", "random lists"],
        rows=rows,
    )  # fmt: skip
