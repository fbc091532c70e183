"""The matrix viewer in a real browser, opened from disk."""

import pytest
import torch

from mi_superposition.neurons import cosine_similarity
from mi_superposition.site import Page, Section, write_site
from mi_superposition.site.records import MatrixRecord, MatrixView
from mi_superposition.site.unit_records import neuron_address

pytestmark = pytest.mark.browser
N = 600


@pytest.fixture(scope="module")
def matrix_site(tmp_path_factory):
    """A trained, a control and an unordered view; neurons 0 to 299 have pages."""
    generator = torch.Generator().manual_seed(0)
    trained, control = (cosine_similarity(torch.randn(N, 8, generator=generator)) for _ in range(2))
    order, other = torch.randperm(N, generator=generator), torch.randperm(N, generator=generator)
    views = [
        MatrixView("trained", "Trained", trained[order][:, order], order),
        MatrixView("control", "Control", control[other][:, other], other),
        MatrixView("unordered", "Unordered", trained, torch.arange(N), values_of="trained"),
    ]
    pages = {neuron: neuron_address(1, neuron) for neuron in range(300)}
    record = MatrixRecord("sim", "The matrix", "look", "n", "c", "cosine", views, [(40, 8), (500, 8)], pages)
    page = Page("order", "Order", "intro", [record])
    site = tmp_path_factory.mktemp("matrix") / "site"
    write_site([Section("order", "Order", "s", "1", "n", "c", page)], site, title="T", lead="")
    (site / "neurons").mkdir()
    for address in pages.values():
        (site / address).write_text("<title>neuron</title>")
    return site, {"trained": (trained, order), "control": (control, other), "unordered": (trained, torch.arange(N))}


@pytest.fixture(scope="module")
def window(browser):
    """One for all tests: it keeps the scripts compiled."""
    page = browser.new_page(bypass_csp=True, viewport={"width": 1200, "height": 1000})
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.on("request", lambda request: request.url.startswith("file://") or page.problems.append(request.url))
    yield page
    page.close()


@pytest.fixture
def page(window, matrix_site):
    site, _ = matrix_site
    window.problems.clear()
    window.mouse.move(0, 0)
    window.goto((site / "order.html").as_uri())
    window.wait_for_function("document.querySelector('canvas').dataset.level !== undefined")
    yield window
    assert window.problems == []


def canvas(page):
    return page.locator("canvas")


def state(page):
    return page.evaluate(
        "(({x, y, scale, view}) => ({x, y, scale, view: view.key}))(document.querySelector('.matrix').viewer)"
    )


def point_at(page, row, column):
    """Move the mouse over a cell's middle; the cell must be on the screen."""
    box, now = canvas(page).bounding_box(), state(page)
    page.mouse.move(
        box["x"] + (column + 0.5 - now["x"]) * now["scale"], box["y"] + (row + 0.5 - now["y"]) * now["scale"]
    )


def readout(page):
    page.wait_for_function("!document.querySelector('.matrix-readout').textContent.includes('…')")
    return page.locator(".matrix-readout").inner_text()


def zoom_to(page, row, column):
    page.evaluate(f"document.querySelector('.matrix').viewer.moveTo({column - 5}, {row - 5}, 24)")
    page.wait_for_function("document.querySelector('canvas').dataset.level === '0'")


@pytest.mark.parametrize("view", ["trained", "control", "unordered"])
@pytest.mark.parametrize(("row", "column"), [(3, 3), (20, 590), (590, 20), (300, 299)])
def test_the_readout_names_both_neurons_and_their_cosine(page, matrix_site, view, row, column):
    similarity, order = matrix_site[1][view]
    page.get_by_role("button", name=view.capitalize(), exact=True).click()
    zoom_to(page, row, column)
    point_at(page, row, column)
    a, b = int(order[row]), int(order[column])
    value = float((similarity[a, b] * 127).round() / 127)
    shown = f"{value:.2f}".replace("-", "−")
    assert readout(page) in {
        f"Neurons {a} and {b}: cosine {shown} (positions {row} and {column} in the order)",
        # Half a hundredth, rounded the other way by the other language.
        f"Neurons {a} and {b}: cosine {value + 1e-9:.2f} (positions {row} and {column} in the order)".replace("-", "−"),
        f"Neurons {a} and {b}: cosine {value - 1e-9:.2f} (positions {row} and {column} in the order)".replace("-", "−"),
    }


def test_the_pixels_are_the_matrix(page, matrix_site):
    """Strong entries look strong, on both sides of the diagonal, and the other view shows something else."""
    similarity, order = matrix_site[1]["trained"]
    shown = similarity[order][:, order].fill_diagonal_(0)
    place = int(shown.argmax())
    strongest, weakest = divmod(place, N), divmod(int(shown.abs().add(torch.eye(N)).argmin()), N)
    for row, column in (strongest, strongest[::-1], weakest, weakest[::-1]):
        zoom_to(page, row, column)
        page.wait_for_timeout(250)
        box, now = canvas(page).bounding_box(), state(page)
        middle = {"x": (column + 0.5 - now["x"]) * now["scale"], "y": (row + 0.5 - now["y"]) * now["scale"]}
        clip = {"x": box["x"] + middle["x"] - 2, "y": box["y"] + middle["y"] - 2, "width": 4, "height": 4}
        import io

        from PIL import Image

        red, green, blue = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB").getpixel((2, 2))
        if {row, column} == set(strongest):
            assert red > green + 50
            assert red > blue + 30
        else:
            assert min(red, green, blue) > 215


def test_wheel_zooms_where_the_pointer_is(page):
    point_at(page, 200, 400)
    for _ in range(6):
        page.mouse.wheel(0, -400)
    assert state(page)["scale"] > 10
    point = page.evaluate("document.querySelector('.matrix').viewer.cell")
    point_at(page, 200, 400)
    assert page.evaluate("document.querySelector('.matrix').viewer.cell") == {"row": 200, "column": 400}
    assert point is not None
    page.wait_for_function("document.querySelector('canvas').dataset.level === '0'")


def test_it_never_zooms_out_past_the_whole_nor_in_past_a_cell(page):
    for key in ("-", "+"):
        canvas(page).focus()
        for _ in range(30):
            page.keyboard.press(key)
        now = state(page)
        if key == "-":
            assert now["scale"] == pytest.approx(canvas(page).bounding_box()["height"] / N, rel=0.01)
        else:
            assert now["scale"] == 64


def test_keyboard_alone_is_enough(page, matrix_site):
    _, order = matrix_site[1]["trained"]
    canvas(page).focus()
    for _ in range(8):
        page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    first = readout(page)
    page.keyboard.press("ArrowDown")
    assert readout(page) != first
    before = state(page)
    page.keyboard.press(".")
    after = state(page)
    assert after["x"] - before["x"] == pytest.approx(after["y"] - before["y"], abs=2)
    assert after["x"] > before["x"]
    page.keyboard.press("Home")
    assert state(page)["scale"] < 2
    for _ in range(6):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") in ("BUTTON", "A")
    assert len(order) == N


def test_drag_moves(page):
    zoom_to(page, 300, 300)
    before = state(page)
    point_at(page, 300, 300)
    page.mouse.down()
    box = canvas(page).bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300, steps=4)
    page.mouse.up()
    after = state(page)
    assert (after["x"], after["y"]) != (before["x"], before["y"])
    assert after["scale"] == before["scale"]


def test_a_click_opens_the_pages_that_exist(page, matrix_site):
    _, order = matrix_site[1]["trained"]
    with_page = next(place for place, neuron in enumerate(order.tolist()) if neuron < 300)
    zoom_to(page, with_page, with_page)
    point_at(page, with_page, with_page)
    with page.context.expect_page() as opened:
        page.mouse.down()
        page.mouse.up()
    assert opened.value.url.endswith(neuron_address(1, int(order[with_page])))
    assert page.locator(".matrix-readout a").count() == 2
    without = next(place for place, neuron in enumerate(order.tolist()) if neuron >= 300)
    zoom_to(page, without, without)
    point_at(page, without, without)
    page.mouse.down()
    page.mouse.up()
    assert page.locator(".matrix-readout a").count() == 0
    # Off the diagonal one window opens, the row's: browsers allow no second one a click.
    other = next(place for place in range(with_page + 1, N) if int(order[place]) < 300)
    page.evaluate(f"document.querySelector('.matrix').viewer.moveTo({with_page - 3}, {other - 3}, 24)")
    point_at(page, other, with_page)
    with page.context.expect_page() as opened:
        page.mouse.down()
        page.mouse.up()
    assert opened.value.url.endswith(neuron_address(1, int(order[other])))
    page.wait_for_timeout(300)
    assert len(page.context.pages) == 3
    page.mouse.down(button="right")
    page.mouse.up(button="right")
    page.wait_for_timeout(300)
    assert len(page.context.pages) == 3


def test_spots_by_button_and_by_address(page, matrix_site):
    page.get_by_role("button", name="Next spot").click()
    now = state(page)
    middle = now["x"] + canvas(page).bounding_box()["width"] / now["scale"] / 2
    assert middle == pytest.approx(44, abs=1)
    page.goto((matrix_site[0] / "order.html").as_uri() + "#sim=500,8")
    page.wait_for_function("Math.abs(document.querySelector('.matrix').viewer.scale) > 10")
    now = state(page)
    assert now["x"] + canvas(page).bounding_box()["width"] / now["scale"] / 2 == pytest.approx(504, abs=1)


def test_two_fingers_zoom_on_a_phone(browser, matrix_site):
    context = browser.new_context(
        bypass_csp=True, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto((matrix_site[0] / "order.html").as_uri())
    page.wait_for_function("document.querySelector('canvas').dataset.level !== undefined")
    canvas(page).scroll_into_view_if_needed()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box, before = canvas(page).bounding_box(), state(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    devtools = context.new_cdp_session(page)

    def touch(kind, *points):
        devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]})

    touch("touchStart", (x - 20, y), (x + 20, y))
    for reach in range(30, 130, 10):
        touch("touchMove", (x - reach, y), (x + reach, y))
    touch("touchEnd")
    assert state(page)["scale"] > 3 * before["scale"]
    page.touchscreen.tap(x, y)
    assert "Neurons" in readout(page)
    context.close()
