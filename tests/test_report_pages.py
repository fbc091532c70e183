"""Every page of the report in a browser: it draws its figures, asks for nothing, fits the screen, leads somewhere and passes axe.

Of a small report, each page in one view; of the whole one in all four, and a large sample of the pages of units, with -m slow.
"""

import random
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from robustness.fixtures import FULL

VIEWS = [(width, scheme) for width in (1440, 390) for scheme in ("light", "dark")]
pytestmark = pytest.mark.browser


def sampled_units(site, n):
    """Pages of neurons and of features, drawn with a fixed seed."""
    pages = sorted((site / "neurons").glob("L*N*.html")) + sorted((site / "neurons").glob("*.features.[0-9]*.html"))
    return random.Random(0).sample(pages, n)


def violations(page):
    """The rules of axe that an open page breaks, how often, and where first."""
    found = Axe().run(page).response["violations"]
    return [(rule["id"], len(rule["nodes"]), [node["html"][:120] for node in rule["nodes"][:2]]) for rule in found]


def missing_links(page):
    """Links to files that are not there."""
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    files = {link.removeprefix("file://").partition("#")[0].partition("?")[0] for link in links}
    return sorted(file for file in files if not Path(file).exists())


def check(path, visit, width, scheme, *, axe, whole):
    """Everything that is asked of a page; the bundled results on concepts lead to all units of the story model."""
    page, problems, requests = visit(path, width=width, scheme=scheme)
    assert (path.name, problems, requests) == (path.name, [], [])
    assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    if path.name != "concepts.html" or whole:
        assert (path.name, missing_links(page)) == (path.name, [])
    for figure in page.query_selector_all(".figure"):
        assert figure.query_selector_all(".trace, .hm, .heatmaplayer image, .boxes, .point, .js-line"), (
            figure.get_attribute("data-figure")
        )
    if axe:
        assert (path.name, violations(page)) == (path.name, [])


def pages_of(site, units):
    """Each kind of page, and a few units."""
    tables = ["index", "L0", "L1", "blocks.1.hook_resid_pre.features"]
    paths = [*sorted(site.glob("*.html")), *(site / "neurons" / f"{name}.html" for name in tables)]
    assert {path.stem for path in paths} >= {"index", "addition", "all-heads"}
    return [*paths, *sampled_units(site, units)]


# Tests that share the pages among them.
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_every_kind_of_page_of_a_small_report(report_site, visit, part):
    """Every second one, in one of four views by turns."""
    width, scheme = VIEWS[part % len(VIEWS)]
    for path in pages_of(report_site, 2)[2 * part :: 2 * PARTS]:
        check(path, visit, width, scheme, axe=part % len(VIEWS) == 0, whole=False)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_every_kind_of_page(whole_report_site, visit, width, scheme):
    for path in pages_of(whole_report_site, 4):
        check(path, visit, width, scheme, axe=True, whole=True)


def test_axe_finds_what_is_wrong(visit, tmp_path):
    """The check can fail: a picture without words, and grey on grey."""
    bad = "<html lang=en><title>t</title><main><h1>t</h1><img src=x><p style='color:#aaa;background:#999'>words</p></main>"
    (tmp_path / "bad.html").write_text(bad)
    page, *_ = visit(tmp_path / "bad.html", width=1440)
    assert {"image-alt", "color-contrast"} <= {rule for rule, *_ in violations(page)}


@pytest.mark.slow
def test_pages_of_units(whole_report_site, browser):
    """With ROBUSTNESS=full all 4,096, for which axe takes more than an hour; they are of one template."""
    page = browser.new_context(viewport={"width": 390, "height": 900}, color_scheme="dark").new_page()
    found = []
    for path in sampled_units(whole_report_site, 4096 if FULL else 256):
        page.goto(path.as_uri())
        found += [(path.name, *rule) for rule in violations(page)]
        if page.evaluate("document.documentElement.scrollWidth") > 390:
            found.append((path.name, "wider than the screen"))
    page.context.close()
    assert found == []
