"""Pages about concepts, from the bundled runs: links, the report's chapter, and what the docs say of them."""

from pathlib import Path

import pytest

from mi_superposition.concepts.config import ConceptsConfig, EncoderConfig
from mi_superposition.files import content_hash, read_json
from mi_superposition.models import load_model, weights_of
from mi_superposition.pages.concepts.chapter import CHAPTER, REAL, STORIES, jobs, section
from mi_superposition.pages.concepts.links import concept_address, unit_pages
from mi_superposition.pages.concepts.measure import items, sections
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
    assert chapter.number == "0.802 balanced accuracy"
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
    assert shown == ["probes", "accuracies", "principal", "directions", "permutations"]
    assert "random word lists" not in page.control


def test_what_is_bundled_is_of_the_bundled_model_and_what_its_docs_say():
    """The table's numbers, and that the model they are of is the one that is loaded."""
    docs = (Path(__file__).parents[3] / "docs" / "concepts.md").read_text()
    for name in (STORIES, *REAL):
        result = load(BUNDLED / name)
        # To the last bit with one version of Python: from 3.12 on it adds up numbers more exactly.
        assert result.metrics() == pytest.approx(read_json(BUNDLED / name / "metrics.json"), rel=1e-12, nan_ok=True)
        trained, untrained = result.best_probe("trained"), result.best_probe("untrained")
        cells = [
            f"{trained:.3f} ± {result.error:.3f}",
            f"{untrained:.3f}",
            f"{result.best_random:.3f}" if result.by_words else "",
        ]
        assert f"| {' | '.join([*cells, f'{result.bag_of_words:.3f}'])} |".replace("|  |", "| |") in docs
        # What the text says: better than every control, but for the story model on reviews.
        controls = [untrained, result.best_random, result.bag_of_words, result.chance]
        assert (trained > max(controls) + 2 * result.error) == (name != "sst2-labels-stories")
        model = read_json(BUNDLED / name / "manifest.json")["inputs"]["model"]
        if model["name"] == "stories":
            assert model["sha256"] == content_hash(weights_of(load_model("stories", device="cpu")))
