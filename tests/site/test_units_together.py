"""Many units in a file, in a real browser: each shows what a page of its own shows, by a link that lasts, and nothing hostile gets through."""

import re
import shutil
from dataclasses import replace

import pytest
from axe_playwright_python.sync_playwright import Axe
from unit_site import DOCUMENT, HOOK, HOSTILE, OTHER, layer, record, write

from mi_superposition.site.folder import UNITS, SiteFolder
from mi_superposition.site.records import Link
from mi_superposition.site.unit_chunks import TOGETHER, unit_chunks
from mi_superposition.site.unit_pages import write_unit_pages
from mi_superposition.site.unit_records import (
    DocumentRecord,
    ScanRecord,
    UnitValue,
    found_address,
    unit_address,
    unit_slug,
    units_slug,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "site"
    write(out, together=True)
    return out


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    out = tmp_path_factory.mktemp("separate") / "site"
    write(out)
    return out


def shown(page):
    page.wait_for_selector("main[aria-busy=false]")
    return page


# What a reader sees of a unit, and what its parts are told apart by.
CONTENT = """() => {
    const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => !e.closest("[hidden]")).map((e) => e.textContent.replace(/\\s+/g, " ").trim());
    return {
        name: seen("h1"), facts: seen(".facts dd"), headings: seen("main h2, main h3").filter(Boolean), tokens: seen(".tokens li"), units: seen(".units li"),
        examples: [...document.querySelectorAll(".examples > li")].map((item) => [item.dataset.at, item.querySelector("b").textContent, [...item.querySelectorAll(".text span")].map((span) => [span.textContent, span.className, span.dataset.place])]),
        path: document.querySelector(".histogram path").getAttribute("d"), box: document.querySelector(".histogram").getAttribute("viewBox"), ends: seen(".ends span"),
    };
}"""
VALUES = "() => [...document.querySelectorAll('.text span')].map((span) => span.dataset.value ?? null)"


@pytest.mark.parametrize(("hook", "unit"), [(HOOK, 0), (HOOK, 63), (HOOK, 64), (HOOK, 299), (OTHER, 2)])
def test_a_unit_shows_what_a_page_of_its_own_shows(hook, unit, visit_site, separate, browser):
    page = shown(visit_site(f"neurons/{units_slug(hook)}.html#{unit}"))
    found, values = page.evaluate(CONTENT), page.evaluate(VALUES)
    own = browser.new_page(bypass_csp=True)
    own.goto((separate / unit_address(hook, unit)).as_uri())
    assert found == own.evaluate(CONTENT)
    assert own.title() == page.title()
    # Activations in 256 steps of the range, 4 wide.
    for value, exact in zip(values, own.evaluate(VALUES), strict=True):
        assert (value is None) == (exact is None)
        assert value is None or abs(float(value) - float(exact)) <= 4 / 255 / 2 + 2e-3
    own.close()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_whole_document_and_values_by_keyboard(visit_site):
    page = shown(visit_site("neurons/L0N.html#7"))
    item = page.locator(".examples > li").nth(1)
    item.get_by_role("button").click()
    page.wait_for_selector(".open")
    assert item.locator(".text span").all_text_contents() == DOCUMENT
    assert item.locator(".text .peak").text_content() == DOCUMENT[2]
    page.locator(".text").first.focus()
    page.keyboard.press("ArrowLeft")
    assert f"token {len(DOCUMENT) - 1} of document 70" in page.inner_text("#readout")


def test_keys_and_links_lead_on(visit_site):
    page = shown(visit_site("neurons/L0N.html#299"))
    page.keyboard.press("n")
    page.wait_for_function("document.getElementById('name').textContent === 'Layer 0, neuron 0'")
    assert page.url.endswith("/neurons/L0N.html#0")
    # The heading has the focus, so that a reader hears where this is.
    page.wait_for_function("document.activeElement.id === 'name'")
    page.keyboard.press("p")
    page.wait_for_function("document.getElementById('name').textContent === 'Layer 0, neuron 299'")
    page.locator(".units a").first.click()
    page.wait_for_function("document.getElementById('name').textContent === 'Layer 0, neuron 0'")
    page.go_back()
    page.wait_for_function("document.getElementById('name').textContent === 'Layer 0, neuron 299'")
    page.evaluate("Math.random = () => 0.5")
    page.keyboard.press("r")
    page.wait_for_function("document.getElementById('name').textContent === 'Layer 0, neuron 150'")
    # A link that leads within the page is none to a unit: the address goes on naming this one.
    page.evaluate("location.hash = '#main'")
    page.wait_for_url("**/L0N.html#150")
    assert page.inner_text("#name") == "Layer 0, neuron 150"
    page.keyboard.press("/")
    page.wait_for_url("**/index.html#search")


def test_back_leads_to_where_the_reader_was(visit_site):
    page = shown(visit_site("neurons/L0N.html#299"))
    page.evaluate("window.scrollTo(0, 500)")
    page.wait_for_function("history.state?.y === 500")
    page.keyboard.press("n")
    page.wait_for_function(
        "document.getElementById('name').textContent === 'Layer 0, neuron 0' && window.scrollY === 0"
    )
    page.go_back()
    page.wait_for_function(
        "document.getElementById('name').textContent === 'Layer 0, neuron 299' && window.scrollY === 500"
    )
    # From another page too.
    page.goto(page.url.replace("L0N.html#299", "L0.html"))
    page.go_back()
    page.wait_for_function(
        "document.getElementById('name').textContent === 'Layer 0, neuron 299' && window.scrollY === 500"
    )


def test_a_number_that_no_unit_has(visit_site):
    page = shown(visit_site("neurons/L0N.html#300"))
    assert page.inner_text("#readout") == "“#300”: this layer has 0 to 299"
    page = shown(visit_site("neurons/L0N.html"))
    assert page.inner_text("h1") == "Layer 0, neuron 0"


@pytest.mark.parametrize("became", ["missing", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named(became, site, browser, tmp_path):
    shutil.copytree(site, tmp_path / "s")
    file = tmp_path / "s" / "neurons" / "L0N" / "1.js"
    content = file.read_bytes()
    file.unlink()
    if became == "damaged":
        file.write_bytes(content[: len(content) // 2])
    page = browser.new_page(bypass_csp=True)
    page.goto((tmp_path / "s" / "neurons" / "L0N.html").as_uri() + "#64")
    shown(page)
    assert page.inner_text("#readout") == f"L0N/1.js is {became}"
    page.keyboard.press("n")
    page.evaluate("location.hash = '#3'")
    page.wait_for_function("document.getElementById('name').textContent === 'Layer 0, neuron 3'")
    page.close()


@pytest.mark.parametrize("layout", ["together", "separate"])
@pytest.mark.parametrize("became", ["missing", "damaged", "of other letters"])
def test_a_file_of_documents_that_is_missing_or_damaged_is_named(layout, became, site, separate, browser, tmp_path):
    shutil.copytree(site if layout == "together" else separate, tmp_path / "s")
    page = browser.new_page(bypass_csp=True)
    page.goto((tmp_path / "s" / "neurons").as_uri() + ("/L0N.html#7" if layout == "together" else "/L0N7.html"))
    page.wait_for_selector(".examples > li")
    number = page.evaluate(
        "Math.floor(parseInt(document.querySelector('.examples > li').dataset.at) / document.getElementById('main').dataset.documents)"
    )
    file = tmp_path / "s" / "neurons" / "documents" / f"{number}.js"
    content = file.read_bytes()
    file.unlink()
    if became == "damaged":
        file.write_bytes(content[: len(content) // 2])
    elif became == "of other letters":
        file.write_text('neuronDocuments("!");\n')
    button = page.get_by_role("button", name="whole document").first
    button.click()
    said = "missing" if became == "missing" else "damaged"
    page.wait_for_function(f"document.getElementById('readout').textContent === 'documents/{file.name} is {said}'")
    # As soon as it is there again, it is shown.
    file.write_bytes(content)
    button.click()
    page.wait_for_selector(".open")
    page.close()


def test_tables_and_search_lead_to_units(visit_site):
    page = visit_site("index.html")
    page.fill("#search", "Planted")
    page.wait_for_selector("#results a")
    page.locator("#results a").click()
    shown(page)
    assert page.inner_text("h1") == "Layer 0, neuron 123"
    page = visit_site("index.html")
    page.get_by_role("link", name="All of them in one table").click()
    rows = page.locator("#units tbody tr")
    assert page.inner_text("#shown") == "303 of 303"
    page.get_by_role("button", name="max").click()
    assert rows.first.locator("td").first.text_content() == "299"
    for wanted, names in (("planted", ["L0N123"]), ("L0N7", ["L0N7"]), ("17", ["L0N17"])):
        page.fill("#filter", wanted)
        assert sorted(rows.locator("th").all_text_contents()) == names
    rows.last.locator("a").click()
    shown(page)
    assert page.inner_text("h1") == "Layer 0, neuron 17"
    page = visit_site("neurons/L0.html")
    page.fill("#filter", "17")
    page.locator("#units tbody a").click()
    assert shown(page).url.endswith("neurons/L0N.html#17")


def test_links_to_other_hooks_and_chapters(browser, tmp_path):
    """Of a hook without pages the name is there, and no link."""
    lists = {"Reads": [UnitValue(1, 0.5, OTHER), UnitValue(4, 0.25, "blocks.9.hook_resid_pre"), UnitValue(0, 0.125)]}
    one = replace(
        record(HOOK, 0, 1),
        unit_lists=lists,
        related={"Where:": [Link("<here>", "order.html#a=1"), Link("there", "b.html")]},
    )
    write_unit_pages(
        ScanRecord("Linked", [], [], [layer(HOOK, 1), layer(OTHER, 3)]),
        [one, *(record(OTHER, unit, 3) for unit in range(3))],
        [DocumentRecord(70, DOCUMENT)],
        SiteFolder(tmp_path / "s", UNITS),
        site_title="s",
        together=True,
    )
    page = browser.new_page(bypass_csp=True)
    page.goto((tmp_path / "s" / "neurons" / "L0N.html").as_uri())
    shown(page)
    assert page.locator(".units li").all_text_contents() == [
        f"{OTHER}.1 +0.50",
        "blocks.9.hook_resid_pre.4 +0.25",
        "0 +0.12",
    ]
    links = page.locator(".units a, .related a").evaluate_all("all => all.map((a) => a.getAttribute('href'))")
    assert sorted(links) == sorted([f"{OTHER}.units.html#1", "L0N.html#0", "../order.html#a=1", "../b.html"])
    assert page.inner_text(".related") == "Where: <here>, there"
    page.close()


def test_every_page_says_what_it_is(visit_site, site):
    for address in ("index.html", "neurons/all.html", "neurons/L0N.html#3"):
        page = visit_site(address)
        assert page.locator("h1").count() == 1
        unnamed = page.evaluate("""() => [...document.querySelectorAll("a, button, input, [role=group], svg[role=img], nav")]
            .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length)).length""")
        assert unnamed == 0
    without = re.search("<noscript>(.*?)</noscript>", (site / "neurons" / "L0N.html").read_text(), re.S)[1]
    assert "allow JavaScript" in without


@pytest.mark.parametrize("address", ["index.html", "neurons/all.html", "neurons/L0N.html#3"])
def test_pages_pass_axe(address, browser, site):
    page = browser.new_page(bypass_csp=True, viewport={"width": 390, "height": 800})
    page.goto(f"{site.as_uri()}/{address}")
    page.wait_for_function("document.querySelector('main[aria-busy=true]') === null")
    broken = Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"][:2]]) for rule in broken] == []
    page.close()


def test_files_are_few_and_the_same_every_time(site, separate, tmp_path):
    files = {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    chunks = {
        str(path)
        for path in files
        if re.fullmatch(r"neurons/[^/]+/\d+\.js", str(path)) and "documents" not in str(path)
    }
    assert chunks == {*(f"neurons/L0N/{n}.js" for n in range(5)), f"neurons/{OTHER}.units/0.js"}
    write(tmp_path / "again", together=True)
    for path, content in files.items():
        assert (tmp_path / "again" / path).read_bytes() == content
    # The other layout in the same place takes away what it does not write, and back.
    write(tmp_path / "again")
    assert {str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*") if p.is_file()} == {
        str(p.relative_to(separate)) for p in separate.rglob("*") if p.is_file()
    }
    write(tmp_path / "again", together=True)
    assert {p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()} == set(files)


def test_nothing_a_token_says_is_markup(site):
    for path in (site / "neurons").rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert "<script>window" not in text
        assert "<img" not in text
        assert HOSTILE[0] not in text


def test_addresses_that_are_found(site, separate):
    assert found_address(site, HOOK, 7) == "neurons/L0N.html#7"
    assert found_address(site, OTHER, 2) == f"neurons/{OTHER}.units.html#2"
    assert found_address(separate, HOOK, 7) == "neurons/L0N7.html"
    assert found_address(separate, OTHER, 2) == f"neurons/{unit_slug(OTHER, 2)}.html"
    assert found_address(separate / "assets", HOOK, 7) is None


def test_more_tokens_than_two_letters_can_count(browser, tmp_path):
    """4,096 are the most that two letters name; of more each has three."""
    many = [f"t{number}" for number in range(64**2 + 5)]
    units = [
        replace(record(HOOK, 0, 1), top=[replace(record(HOOK, 0, 1).top[0], tokens=many, first=0)]),
    ]
    write_unit_pages(
        ScanRecord("Many", [], [], [layer(HOOK, 1)]),
        units,
        [],
        SiteFolder(tmp_path / "s", UNITS),
        site_title="s",
        together=True,
    )
    page = browser.new_page(bypass_csp=True)
    page.goto((tmp_path / "s" / "neurons" / "L0N.html").as_uri())
    shown(page)
    assert page.locator("#largest .text span").all_text_contents() == many
    page.close()


def test_units_are_taken_a_file_at_a_time():
    taken = []

    def units():
        for unit in range(3 * TOGETHER):
            taken.append(unit)
            yield record(HOOK, unit, 3 * TOGETHER)

    address, _ = next(unit_chunks(units()))
    assert address == "L0N/0.js"
    assert len(taken) <= TOGETHER + 1
