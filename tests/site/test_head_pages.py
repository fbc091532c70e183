"""Pages of heads in a real browser: what they show, that every token can be the query, that nothing hostile gets through."""

import math
import re

import numpy as np
import pytest
from unit_site import HOSTILE, SHOWN

from mi_superposition.corpora.tokens import LONGEST_SHOWN
from mi_superposition.site.folder import HEAD_PAGES, SiteFolder
from mi_superposition.site.head_pages import write_head_pages
from mi_superposition.site.head_records import HeadExample, HeadLinks, HeadRecord, HeadsRecord, MeasureRecord
from mi_superposition.site.records import Link, TableRecord

# The beginning token, then two tokens without one text, then a gap.
TOKENS = ["<|begin|>", *SHOWN[:5], "“", "", "", *SHOWN[5:]]
PLACES = [-1, *range(4, 4 + len(TOKENS) - 1)]
NAMES = [f"L{layer}H{head}" for layer in (0, 1) for head in range(3)]
QUERY = len(TOKENS) - 2


def attention():
    n = len(TOKENS)
    weights = np.tril(np.arange(1, n + 1, dtype=np.float32)[None].repeat(n, 0))
    # A tenth goes to tokens that are not shown.
    return 0.9 * weights / weights.sum(axis=1, keepdims=True)


def example(query=QUERY, strength=2.0):
    length = np.linspace(4, 1, len(TOKENS)).astype(np.float32)
    return HeadExample(strength, 70, TOKENS, PLACES, query, attention(), length)


def heads():
    for place, name in enumerate(NAMES):
        yield HeadRecord(
            name=name,
            layer=place // 3,
            head=place % 3,
            measured=[("entropy (nats)", "1.20", "3.00 to 3.10", "4.00 at most"), (HOSTILE[0], "1", "–", "–")],
            top=[example(), example(3, 1.5)],
            tenths=[("1 and above: 3 tokens", [example(7, 1.2)]), ("up to 1: no tokens", [])],
            tables=[TableRecord("pairs", "Pairs", HOSTILE[1], ("query", "key"), [[token, token] for token in SHOWN], ("key",))],
            links=[HeadLinks("Most similar", [(Link(NAMES[0], f"{NAMES[0]}.html"), 0.5), (SHOWN[1], -0.25)], HOSTILE[2])],
        )  # fmt: skip


def record():
    n = len(NAMES)
    measures = [
        MeasureRecord(
            "a", "score a", "What a is.", [0.1 * place for place in range(n)], [0.05] * n, [0.02] * n, "a mean"
        ),
        MeasureRecord("b", HOSTILE[0], HOSTILE[1], [float(n - place) for place in range(n)], [1.0] * n, None),
        MeasureRecord("c", "score c", "What c is.", [math.nan, *[2.0] * (n - 1)], None, None),
    ]
    attended = [[" common", *SHOWN[:3]] for _ in NAMES]
    attended[4] = [" planted"]
    layers = [place // 3 for place in range(n)]
    return HeadsRecord(
        f"Heads of {HOSTILE[1]}",
        [("model", HOSTILE[0])],
        [HOSTILE[0]],
        NAMES,
        layers,
        measures,
        attended,
        ("a", "b", "c"),
    )


def write(out):
    write_head_pages(record(), heads(), SiteFolder(out, HEAD_PAGES), site_title="<Site>")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("heads") / "site"
    write(out)
    return out


pytestmark = pytest.mark.browser


def depths(text):
    grounds = text.locator(".token").evaluate_all("all => all.map((s) => s.style.backgroundColor)")
    return [float(found[1]) if (found := re.search(r"/ ([\d.]+)", ground)) else 0.0 for ground in grounds]


def test_the_query_is_marked_and_its_keys_are_shaded(visit_site):
    page = visit_site("heads/L0H1.html")
    assert page.locator(".examples > li").count() == 3
    text = page.locator(".text").first
    # Three tokens make one character.
    groups = [token for token in TOKENS if token]
    assert text.locator(".token").all_text_contents() == groups
    assert text.locator(".query").all_text_contents() == [TOKENS[QUERY]]
    weights = attention()[QUERY]
    wanted = [float(weights[at]) for at in range(len(TOKENS))]
    wanted = [*wanted[:6], sum(wanted[6:9]), *wanted[9:]]
    for depth, share in zip(depths(text), wanted, strict=True):
        assert depth == pytest.approx(0.8 * math.sqrt(share) if math.sqrt(share) > 0.05 else 0, abs=2e-3)
    # Between the beginning token and the fifth of the document something is left out.
    assert text.locator(".gap").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_pointer_and_keys_move_the_query(visit_site):
    page = visit_site("heads/L0H1.html")
    text = page.locator(".text").first
    text.locator(".token").nth(2).hover()
    assert text.locator(".query").all_text_contents() == [TOKENS[2]]
    said = page.inner_text("#readout")
    row = attention()[2]
    assert f"{row[2]:.2f}, " in said
    assert "(token 6 of document 70)" in said
    assert "0.10 of the attention on tokens not shown" in said
    page.locator("h1").hover()
    assert text.locator(".query").all_text_contents() == [TOKENS[QUERY]]
    text.focus()
    assert f"(token {PLACES[QUERY] + 1} of document 70)" in page.inner_text("#readout")
    page.keyboard.press("ArrowLeft")
    assert text.locator(".query").all_text_contents() == [TOKENS[QUERY - 1]]
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    assert text.locator(".query").all_text_contents() == ["<|begin|>"]
    assert "(beginning token) attends to “<|begin|>” 0.90" in page.inner_text("#readout")
    page.keyboard.press("ArrowRight")
    assert text.locator(".query").all_text_contents() == [TOKENS[1]]
    page.keyboard.press("Home")
    assert text.locator(".query").all_text_contents() == [TOKENS[QUERY]]
    assert "Arrow keys move the query" in text.get_attribute("aria-label")


def test_shading_by_value_weighted_attention(visit_site):
    page = visit_site("heads/L0H1.html")
    page.get_by_label("value-weighted attention").check()
    text = page.locator(".text").first
    weights = attention()[QUERY] * np.linspace(4, 1, len(TOKENS)) / 2.0
    depth = math.sqrt(weights[0])
    assert depths(text)[0] == pytest.approx(0.8 * depth if depth > 0.05 else 0, abs=4e-3)
    assert depths(text)[QUERY - 2] == pytest.approx(0.8 * math.sqrt(weights[QUERY]), abs=4e-3)
    # Where a text comes to lie under the pointer, that moves the query.
    page.mouse.move(0, 0)
    text.focus()
    assert f"{weights[QUERY - 1] * 2:.2f}" in page.inner_text("#readout")


def test_keys_lead_to_other_heads(visit_site):
    page = visit_site("heads/L1H2.html")
    page.keyboard.press("n")
    page.wait_for_url("**/L0H0.html")
    page.keyboard.press("p")
    page.wait_for_url("**/L1H2.html")
    with page.expect_navigation(url=re.compile(r"/L\dH\d\.html")):
        page.keyboard.press("r")
    page.locator(".units a").first.click()
    page.wait_for_url("**/L0H0.html")
    page.keyboard.press("/")
    page.wait_for_url("**/index.html#points")


def test_axes_and_colour_of_the_overview_can_be_chosen(visit_site):
    page = visit_site("index.html")
    points = page.locator("#points a")
    assert points.count() == len(NAMES)
    assert page.locator("#points .untrained circle").count() == len(NAMES)
    # Of the measure up there is no permuted control.
    assert page.locator("#points .permuted path").count() == 0
    across = points.locator("circle").evaluate_all("all => all.map((c) => Number(c.getAttribute('cx')))")
    up = points.locator("circle").evaluate_all("all => all.map((c) => Number(c.getAttribute('cy')))")
    assert across == sorted(across)
    assert up == sorted(up)
    page.select_option("#y", "a")
    assert page.locator("#points .permuted path").count() == len(NAMES)
    page.uncheck("#permuted")
    page.uncheck("#untrained")
    assert page.locator("#points .permuted path, #points .untrained circle").count() == 0
    # What a head does not have is no point.
    page.select_option("#x", "c")
    assert points.count() == len(NAMES) - 1
    page.select_option("#colour", "layer")
    assert page.inner_text("#legend").split() == ["layer:", "0", "1"]
    assert "What c is." in page.inner_text("#meanings")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_point_is_reached_by_keyboard_and_leads_to_its_head(visit_site):
    page = visit_site("index.html")
    page.focus("#permuted")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.name") == "L0H0"
    assert page.inner_text("#readout").startswith("L0H0: score a 0, ")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/heads/L0H1.html")


def test_the_table_of_heads_sorts_filters_and_links(visit_site):
    page = visit_site("index.html")
    rows = page.locator("#units tbody tr")
    assert rows.locator("th").all_text_contents() == NAMES
    page.get_by_role("button", name="score a").click()
    assert rows.first.locator("th").text_content() == "L1H2"
    page.fill("#filter", "planted")
    assert rows.locator("th").all_text_contents() == ["L1H1"]
    page.fill("#filter", "l0h2")
    assert rows.locator("th").all_text_contents() == ["L0H2"]
    rows.locator("a").first.click()
    page.wait_for_url("**/heads/L0H2.html")


def test_the_same_records_give_the_same_bytes_and_old_pages_go(site, tmp_path):
    write(tmp_path / "site")
    # A longer token is cut.
    assert all(len(token) < 3 * LONGEST_SHOWN for token in SHOWN)
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (site, tmp_path / "site")
    )
    assert one == other
    few = record()
    fewer = [next(heads())]
    write_head_pages(few, fewer, SiteFolder(tmp_path / "site", HEAD_PAGES), site_title="<Site>")
    assert [path.name for path in (tmp_path / "site" / "heads").iterdir()] == ["L0H0.html"]
