"""Every page of the report passes axe, at both widths, light and dark; the pages of units by a sample (all with -m slow)."""

import random

import pytest

axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")

# The other two in the slow run: what they have in common with these has been looked at then.
VIEWS = [
    (1440, "light"),
    (390, "dark"),
    pytest.param(1440, "dark", marks=pytest.mark.slow),
    pytest.param(390, "light", marks=pytest.mark.slow),
]


def sampled_units(site, n):
    """Pages of neurons and of features, drawn with a fixed seed."""
    pages = sorted((site / "neurons").glob("L*N*.html")) + sorted((site / "neurons").glob("*.features.[0-9]*.html"))
    return random.Random(0).sample(pages, n)


def violations(browser, paths, views):
    """What axe finds, and what hangs over the edge of the screen."""
    found = []
    axe = axe_playwright.Axe()
    for width, scheme in views:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        for path in paths:
            page.goto(path.as_uri())
            # Figures are drawn when they come into view.
            page.evaluate("document.querySelectorAll('[data-figure]').forEach((figure) => figure.scrollIntoView())")
            results = axe.run(page)
            for violation in results.response["violations"]:
                nodes = [node["html"][:120] for node in violation["nodes"]]
                found.append((path.name, width, scheme, violation["id"], len(nodes), nodes[:2]))
            if page.evaluate("document.documentElement.scrollWidth") > width:
                found.append((path.name, width, scheme, "wider than the screen"))
        context.close()
    return found


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_every_kind_of_page(report_site, browser, width, scheme):
    tables = ["index", "L0", "L1", "blocks.1.hook_resid_pre.features"]
    paths = [*sorted(report_site.glob("*.html")), *(report_site / "neurons" / f"{name}.html" for name in tables)]
    paths += sampled_units(report_site, 4)
    assert violations(browser, paths, [(width, scheme)]) == []


@pytest.mark.browser
def test_axe_finds_what_is_wrong(browser, tmp_path):
    """The check can fail: a picture without words, and grey on grey."""
    bad = "<html lang=en><title>t</title><main><h1>t</h1><img src=x><p style='color:#aaa;background:#999'>words</p></main>"
    (tmp_path / "bad.html").write_text(bad)
    found = {rule for _, _, _, rule, *_ in violations(browser, [tmp_path / "bad.html"], [(1440, "light")])}
    assert {"image-alt", "color-contrast"} <= found


@pytest.mark.slow
@pytest.mark.browser
def test_every_page_of_a_unit(report_site, browser):
    pages = sampled_units(report_site, 4096)
    assert violations(browser, pages, [(390, "dark")]) == []
