"""Pages of toy models: of a training, of each study, and the report's chapter, from run folders alone."""

from typing import get_args

import plotly.graph_objects as go
import pytest

from mi_superposition import load_run, write_page
from mi_superposition.cli import main
from mi_superposition.pages.request import ChapterRequest, RealData
from mi_superposition.pages.toy import chapter
from mi_superposition.pages.toy.study import page, sections, showing
from mi_superposition.pages.toy.words import setting_labels
from mi_superposition.parts import ThreadsPart
from mi_superposition.site.records import TableRecord
from mi_superposition.studies.toy.study import load, measure
from mi_superposition.toy import ToyConfig, ToyStudyConfig, bundled_study, train_toy
from mi_superposition.toy.config import StudyName

STUDIES = get_args(StudyName)
TINY = ToyConfig(n_instances=3, n_kept=2, n_steps=5, batch_size=16, threads=ThreadsPart(1))


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_of_a_study_has_a_number_and_a_control(name):
    study = load(bundled_study(name))
    assert any(character.isdigit() for character in showing(name).outcome(study))
    shown = page(study)
    assert len(shown.items) >= 3
    for item in shown.items:
        if hasattr(item, "control"):
            assert any(character.isdigit() for character in item.control), item.id
    # The source, by its title.
    assert shown.intro.count("Source: ") == 1


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_shown_at_the_smallest_size(name, tmp_path):
    measure(ToyStudyConfig(study=name, n_instances=1, n_steps=2, threads=ThreadsPart(1)), tmp_path / "run")
    assert write_page(tmp_path / "run", tmp_path / "page") == tmp_path / "page" / "index.html"
    assert (tmp_path / "page" / f"toy-{name}.html").exists()


@pytest.mark.parametrize(
    ("config", "traces"),
    [
        # A line per feature; W^T W, biases and norms; all bars of a panel.
        (TINY.replace(probability=(0.5, 0.1), importance_ratio=(0.9,)), 5),
        (TINY.replace(n_features=8, n_hidden=3), 3),
        (TINY.replace(task="max", n_features=8, dropout=(0.0, 0.1)), 1),
        (
            TINY.replace(network="neuron", n_features=300, n_hidden=400, probability=(1.0, 0.1)),
            1,
        ),
    ],
)
def test_a_training_and_its_page(config, traces, tmp_path):
    models = train_toy(config, tmp_path / "run")
    assert len(repr(models)) < 400
    assert isinstance(models.plot(), go.Figure)
    assert len(models.plot().data) == traces
    frame = models.to_frame()
    assert list(frame.index.names) == ["setting", "kept"]
    assert len(frame) == len(config.settings) * 2
    best, second = models.loss[0].sort().values.tolist()[:2]
    assert frame["loss"].tolist()[:2] == pytest.approx([best, second])
    assert load_run(tmp_path / "run").to_frame().equals(frame)
    assert main(["page", str(tmp_path / "run"), "--out", str(tmp_path / "page")]) == 0
    assert "before training" in (tmp_path / "page" / "toy-models.html").read_text()


def test_uneven_settings_in_a_table():
    models = train_toy(TINY.replace(probability=(0.5, 0.4), probability_ratio=(1.0, 0.5), importance_ratio=(0.1,)))
    frame = models.to_frame()
    assert frame["probability"].tolist() == [0.5, 0.5, 0.4, 0.4]
    assert frame["last_probability"].tolist() == pytest.approx([0.5, 0.5, 0.025, 0.025])
    assert frame["last_importance"].tolist() == pytest.approx([1e-4] * 4)
    assert setting_labels(models.config.settings) == ["sparsity 0.5", "sparsity 0.6 to 0.975"]


def test_no_two_settings_have_one_label():
    labels = setting_labels(ToyConfig(probability=(1e-5, 1e-6), importance_ratio=(1.0, 0.5)).settings)
    assert len(set(labels)) == 4
    assert labels[1] == "sparsity 1, importance 1 to 0.0625, setting 1"


def test_the_chapter_shows_the_bundled_studies():
    request = ChapterRequest(["toy"])
    jobs = chapter.jobs(request)
    assert list(jobs) == list(STUDIES)
    assert all(job.bundled == bundled_study(name) for name, job in jobs.items())
    section = chapter.section({"toy": {name: job.bundled for name, job in jobs.items()}}, request)
    assert (section.number, section.control) == ("5 in 2", "2 without ReLU, 3.2 before training")
    assert [page.slug for page in section.more] == [f"toy-{name}" for name in STUDIES]
    table = next(item for item in section.page.items if isinstance(item, TableRecord))
    assert [row[0].address for row in table.rows] == [f"toy-{name}.html" for name in STUDIES]


def test_the_chapter_in_full_trains_the_size_of_the_sources(tmp_path):
    jobs = chapter.jobs(ChapterRequest(["toy"], RealData(None, tmp_path, ["toy"])))
    assert jobs["neurons"].config == ToyStudyConfig(study="neurons", full=True)
    assert all(job.kept and job.bundled is None for job in jobs.values())


def test_a_study_that_learnt_nothing_is_shown(tmp_path):
    """No pair of neurons, no motif, nothing represented: sentences and figures stay whole."""
    measure(ToyStudyConfig(study="absolute", n_instances=1, n_steps=1, threads=ThreadsPart(1)), tmp_path)
    [section] = sections(tmp_path)
    assert "0 of 1 instances" in section.number_is
