"""The report from the bundled models: complete, and true to what the package measures."""

import json
import os
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_bundle import UNITS

from mi_superposition.cli import main
from mi_superposition.errors import RequestError
from mi_superposition.files import read_json
from mi_superposition.pages.request import RealData
from mi_superposition.progress import Progress
from mi_superposition.report.config import ReportConfig
from mi_superposition.report.write import write_report
from mi_superposition.runs import MANIFEST, locked
from mi_superposition.site import Page, Section
from mi_superposition.site.folder import LIST, REPORT, SiteFolder
from mi_superposition.site.records import TableRecord
from mi_superposition.subjects import Chapter, chapters
from mi_superposition.training import Stopped


def test_every_section_has_a_card_and_a_page(report_site):
    index = (report_site / "index.html").read_text()
    for name in chapters():
        assert f'href="{name}.html"' in index
        assert (report_site / f"{name}.html").exists()
    assert index.count('class="card"') == len(chapters())
    assert index.count("Control:") == len(chapters())
    # The story is told in order, each chapter led to from the one before.
    places = [index.index(f'href="{name}.html">{chapter.title}</a></h2>') for name, chapter in chapters().items()]
    assert places == sorted(places)
    assert index.count('class="leads-on"') == index.count("Reported: ") == len(chapters())


def test_every_figure_has_its_words_its_number_and_its_control(report_site):
    html = (report_site / "addition.html").read_text()
    ids = re.findall(r'data-figure="([\w-]+)-data"', html)
    assert {"accuracy", "training", "program-roles", "program-steps", "program-tables", "program-length", "boxes-exact", "gap-exact", "boxes-paper", "gap-paper", "digits-over-training", "nines", "attention", "ablation-maps", "ablation-accuracy", "pushes", "head-sets", "projections",
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


def broken_links(site):
    """Links to files that are not there, or to places that a page does not have."""
    broken, ids = [], {}

    def ids_of(path):
        if path not in ids:
            ids[path] = set(re.findall(r'\bid="([^"]+)"', path.read_text()))
        return ids[path]

    for page in site.rglob("*.html"):
        for address in set(re.findall(r'href="([^"]+)"', page.read_text())):
            file, _, place = address.partition("#")
            target = (page.parent / file.partition("?")[0]).resolve() if file else page.resolve()
            if not target.is_file() or (place and place.partition("=")[0] not in ids_of(target)):
                broken.append((page.name, address))
    return broken


def test_every_link_leads_somewhere(report_site):
    """But from the bundled results on concepts, which are of all units of the story model."""
    assert [link for link in broken_links(report_site) if link[0] != "concepts.html"] == []


@pytest.mark.slow
def test_every_link_of_the_whole_report_leads_somewhere(whole_report_site):
    assert broken_links(whole_report_site) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "concepts")) for name in chapters()],
)
def test_a_section_alone_links_to_no_other(name, tmp_path):
    assert main(["report", "--out", str(tmp_path / "site"), "--sections", name]) == 0
    assert broken_links(tmp_path / "site") == []
    assert (tmp_path / "site" / "index.html").read_text().count('class="card"') == 1


class SmallChapter(Chapter):
    """A chapter that says when it is told, and has no runs."""

    def __init__(self, name, told, stop_at):
        super().__init__(name, name.title(), f"on to {name}", f"{name} was reported", "")
        object.__setattr__(self, "told", told)
        object.__setattr__(self, "stop_at", stop_at)

    def showing(self):
        return self

    def jobs(self, request):
        return {}

    def section(self, runs, request):
        request.progress.stage("telling")
        self.told.append(self.name)
        if self.name == self.stop_at:
            raise KeyboardInterrupt
        item = TableRecord("numbers", "Numbers", f"of {self.name} & <others>", ["a"], [["1"]])
        page = Page(self.name, self.title, "intro", [item])
        return Section(self.name, self.title, "s", "1", "n", "c", page)


def chapters_of(names, monkeypatch, told, stop_at=None):
    """A report of small chapters."""
    small = {name: SmallChapter(name, told, stop_at) for name in names}
    for module in ("config", "write"):
        monkeypatch.setattr(f"mi_superposition.report.{module}.chapters", lambda: small)


def build(site, progress=None, **options):
    """Whether there was something to do."""
    return not write_report(ReportConfig(out=site, **options), progress or Progress()).finished_already


class Asked(Progress):
    def should_stop(self):
        return True


def contents(site):
    return {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def test_a_report_that_was_stopped_goes_on(tmp_path, monkeypatch):
    """Sections done are not measured again, and the site is the same bytes as one that was not stopped."""
    whole, built = tmp_path / "whole", []
    chapters_of(["one", "two", "three"], monkeypatch, built)
    build(whole)
    stopped, built = tmp_path / "stopped", []
    chapters_of(["one", "two", "three"], monkeypatch, built, stop_at="two")
    with pytest.raises(KeyboardInterrupt):
        build(stopped)
    assert not (stopped / "index.html").exists()
    chapters_of(["one", "two", "three"], monkeypatch, built)
    assert build(stopped)
    assert built == ["one", "two", "two", "three"]
    assert contents(stopped) == contents(whole)
    # Asked to stop it says so at the next stage, and keeps what it has.
    with pytest.raises(Stopped):
        build(tmp_path / "asked", Asked())
    assert read_json(tmp_path / "asked" / MANIFEST)["status"] == "running"


def test_other_sections_replace_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    site, built = tmp_path / "site", []
    chapters_of(["one", "two"], monkeypatch, built)
    build(site)
    (site / "images").mkdir()
    mine = ["mine.html", "notes.txt", "images/photo.png"]
    for name in mine:
        (site / name).write_text("<p>of my own")
    # Cut off when all is written but what is left of before: the next one removes it.
    with monkeypatch.context() as patch:
        patch.setattr(SiteFolder, "remove", cut_off)
        with pytest.raises(KeyboardInterrupt):
            build(site, sections=("two",))
    assert (site / "one.html").exists()
    build(site, sections=("two",))
    left = {path.as_posix() for path in contents(site) if path.parts[0] != "assets"}
    assert left == {"index.html", "two.html", "search/two.js", "manifest.json", LIST, *mine}
    assert "one.html" not in (site / "two.html").read_text()


def cut_off(*given):
    raise KeyboardInterrupt


def test_a_finished_site_that_is_damaged_is_made_again(tmp_path, monkeypatch):
    site, built = tmp_path / "site", []
    chapters_of(["one", "two"], monkeypatch, built)
    assert build(site)
    assert not build(site)
    before = contents(site)
    (site / "two.html").unlink()
    built.clear()
    assert build(site)
    assert built == ["two"]
    assert contents(site) == before
    (site / MANIFEST).unlink()
    assert build(site)
    assert contents(site) == before
    # Nobody knows whose words these are.
    for damaged in ("{", '{"made_from": 1, "status": "finished", "sections": []}'):
        (site / MANIFEST).write_text(damaged)
        with pytest.raises(RequestError, match="was changed since it was written"):
            build(site)
        assert (site / MANIFEST).read_text() == damaged


def test_two_reports_do_not_write_one_folder(tmp_path, monkeypatch):
    chapters_of(["one"], monkeypatch, [])
    with locked(tmp_path / "site"), pytest.raises(RequestError, match="is being written by another process"):
        build(tmp_path / "site")


def test_wrong_requests_leave_no_folder(tmp_path, capsys):
    with pytest.raises(RequestError, match="'toys' is not one of 'toy', 'addition'"):
        build(tmp_path / "site", sections=("toys",))
    assert main(["report", "--out", str(tmp_path / "site"), "--data", str(tmp_path)]) == 2
    assert main(["report", "--out", str(tmp_path / "site"), "--full", "--data", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "is for --full only" in said
    assert "has no file 'tinystories/validation.parquet'" in said
    assert main(["report", "--out", "/", "--full"]) == 2
    assert "give a folder that has a name" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


@pytest.mark.slow
def test_the_report_is_the_same_bytes_again(whole_report_site, tmp_path):
    assert build(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(whole_report_site)


@pytest.mark.slow
def test_every_neuron_has_a_small_page(whole_report_site):
    """2,048 of them: median at most 40 kB, none above 120 kB, all without those of features at most 60 MB."""
    sizes = sorted(path.stat().st_size for path in (whole_report_site / "neurons").glob("L*N*.html"))
    assert len(sizes) == 2048
    assert sizes[1024] <= 40_000
    assert sizes[-1] <= 120_000
    files = [path for path in (whole_report_site / "neurons").rglob("*") if path.is_file()]
    files = [path for path in files if ".features." not in path.name]
    assert sum(path.stat().st_size for path in files) <= 60_000_000


@pytest.mark.slow
def test_every_feature_has_a_small_page(whole_report_site):
    pages = sorted((whole_report_site / "neurons").glob("*.features.*.html"))
    assert len(pages) == 2048
    assert sum(path.stat().st_size for path in pages) <= 60_000_000


def test_every_feature_has_a_page_that_leads_to_neurons_and_back(report_site):
    pages = sorted((report_site / "neurons").glob("*.features.*.html"))
    assert len(pages) == UNITS
    feature = pages[0].read_text()
    neuron = re.search(r'href="(L0N\d+\.html)"', feature).group(1)
    assert "features." in (report_site / "neurons" / neuron).read_text()
    assert 'href="neurons/blocks.1.hook_resid_pre.features.html"' in (report_site / "sae.html").read_text()


@pytest.mark.slow
@pytest.mark.browser
def test_the_way_from_a_spot_to_a_concept_and_back(whole_report_site, browser):
    """A spot of the order, its neuron's page, a feature that reads it, the concept that feature serves, and back."""
    page = browser.new_page(bypass_csp=True)
    page.goto((whole_report_site / "neuron-order.html").as_uri())
    page.locator("#spots a[href^=neurons]").first.click()
    page.wait_for_url("**/neurons/L1N*.html")
    neuron = page.inner_text("h1").split()[-1]
    back = page.locator(".related a[href*=neuron-order]")
    place = int(re.fullmatch(r"position ([\d,]+) of 1,024", back.inner_text())[1].replace(",", ""))
    back.click()
    page.wait_for_url("**/neuron-order.html#similarity=*")
    start, length = map(int, page.url.split("=")[1].split(","))
    assert start <= place < start + length
    # The matrix is drawn there, and the neuron stands at that place of it.
    content = json.loads(page.locator("#similarity-data").inner_text())
    assert content["views"][0]["order"][place] == int(neuron)
    page.locator("#similarity-view canvas").press("ArrowRight")
    page.wait_for_function("document.querySelector('.matrix-readout').innerText.includes('positions')")
    at = re.search(r"positions (\d+) and (\d+)", page.locator(".matrix-readout").inner_text())
    assert all(start <= int(number) < start + length for number in at.groups())
    # Every neuron of the first layer is read by features; one of these serves a concept.
    page.goto((whole_report_site / "concepts.html").as_uri())
    page.locator("#features a[href*=features]").first.click()
    page.wait_for_url("**/neurons/*.features.*.html")
    assert page.locator(".related a[href='../concepts.html#features']").count() >= 1
    page.locator(".units a[href^=L0N]").first.click()
    page.wait_for_url("**/neurons/L0N*.html")
    assert page.locator(".units a[href*=features]").count() >= 1
    page.close()


@pytest.mark.slow
@pytest.mark.browser
def test_the_front_page_finds_figures_neurons_and_tokens(whole_report_site, browser):
    page = browser.new_page(bypass_csp=True)
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((whole_report_site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("tetrahedra and nothing else")
    page.wait_for_function("document.getElementById('found').textContent !== ''")
    page.fill("#find", "random label permutations")
    page.wait_for_selector("#entries a")
    addresses = [link.get_attribute("href") for link in page.locator("#entries a").all()]
    assert "concepts.html#permutations" in addresses
    page.fill("#find", "l1n1023")
    assert page.locator("#entries a").first.get_attribute("href") == "neurons/L1N1023.html"
    page.fill("#find", "L1N1024")
    assert page.locator("#entries a").count() == 0
    page.fill("#find", "dog")
    page.locator("#entries a[href^='neurons/index']").click()
    page.wait_for_selector("#results a")
    assert page.input_value("#search") == "dog"
    page.goto((whole_report_site / "index.html").as_uri())
    page.fill("#find", "no such words at all")
    page.wait_for_function("document.getElementById('found').textContent === '0 results'")
    assert problems == []
    page.close()


@pytest.mark.browser
def test_from_the_order_to_a_neuron_and_to_the_search(report_site, browser):
    """Real pages in a real browser: a spot's neuron, its page, a token of its own, the search for it."""
    page = browser.new_page(bypass_csp=True)
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


READS = tuple(name for name, chapter in chapters().items() if chapter.files)


class AtAnEpoch(Progress):
    """Asks to stop once a classifier is being trained."""

    def __init__(self):
        self.stopping, self.seen = True, []

    def advance(self, by=1, state=""):
        self.seen.append(state)

    def should_stop(self):
        return self.stopping and any("epoch" in state for state in self.seen)


@pytest.mark.slow
@pytest.mark.skipif(
    "REAL_DATA" not in os.environ, reason="REAL_DATA names no folder of the data sets that --full reads"
)
def test_full_on_the_start_of_real_data(tmp_path):
    """Every section that reads real data, on a few rows of them, asked to stop in the midst of one and gone on with."""
    rows, data = {"tinystories": 800, "sst2": 3000, "mnist": 600, "cifar100": 300}, tmp_path / "data"
    for name in sorted({name for chapter in chapters().values() for name in chapter.files}):
        source, copy = Path(os.environ["REAL_DATA"]) / name, data / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".parquet":
            pq.write_table(pq.read_table(source)[: rows[source.parent.name]], copy)
        else:
            shutil.copytree(source.parent, copy.parent, dirs_exist_ok=True)
    site = tmp_path / "site"
    request = {"sections": READS, "full": True, "data": data}
    progress = AtAnEpoch()
    with pytest.raises(Stopped):
        build(site, progress, **request)
    progress.stopping = False
    assert build(site, progress, **request)
    assert set(read_json(site / MANIFEST)["sections"]) == set(READS)
    real = RealData(data, tmp_path / "site-runs", list(READS))
    assert "TinyStories, validation" in (tmp_path / "site" / "neuroscope.html").read_text()
    # Other data are another report.
    pq.write_table(pq.read_table(data / "mnist" / "test.parquet")[:10], data / "mnist" / "test.parquet")
    assert real.identity() != RealData(data, tmp_path / "runs", ["neuroscope"]).identity()
    assert read_json(tmp_path / "site" / MANIFEST)["made_from"]["real"] != real.identity()


def test_words_are_mended_without_measuring_again(tmp_path, monkeypatch):
    """Runs go when what measures has changed, not when what shows has, nor when other sections are asked for."""
    site = tmp_path / "site"
    chapters_of(["one", "two"], monkeypatch, [])
    versions = {"measuring": "1", "all": "1"}
    monkeypatch.setattr(
        "mi_superposition.report.write._package_hash", lambda without=(): versions["measuring" if without else "all"]
    )
    assert build(site)
    (site / "runs").mkdir()
    (site / "runs" / "kept.txt").write_text("measured")
    SiteFolder(site, REPORT).add_folder("runs")
    versions["all"] = "2"
    assert build(site)
    assert build(site, sections=("two",))
    assert (site / "runs" / "kept.txt").exists()
    # What the user puts beside a run is not taken for a part of it.
    (site / "runs" / "mine.txt").write_text("the user's")
    versions["all"] = "3"
    assert build(site)
    versions |= {"measuring": "2", "all": "4"}
    with pytest.raises(RequestError, match=r"mine\.txt' is no finished part of the report"):
        build(site)
    assert (site / "runs" / "mine.txt").exists()
    (site / "runs" / "mine.txt").unlink()
    assert build(site)
    assert not list((site / "runs").rglob("*.*"))
