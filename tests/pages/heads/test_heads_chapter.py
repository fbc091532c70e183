"""The report's chapter on superposition among heads, and the results that come with the package."""

import re

from mi_superposition.files import read_json
from mi_superposition.heads.trigrams.config import TrigramsConfig
from mi_superposition.pages.heads import chapter
from mi_superposition.pages.request import ChapterRequest
from mi_superposition.runs import METRICS, read_manifest
from mi_superposition.site import write_site
from mi_superposition.studies.heads import trigrams as study
from mi_superposition.subjects import find_study


def test_the_bundled_run_is_that_of_the_defaults_and_small():
    config = read_manifest(study.BUNDLED, study.COMMAND)["config"]
    assert find_study(study.COMMAND).load_config() is TrigramsConfig
    assert TrigramsConfig.of(**config) == TrigramsConfig()
    assert sum(path.stat().st_size for path in study.BUNDLED.parent.rglob("*") if path.is_file()) < 150_000
    assert (
        read_json(study.BUNDLED / METRICS) == read_json(study.BUNDLED / METRICS) | study.load(study.BUNDLED).metrics()
    )


def test_the_chapter_has_its_number_and_controls(tmp_path):
    request = ChapterRequest([chapter.CHAPTER])
    [(name, job)] = chapter.jobs(request).items()
    found = chapter.section({chapter.CHAPTER: {name: job.bundled}}, request)
    numbers = read_json(study.BUNDLED / METRICS)
    assert found.number == f"{numbers['n_features']} features, {numbers['heads_per_feature']:.1f} heads each"
    assert found.control.startswith(f"{numbers['n_random_kept']} of {numbers['n_random_tested']} random trigrams pass")
    assert f"{numbers['carriers_per_feature_untrained']:.1f}" in found.control
    write_site([found], tmp_path / "site", title="t", lead="l")
    page = (tmp_path / "site" / f"{chapter.CHAPTER}.html").read_text()
    assert set(re.findall(r'data-figure="([\w-]+)-data"', page)) == {"matrix", "by-head", "groups"}
    for table in ("found", "ways", "interference", "compared", "toy", "features"):
        assert f'id="{table}"' in page, table
