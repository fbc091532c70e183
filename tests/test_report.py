"""The report from the bundled models: complete, and true to what the package measures."""

import json
import re

import pytest

from mi_superposition.cli import main
from mi_superposition.report import SECTIONS, write_report


def test_every_section_has_a_card_and_a_page(report_site):
    index = (report_site / "index.html").read_text()
    for name in SECTIONS:
        assert f'href="{name}.html"' in index
        assert (report_site / f"{name}.html").exists()
    assert index.count('class="card"') == len(SECTIONS)
    assert index.count("Control:") == len(SECTIONS)


def test_every_figure_has_its_words_its_number_and_its_control(report_site):
    html = (report_site / "addition.html").read_text()
    ids = re.findall(r'data-figure="([\w-]+)-data"', html)
    assert {"accuracy", "training", "digits-over-training", "nines", "attention", "ablation-maps", "ablation-accuracy", "pushes", "head-sets", "projections",
            "circularity", "ov", "projection-training"} == set(ids)  # fmt: skip
    for path in report_site.glob("*.html"):
        html = path.read_text()
        figures = html.count('class="figure"') + html.count('class="matrix"')
        assert html.count('class="look-at"') >= figures
        numbers = re.findall(
            r'class="figures-number"><strong>(.*?)</strong> <span class="control">Control: (.*?)</span>', html
        )
        assert len(numbers) == figures
        assert all(re.search(r"\d", number) and re.search(r"\d", control) for number, control in numbers)


def test_the_ablation_figure_holds_every_condition_on_one_scale(report_site):
    html = (report_site / "addition.html").read_text()
    figure = json.loads(re.search(r'id="ablation-maps-data">(.*?)</script>', html).group(1))
    assert [frame["name"] for frame in figure["frames"]] == [
        "all",
        "none",
        *(f"{kind} {head}" for kind in ("only", "without") for head in range(32)),
    ]
    scales = {(trace["zmin"], trace["zmax"]) for frame in figure["frames"] for trace in frame["data"]}
    assert len(scales) == 1
    assert all(len(frame["data"]) == 11 for frame in figure["frames"])


def test_a_finished_report_is_left_alone(report_site, capsys):
    before = {path: path.stat().st_mtime_ns for path in report_site.rglob("*")}
    assert main(["report", "--out", str(report_site)]) == 0
    assert capsys.readouterr().out.startswith("finished already")
    assert {path: path.stat().st_mtime_ns for path in report_site.rglob("*")} == before


@pytest.mark.slow
def test_the_report_is_the_same_bytes_again(report_site, tmp_path):
    assert write_report(tmp_path / "again")
    for path in report_site.rglob("*"):
        if path.suffix in (".html", ".js"):
            assert (tmp_path / "again" / path.relative_to(report_site)).read_bytes() == path.read_bytes()


def test_every_neuron_has_a_small_page(report_site):
    """2,048 of them: median at most 40 kB, none above 120 kB, all without those of features at most 60 MB."""
    sizes = sorted(path.stat().st_size for path in (report_site / "neurons").glob("L*N*.html"))
    assert len(sizes) == 2048
    assert sizes[1024] <= 40_000
    assert sizes[-1] <= 120_000
    files = [path for path in (report_site / "neurons").rglob("*") if path.is_file() and ".features." not in path.name]
    assert sum(path.stat().st_size for path in files) <= 60_000_000


def test_every_feature_has_a_page_that_leads_to_neurons_and_back(report_site):
    pages = sorted((report_site / "neurons").glob("*.features.*.html"))
    assert len(pages) == 2048
    assert sum(path.stat().st_size for path in pages) <= 60_000_000
    feature = pages[0].read_text()
    neuron = re.search(r'href="(L0N\d+\.html)"', feature).group(1)
    assert "features." in (report_site / "neurons" / neuron).read_text()
    assert 'href="neurons/blocks.1.hook_resid_pre.features.html"' in (report_site / "sae.html").read_text()


@pytest.mark.browser
def test_from_the_order_to_a_neuron_and_to_the_search(report_site, browser):
    """Real pages in a real browser: a spot's neuron, its page, a token of its own, the search for it."""
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((report_site / "neuron-order.html").as_uri())
    page.locator("#spots a[href^=neurons]").first.click()
    page.wait_for_url("**/neurons/L1N*.html")
    assert page.locator("#top + ol .text span").count() > 200
    token = page.locator(".tokens code").first.inner_text()
    number = page.inner_text("h1").split()[-1]
    page.locator("#search").click()
    page.wait_for_url("**/neurons/index.html#search")
    page.fill("#search", token)
    page.wait_for_selector("#results a")
    assert number in page.locator("#results a").all_text_contents()
    assert problems == []
    page.close()
