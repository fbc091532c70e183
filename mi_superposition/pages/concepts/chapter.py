"""The report's chapter on concepts: the bundled story model on stories, and real sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mi_superposition.concepts.config import ConceptsConfig, EncoderConfig
from mi_superposition.pages.concepts.links import unit_pages
from mi_superposition.pages.concepts.measure import controls, headline, intro, items
from mi_superposition.pages.request import ChapterRequest, Job, RealData, Runs
from mi_superposition.runs import read_config
from mi_superposition.site import Page, Section
from mi_superposition.site.headlines import Alternative
from mi_superposition.site.records import Link, TableRecord
from mi_superposition.studies.concepts import encoder
from mi_superposition.studies.concepts.measure import BUNDLED, COMMAND, load
from mi_superposition.studies.concepts.result import ConceptsResult

CHAPTER = "concepts"
TITLE = "Concepts"
STORIES = "stories"
# SST-2's training file holds phrases of its sentences, nested in one another, and the encoder was trained on their labels
# (scripts/train_encoder.py): labels are measured on the validation sentences; words on the phrases, of which there are enough.
REAL = {
    "sst2-labels-stories": "Sentiment of review sentences, story model",
    "sst2-labels-encoder": "Sentiment of review sentences, encoder trained on other sentences",
    "sst2-words-encoder": "Sentiment words in review phrases, encoder trained on the phrases' sentiment",
}
_TRAINED_ON = {
    "sst2-labels-encoder": (
        "This encoder was trained to predict this label, on other sentences. A probe shows where the encoder stores "
        "what it learnt, not that the representation emerged without that training. "
    ),
    "sst2-words-encoder": (
        "This encoder was trained on the sentiment of these phrases: they are held out from the probe, not from the encoder. "
    ),
}
_ENCODER = "sst2-encoder"
ALTERNATIVES = (
    Alternative(
        "the concept word taken out of the texts",
        "the model reaches 0.544 ± 0.048: most of the gain over chance is there without it",
        "python scripts/concepts.py",
        "concepts.md",
    ),
    Alternative(
        "word vectors from co-occurrence, without any model",
        "0.524 ± 0.046, so much of the accuracy takes no model",
        "python scripts/concepts.py",
        "concepts.md",
    ),
    Alternative(
        "real sentences: SST-2's labels, the same model",
        "not better than a bag of words: 0.628 ± 0.034 beside 0.641",
        "python scripts/concepts.py --corpus sst2/validation.parquet",
        "concepts.md",
    ),
    Alternative(
        "do concepts share neurons?",
        "no difference from random word lists is seen: of 25 comparisons the smallest p is 0.49 after correction",
        "python scripts/concepts.py",
        "concepts.md",
    ),
    Alternative(
        "texts not centred, as in the source",
        "every text is like every concept: 0.94 with its own and 0.93 with the others; centred +0.23 and -0.04",
        "mi-superposition concepts --model stories --corpus stories --out RUN",
        "concepts.md",
    ),
)


def jobs(request: ChapterRequest) -> dict[str, Job]:
    """The bundled runs; those on real sentences are measured again where there are some, on an encoder trained for them."""
    runs = {STORIES: Job(COMMAND, bundled=BUNDLED / STORIES)}
    if request.real is None:
        return runs | {name: Job(COMMAND, bundled=BUNDLED / name) for name in REAL}
    runs[_ENCODER] = Job(
        encoder.COMMAND,
        _encoder_config(request.real),
        kept=True,
        measured_by="mi_superposition.studies.concepts.encoder",
    )
    return runs | {name: Job(COMMAND, _on_real_sentences(name, request.real), kept=True) for name in REAL}


def _encoder_config(real: RealData) -> EncoderConfig:
    (train, train_split), (test, test_split) = (real.texts("sst2", split) for split in ("train", "validation"))
    return EncoderConfig(train, test, real.tokenizer(), train_split=train_split, test_split=test_split)


def _on_real_sentences(name: str, real: RealData) -> ConceptsConfig:
    """As the bundled run, on the sentences and the encoder that are at hand."""
    config = read_config(BUNDLED / name, ConceptsConfig, COMMAND)
    corpus, split = real.texts("sst2", Path(config.text.corpus).stem)
    model = STORIES if config.model.name == STORIES else str(real.run_folder(CHAPTER, _ENCODER))
    return config.replace(corpus=corpus, split=split, model=model)


def section(runs: Runs, request: ChapterRequest) -> Section:
    """The chapter, from the folders of its runs, with links to the pages of the story model's neurons and features."""
    results = {name: load(runs[CHAPTER][name]) for name in (STORIES, *REAL)}
    stories = results[STORIES]
    pages = unit_pages(stories) if "neuroscope" in request.chapters else {}
    return Section(
        slug=CHAPTER,
        title=TITLE,
        summary=(
            "Does a model represent the words of one concept in one direction (tested on words that the probe was not "
            "trained on)? Do concepts share neurons?"
        ),
        number=f"{stories.told_accuracy} balanced accuracy",
        number_is=(
            f"of a linear probe on sentences with held-out words, mean of {len(stories.concepts)} concepts; {stories.told_how}"
        ),
        control=controls(stories),
        page=Page(
            slug=CHAPTER, title=TITLE, intro=intro(stories), items=[_runs_table(results), *items(stories, pages)]
        ),
        more=[
            Page(
                slug=f"{CHAPTER}-{name}",
                title=f"Concepts: {title}",
                intro=_TRAINED_ON.get(name, "") + intro(results[name]),
                items=items(results[name]),
            )
            for name, title in REAL.items()
        ],
        headline=headline(stories),
        alternatives=ALTERNATIVES,
    )


def _runs_table(results: Mapping[str, ConceptsResult]) -> TableRecord:
    rows: list[list[str | Link]] = [["Words in stories, story model (below)", *_cells(results[STORIES])]]
    for name, title in REAL.items():
        rows.append([Link(title, f"{CHAPTER}-{name}.html"), *_cells(results[name])])
    return TableRecord(
        id="runs",
        title="Four runs",
        look_at=(
            "Balanced accuracy on held-out texts of one halving: a linear probe (± one standard error), the same on the untrained "
            "model, and for random word lists, each at the layer that is best on these texts; then bag of words and chance. Last of the first six "
            "columns: mean and standard deviation over many halvings with the layer chosen on training texts, where they were measured. Shared neurons: "
            f"of the {results[STORIES].config.units_per_concept} neurons of the last layer with the largest effect per "
            "concept, how many two concepts share on average."
        ),
        columns=[
            "concepts",
            "probe",
            "untrained",
            "random word lists",
            "bag of words",
            "chance",
            "over halvings",
            "shared neurons",
            "untrained",
            "random word lists",
        ],
        rows=rows,
    )


def _cells(result: ConceptsResult) -> list[str]:
    """One run's row of the table."""
    shared = ["–", "–", "–"]
    if result.shares_units:
        layer = result.neuron_layer
        random = result.random[layer].shared
        shared = [
            f"{result.trained[layer].mean_shared:.1f}",
            f"{result.untrained[layer].mean_shared:.1f}",
            f"{result.random[layer].mean_shared:.1f} ({min(random):.1f} to {max(random):.1f})",
        ]
    return [
        f"{result.best_probe('trained'):.3f} ± {result.error:.3f}",
        f"{result.best_probe('untrained'):.3f}",
        f"{result.best_random:.3f}" if result.by_words else "–",
        f"{result.bag_of_words:.3f}",
        f"{result.chance:.3f}",
        "–" if result.halves is None else result.told_accuracy,
        *shared,
    ]
