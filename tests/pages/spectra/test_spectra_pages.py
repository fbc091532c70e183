"""The page of a run, and the chapter of the report."""

import plotly.graph_objects as go
import pytest

from mi_superposition.cli import main
from mi_superposition.pages.request import ChapterRequest, RealData
from mi_superposition.pages.spectra import chapter
from mi_superposition.pages.spectra.measure import sections
from mi_superposition.site.records import FigureRecord, TableRecord
from mi_superposition.spectra import SpectraConfig
from mi_superposition.studies.spectra.measure import BUNDLED, measure

FIGURES = ["ranks-by-layer", "training-weights", "training-activations", "spectra", "histograms", "weights"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spectra") / "digits"
    return measure(SpectraConfig().replace(epochs=1, threads=1), folder).folder


def items_of(page):
    return {item.id: item for item in page.items}


def test_the_page_of_a_classifier(digits, tmp_path):
    [section] = sections(digits)
    items = items_of(section.page)
    assert list(items) == [*FIGURES, "table-weights", "table-activations"]
    assert all(item.number and item.control for item in items.values() if isinstance(item, FigureRecord))
    assert section.page.intro.startswith("simplenet on digits, 1 epochs, test accuracy ")
    assert "untrained" in section.control
    assert main(["page", str(digits), "--out", str(tmp_path / "page")]) == 0
    html = (tmp_path / "page" / "spectra.html").read_text()
    for name in FIGURES:
        assert f'data-figure="{name}-data"' in html


@pytest.mark.parametrize("name", ["stories", "simplenet-mnist", "resnet50-cifar100"])
def test_pages_of_what_is_bundled(name):
    [section] = sections(BUNDLED / name)
    items = items_of(section.page)
    assert set(items) <= {*FIGURES, "table-weights", "table-activations"}
    assert ("training-weights" in items) == (name != "stories")
    assert all(isinstance(item.figure, go.Figure) for item in items.values() if isinstance(item, FigureRecord))
    # Depth says something of many layers alone.
    assert ("Spearman" in items["ranks-by-layer"].look_at) == (name != "simplenet-mnist")
    assert ("21 of 54 layers cannot reach" in items["ranks-by-layer"].look_at) == (name == "resnet50-cifar100")


def test_the_chapter(digits):
    request = ChapterRequest(["spectra"])
    jobs = chapter.jobs(request)
    assert jobs["digits"].config == SpectraConfig()
    assert jobs.pop("digits").bundled is None
    runs = {"digits": digits, **{name: job.bundled for name, job in jobs.items()}}
    section = chapter.section({"spectra": runs}, request)
    assert [page.slug for page in section.pages] == ["spectra", *(f"spectra-{name}" for name in jobs)]
    items = items_of(section.page)
    assert (section.number, section.control) == ("118 of 128", "125 untrained, 125 random matrix")
    assert len(items["networks"].rows) == 4
    # Stringer's ranks are of weights, and one fewer than ours of the same weights.
    assert "; 117 by Stringer's count" in section.number_is
    assert [row[2:5] for row in items["reproduction"].rows] == [["110 (113)", "117", "118"], ["54", "55", "56"]]
    linear, relu = items["same-rank"].rows
    assert (linear[1], relu[1]) == ("2", "5")
    assert linear[2] == relu[2] == "2 of 2"
    assert isinstance(items["table-weights"], TableRecord)


def test_real_images_are_asked_for_as_what_is_bundled(tmp_path):
    real = RealData(None, tmp_path, [])
    jobs = chapter.jobs(ChapterRequest(["spectra"], real))
    assert [name for name, job in jobs.items() if job.kept] == ["simplenet-mnist", "resnet50-cifar100"]
    resnet = jobs["resnet50-cifar100"].config
    assert resnet.images == "uoft-cs/cifar100"
    assert (resnet.model.name, resnet.stem, resnet.training.batch_size) == ("resnet50", "small-pooled", 128)
