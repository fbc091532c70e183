"""Pages about concepts, from the bundled runs: links, the report's chapter, and what the docs say of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mi_superposition.concepts.config import ConceptsConfig, EncoderConfig
from mi_superposition.files import content_hash, read_json
from mi_superposition.models import load_model, weights_of
from mi_superposition.pages.concepts.chapter import CHAPTER, REAL, STORIES, jobs, section
from mi_superposition.pages.concepts.links import concept_address, unit_pages
from mi_superposition.pages.concepts.measure import intro, items, sections
from mi_superposition.pages.concepts.overlap import shared_verdict
from mi_superposition.pages.request import ChapterRequest, RealData
from mi_superposition.runs import read_config
from mi_superposition.site.records import Link
from mi_superposition.studies.concepts.measure import BUNDLED, load
from mi_superposition.subjects import chapters


@pytest.fixture(scope="module")
def stories():
    return load(BUNDLED / STORIES)


def table(items, name):
    [record] = [item for item in items if item.id == name]
    return record


def test_units_link_to_their_pages(stories):
    pages = unit_pages(stories)
    assert set(pages) == {"blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post", "blocks.1.hook_resid_pre.features"}
    with_links, without = items(stories, pages), items(stories)
    rows = table(with_links, "several").rows
    assert all(row[0].address.startswith("neurons/L1N") for row in rows)
    assert [str(row[0]) for row in rows] == [row[0] for row in table(without, "several").rows]
    features = table(with_links, "features").rows[0][-1]
    assert isinstance(features[0], Link)
    assert not isinstance(table(without, "features").rows[0][-1][0], Link)


def test_where_units_of_a_layer_are_shown(stories):
    """Every address is that of an item of the chapter's page."""
    page = {item.id for item in items(stories)}
    for layer in stories.unit_effects():
        file, _, anchor = concept_address(layer, stories).partition("#")
        assert file == "concepts.html"
        assert anchor in page
    assert concept_address(stories.features.name, stories) == "concepts.html#features"
    assert concept_address(stories.neuron_layer, stories) == "concepts.html#several"


@pytest.mark.parametrize("chapters", [["concepts"], ["neuroscope", "concepts"]])
def test_the_chapter_of_the_bundled_runs(chapters):
    request = ChapterRequest(chapters)
    made = jobs(request)
    assert all(job.bundled is not None and job.bundled.is_dir() for job in made.values())
    chapter = section({CHAPTER: {name: job.bundled for name, job in made.items()}}, request)
    runs = chapter.page.items[0]
    assert [row[0].address for row in runs.rows[1:]] == [f"{page.slug}.html" for page in chapter.more]
    assert len(chapter.more) == len(REAL)
    assert chapter.number == "0.757 ± 0.034 balanced accuracy"
    assert "12 random halvings of the words, layer chosen on the training half" in chapter.number_is
    assert "0.544 for the model without the concept word" in chapter.control
    links = [row[0] for row in table(chapter.page.items, "several").rows]
    assert all(isinstance(link, Link) == ("neuroscope" in chapters) for link in links)
    # The source is named on every page.
    for page in chapter.pages:
        assert "R. A. Stringer, “Unravelling Superposition”" in page.intro


def test_the_chapter_on_real_sentences_trains_the_encoder_first(tmp_path):
    for name in chapters()["concepts"].files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    made = jobs(ChapterRequest(["concepts"], RealData(tmp_path, tmp_path / "runs", ["concepts"])))
    assert list(made) == [STORIES, "sst2-encoder", *REAL]
    assert made[STORIES].bundled is not None
    assert isinstance(made["sst2-encoder"].config, EncoderConfig)
    assert all(made[name].kept for name in ("sst2-encoder", *REAL))
    for name in REAL:
        config, bundled = made[name].config, read_config(BUNDLED / name, ConceptsConfig)
        assert Path(config.text.corpus) == tmp_path / bundled.text.corpus
        model = STORIES if name == "sst2-labels-stories" else str(tmp_path / "runs" / "concepts-sst2-encoder")
        # Otherwise as the bundled run.
        assert config == bundled.replace(corpus=config.text.corpus, model=model)


def test_labels_have_no_words_and_no_shared_units():
    [page] = sections(BUNDLED / "sst2-labels-stories")
    shown = [item.id for item in page.page.items]
    assert shown == ["halvings", "probes", "accuracies", "principal", "directions", "permutations"]
    assert "random word lists" not in page.control


def test_the_words_follow_the_numbers():
    """Of the halvings, and of units that concepts share: a difference that is there is told, whichever way."""
    result = load(BUNDLED / STORIES)
    assert result.halves.mean("trained") < result.best_probe("trained")
    moved = replace(result, halves=replace(result.halves, trained=(0.25, 0.35)))
    assert "0.300 ± 0.071" in intro(moved)
    assert "0.757" not in intro(moved)
    older = replace(result, halves=None)
    assert "0.802 ± 0.032" in intro(older)
    assert "best on the held-out texts" in intro(older)
    comparisons = result.shared_comparisons()
    assert len(comparisons) == 25
    assert "no difference seen over 5 layers and the top 10, 20, 40, 80, 160 units" in shared_verdict(comparisons)
    layer = result.neuron_layer
    units = result.trained[layer].effects.shape[1]
    # Every concept's largest effects on units of its own: fewer shared than by chance; all on the same: more.
    apart = torch.zeros(6, units)
    for concept in range(6):
        apart[concept, 160 * concept : 160 * concept + 160] = 1
    together = torch.linspace(1, 0, units).expand(6, units)
    for effects, said in ((apart, f"fewer at {layer}, top 160 (0.0"), (together, f"more at {layer}, top 10 (10.0")):
        changed = {**result.trained, layer: replace(result.trained[layer], effects=effects)}
        assert said in shared_verdict(replace(result, trained=changed).shared_comparisons())


def test_what_is_bundled_is_of_the_bundled_model_and_what_its_docs_say():
    """The table's numbers, and that the model they are of is the one that is loaded."""
    docs = (Path(__file__).parents[3] / "docs" / "concepts.md").read_text()
    for name in (STORIES, *REAL):
        result = load(BUNDLED / name)
        # To the last bit with one version of Python: from 3.12 on it adds up numbers more exactly.
        written = read_json(BUNDLED / name / "metrics.json")
        written = {key: value for key, value in written.items() if not key.startswith("corpus/")}
        assert result.metrics() == pytest.approx(written, rel=1e-12, nan_ok=True)
        controls = result.accuracies()
        bag, untrained = (
            next(value for key, value in controls.items() if part in key) for part in ("bag of", "untrained")
        )
        cells = [
            result.told_accuracy,
            f"{untrained:.3f}",
            f"{result.best_random:.3f}" if result.by_words else "",
            f"{bag:.3f}",
        ]
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in docs
        trained, spread = (float(part) for part in result.told_accuracy.split(" ± "))
        # What the text says: better than every control, but for the story model on reviews.
        assert (trained > max(controls.values()) + 2 * spread) == (name != "sst2-labels-stories")
        if name == STORIES:
            for what in ("denied", "word_vectors"):
                assert f"{result.halves.mean(what):.3f} ± {result.halves.deviation(what):.3f}" in docs
            for one in result.shared_comparisons():
                if one.layer == result.neuron_layer:
                    assert (
                        f"| {one.k} | {one.observed:.2f} | {one.random:.2f} ± {one.deviation:.2f} | {one.p:.2f} | {one.adjusted:.2f} |"
                        in docs
                    )
        model = read_json(BUNDLED / name / "manifest.json")["inputs"]["model"]
        if model["name"] == "stories":
            assert model["sha256"] == content_hash(weights_of(load_model("stories", device="cpu")))
