"""Neuron pages in a real browser: what they show, that nothing hostile gets through, and that bytes repeat."""

import re
from dataclasses import replace

import numpy as np
import pytest
from unit_site import DOCUMENT, HOOK, HOSTILE, OTHER, SHOWN, layer, record, write

from mi_superposition.corpora.tokens import LONGEST_SHOWN, token_strings, visible
from mi_superposition.errors import RequestError
from mi_superposition.neurons.scan import Excerpt
from mi_superposition.site.folder import UNITS, SiteFolder
from mi_superposition.site.unit_pages import write_unit_pages
from mi_superposition.site.unit_records import DocumentRecord, ScanRecord, unit_slug


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("neurons") / "site"
    write(out)
    return out


pytestmark = pytest.mark.browser


def test_tokens_show_as_text_with_their_activations(visit_site):
    page = visit_site("neurons/L0N7.html")
    items = page.locator(".examples > li")
    assert items.count() == 4
    spans = items.nth(1).locator(".text span")
    assert spans.all_text_contents() == DOCUMENT[:12]
    values = spans.evaluate_all("all => all.map((span) => span.dataset.value ?? null)")
    wanted = np.linspace(-1, 3, len(DOCUMENT))[:12]
    assert values[5] is None
    for value, number in zip(values, wanted, strict=True):
        assert value is None or abs(float(value) - number) < 4 / 4094
    assert spans.nth(2).get_attribute("class") == "peak"
    assert page.locator("code").all_text_contents()[: len(SHOWN)] == [token.replace(" ", "·") for token in SHOWN]
    # Above zero orange, below blue, the deeper the larger.
    grounds = items.nth(0).locator(".text span").evaluate_all("all => all.map((s) => s.style.backgroundColor)")
    assert "--fires" in grounds[-1]
    assert "--falls" in spans.first.get_attribute("style")
    depth = [float(re.search(r"/ ([\d.]+)", ground)[1]) for ground in grounds if ground]
    assert depth == sorted(depth)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_character_of_several_tokens_is_one_and_has_all_their_activations(browser, tmp_path):
    tokens = ["He said", "“", "", "", "Hi", "”", "", ""]
    values = np.array([0.0, 0.5, 3.0, -1.0, 0.25, 0.0, 0.0, 1.0])
    largest = Excerpt(70, 2, 3.0, 1, tokens[1:], 0, values.astype(np.float32))
    write_unit_pages(
        ScanRecord("Quoted", [], [], [layer(HOOK, 1)]),
        [replace(record(HOOK, 0, 1), top=[largest], bottom=[], tenths=[])],
        [DocumentRecord(70, tokens)],
        SiteFolder(tmp_path / "s", UNITS),
        site_title="s",
    )
    page = browser.new_page(bypass_csp=True)
    page.goto((tmp_path / "s" / "neurons" / "L0N0.html").as_uri())
    spans = page.locator(".text span")
    assert spans.all_text_contents() == ["“", "Hi", "”"]
    assert [spans.nth(n).get_attribute("class") for n in range(3)] == ["peak", None, None]
    page.locator(".text").focus()
    assert page.inner_text("#readout") == "““” 0.500, 3.000, -1.000 · tokens 2 to 4 of document 70"
    assert "/ 0.62" in spans.first.get_attribute("style")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#readout") == "“Hi” 0.250 · token 5 of document 70"
    page.get_by_role("button", name="whole document").click()
    page.wait_for_selector(".open")
    assert spans.all_text_contents() == ["He said", "“", "Hi", "”"]
    assert page.locator(".peak").text_content() == "“"
    page.close()


def test_values_by_pointer_and_by_keyboard(visit_site):
    page = visit_site("neurons/L0N7.html")
    text = page.locator(".text").first
    text.locator("span").nth(3).hover()
    assert page.inner_text("#readout").startswith("“ word32” ")
    assert "token 44 of document 70" in page.inner_text("#readout")
    text.focus()
    assert f"token {len(DOCUMENT)} of" in page.inner_text("#readout")
    page.keyboard.press("ArrowLeft")
    assert f"token {len(DOCUMENT) - 1} of" in page.inner_text("#readout")
    assert "Arrow keys" in text.get_attribute("aria-label")


def test_the_whole_document_is_one_click_away(visit_site):
    page = visit_site("neurons/L0N7.html")
    item = page.locator(".examples > li").nth(1)
    item.get_by_role("button").click()
    page.wait_for_function("document.querySelectorAll('.examples > li')[1].classList.contains('open')")
    assert item.locator(".text span").all_text_contents() == DOCUMENT
    assert item.locator(".text .peak").text_content() == DOCUMENT[2]
    item.get_by_role("button").click()
    assert item.locator(".text span").all_text_contents() == DOCUMENT[:12]


def test_keys_and_links_lead_on(visit_site):
    page = visit_site("neurons/L0N299.html")
    page.keyboard.press("n")
    page.wait_for_url("**/L0N0.html")
    page.keyboard.press("p")
    page.wait_for_url("**/L0N299.html")
    with page.expect_navigation(url=re.compile(r"/L0N\d+\.html")):
        page.keyboard.press("r")
    page.locator(".units a").first.click()
    page.wait_for_url(re.compile(r"/L0N\d+\.html"))
    page.keyboard.press("/")
    page.wait_for_url("**/index.html#search")
    assert page.evaluate("document.activeElement.id") == "search"
    page = visit_site(f"neurons/{unit_slug(OTHER, 2)}.html")
    page.keyboard.press("n")
    page.wait_for_url("**/blocks.1.hook_resid_pre.0.html")
    with page.expect_navigation(url=re.compile(r"/blocks\.1\.hook_resid_pre\.\d\.html")):
        page.keyboard.press("r")


def test_search_finds_a_planted_neuron(visit_site):
    page = visit_site("index.html")
    assert page.inner_text("h1") == f"Neurons of {HOSTILE[1]}"
    page.fill("#search", "Planted")
    page.wait_for_selector("#results a")
    assert page.locator("#results a").all_text_contents() == ["123"]
    page.locator("#results a").click()
    page.wait_for_url("**/L0N123.html")
    page = visit_site("index.html")
    page.fill("#search", "dog")
    page.wait_for_selector("#results a")
    assert "raises the logit of this token (300)" in page.inner_text("#results")
    page.fill("#search", "nothing has this")
    assert "no unit has this token" in page.inner_text("#found")


def test_a_layer_sorts_and_filters(visit_site):
    page = visit_site("neurons/L0.html")
    rows = page.locator("#units tbody tr")
    assert rows.count() == 200
    page.get_by_role("button", name="max").click()
    assert rows.first.locator("td").first.text_content() == "299"
    assert page.locator("th[aria-sort=descending]").count() == 1
    page.get_by_role("button", name="max").click()
    assert rows.first.locator("td").first.text_content() == "0"
    assert rows.first.locator("td").nth(1).text_content() == "–"
    page.get_by_role("button", name="More rows").click()
    assert rows.count() == 300
    page.fill("#filter", "planted")
    assert rows.count() == 1
    assert page.inner_text("#shown") == "1 of 300"
    page.fill("#filter", "17")
    assert rows.locator("th").all_text_contents() == ["17"]


def test_of_thousands_of_rows_a_few_hundred_are_drawn(browser, tmp_path):
    """What makes a table of 8,192 neurons quick: sorting it touches numbers, and only the first rows become elements."""
    n = 8192
    write_unit_pages(
        ScanRecord("Many", [], [], [layer(HOOK, n, 5)]), [], [], SiteFolder(tmp_path / "s", UNITS), site_title="s"
    )
    page = browser.new_page(bypass_csp=True)
    page.goto((tmp_path / "s" / "neurons" / "L0.html").as_uri())
    rows = page.locator("#units tbody tr")
    page.get_by_role("button", name="max").click()
    assert rows.first.locator("td").first.text_content() == str(n - 1)
    assert rows.count() == 200
    page.fill("#filter", "planted")
    assert rows.locator("th").all_text_contents() == ["5"]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shaded_text_can_be_read(browser, site, scheme):
    """Contrast of ink and the deepest ground, by the formula of WCAG 2.1, at least 4.5."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto((site / "neurons" / "L0N0.html").as_uri())
    ink, ground, paper = page.evaluate("""() => {
        const span = document.querySelector(".text .peak");
        return [getComputedStyle(span).color, getComputedStyle(span).backgroundColor, getComputedStyle(document.body).backgroundColor];
    }""")
    numbers = [[float(n) for n in re.findall(r"[\d.]+", colour)] for colour in (ink, ground, paper)]
    depth = numbers[1][3]
    mixed = [depth * a + (1 - depth) * b for a, b in zip(numbers[1][:3], numbers[2][:3], strict=True)]
    assert depth > 0.5
    brighter, darker = sorted((luminance(numbers[0][:3]), luminance(mixed)), reverse=True)
    assert (brighter + 0.05) / (darker + 0.05) >= 4.5
    context.close()


def luminance(colour):
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_page_says_what_it_is_to_a_screen_reader(visit_site):
    for address in ("index.html", "neurons/L0.html", "neurons/L0N0.html"):
        page = visit_site(address)
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.lang") == "en"
        unnamed = page.evaluate("""() => [...document.querySelectorAll("a, button, input, [role=group], svg[role=img], nav")]
            .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).length""")
        assert unnamed == 0
        assert page.evaluate("[...document.querySelectorAll('a[href]')].every((a) => a.href.startsWith('file:'))")


def test_the_same_records_give_the_same_bytes(site, tmp_path):
    before = {path: path.read_bytes() for path in site.rglob("*") if path.is_file()}
    write(site)
    assert {path: path.read_bytes() for path in site.rglob("*") if path.is_file()} == before
    write(tmp_path / "again")
    for path, content in before.items():
        assert (tmp_path / "again" / path.relative_to(site)).read_bytes() == content


def test_a_link_leads_to_a_page(site):
    for path in site.rglob("*.html"):
        for address in re.findall(r'(?:href|src)="([^"#?]+)', path.read_text()):
            assert (path.parent / address).exists(), (path.name, address)


def test_without_scripts_the_text_is_there(site):
    html = (site / "neurons" / "L0N0.html").read_text()
    assert "&lt;/script&gt;&lt;script&gt;window.broken" in html
    assert "<script>window" not in html
    assert "<img" not in html


def test_tokens_are_made_visible():
    assert visible(" plain") == " plain"
    assert visible("a\nb\tc\x00") == "a↵b⇥c\\u0000"
    assert visible("\u202e\u00a0\ufeff") == "\\u202e\\u00a0\\ufeff"
    assert visible("y" * 10_000) == "y" * LONGEST_SHOWN + "… (10,000 characters)"
    assert visible("é😀") == "é😀"
    assert visible("\ud800") == "\\ud800"


def test_every_token_has_a_string(tiny_gpt2):
    strings = token_strings(tiny_gpt2.hooked.tokenizer, 303)
    assert strings[300:] == ["<300>", "<301>", "<302>"]
    assert len(token_strings(tiny_gpt2.hooked.tokenizer, 200)) == 200
    tokenizer = tiny_gpt2.hooked.tokenizer
    for number in tokenizer(" the cat", add_special_tokens=False)["input_ids"]:
        assert strings[number] == tokenizer.decode([number])
    # A byte that begins a character of several shows as what it is.
    assert "\\xe2" in strings
    assert all(visible(string) for string in strings)


def test_a_smaller_export_removes_what_it_does_not_write(tmp_path):
    write(tmp_path / "s")
    few = ScanRecord("Few", [], [], [layer(HOOK, 2)])
    write_unit_pages(few, [record(HOOK, 0, 2)], [], SiteFolder(tmp_path / "s", UNITS), site_title="s")
    left = {path.name for path in (tmp_path / "s" / "neurons").rglob("*") if path.is_file()}
    assert left == {"L0N0.html", "L0.html", "index.html", "search.js"}


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.partial").write_text("mine")
    with pytest.raises(RequestError, match="holds other files"):
        write(tmp_path)
    assert (tmp_path / "thesis.partial").exists()
