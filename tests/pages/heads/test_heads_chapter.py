"""The report's chapter on superposition among heads, and the results that come with the package."""

import re

import pytest

from mi_superposition.files import read_json
from mi_superposition.heads.config import AblateConfig, AblateModelPart
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.pages.heads import chapter
from mi_superposition.pages.request import ChapterRequest
from mi_superposition.runs import METRICS, read_manifest
from mi_superposition.site import write_site
from mi_superposition.studies.heads import ablate_text as ablation
from mi_superposition.studies.heads import trigrams


def chapter_of_the_report():
    request = ChapterRequest([chapter.CHAPTER])
    runs = {name: job.bundled for name, job in chapter.jobs(request).items()}
    return chapter.section({chapter.CHAPTER: runs}, request)


@pytest.mark.parametrize(
    ("study", "config"),
    [(trigrams, TrigramsConfig()), (ablation, AblateConfig(model=AblateModelPart("stories")))],
    ids=["trigrams", "ablation"],
)
def test_the_bundled_runs_are_those_of_the_defaults_and_small(study, config):
    asked = read_manifest(study.BUNDLED, study.COMMAND)["config"]
    threads, device = asked["threads"], asked["device"]
    assert type(config).from_flat(asked) == config.replace(threads=threads, device=device)
    assert sum(path.stat().st_size for path in study.BUNDLED.rglob("*") if path.is_file()) < 300_000
    numbers = read_json(study.BUNDLED / METRICS)
    assert numbers == numbers | study.load(study.BUNDLED).metrics()


def test_the_chapter_has_its_number_and_controls(tmp_path):
    found = chapter_of_the_report()
    numbers = read_json(trigrams.BUNDLED / METRICS)
    assert found.number == f"{numbers['n_features']} features, {numbers['heads_per_feature']:.1f} heads each"
    assert found.control.startswith(f"{numbers['n_random_kept']} of {numbers['n_random_tested']} random trigrams pass")
    assert f"{numbers['carriers_per_feature_untrained']:.1f}" in found.control
    write_site([found], tmp_path / "site", title="t", lead="l")
    page = (tmp_path / "site" / f"{chapter.CHAPTER}.html").read_text()
    assert set(re.findall(r'data-figure="([\w-]+)-data"', page)) == {"matrix", "by-head", "groups"}
    for table in ("found", "ways", "interference", "compared", "toy", "features"):
        assert f'id="{table}"' in page, table
    assert 'href="head-ablation.html"' in page


@pytest.mark.browser
def test_the_page_of_every_head_ablated(tmp_path, visit):
    write_site([chapter_of_the_report()], tmp_path / "site", title="t", lead="l")
    numbers = read_json(ablation.BUNDLED / METRICS)
    for width in (1280, 390):
        page, problems, requests = visit(tmp_path / "site" / "head-ablation.html", width=width)
        assert not problems
        assert not requests
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in (
            "effects",
            "scale",
            "every-head",
            "classes",
            "texts",
            "tasks",
            "task-replacements",
            "sets",
            "pairs",
        ):
            assert page.locator(f"#{name}").count() == 1, name
        text = page.inner_text("#effects")
        largest = max(
            (value, name) for name, value in numbers.items() if re.fullmatch(r"layer_\d/head_\d/mean_loss", name)
        )
        assert f"{largest[0]:.4f}" in text
        assert "in a random direction" in text
        assert "of an untrained model" in text
