"""Pages from records: hostile text, the same bytes, and a real browser."""

import contextlib
import functools
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import plotly.graph_objects as go
import pytest

from mi_superposition.errors import RequestError
from mi_superposition.figures.style import styled
from mi_superposition.files import PARTIAL
from mi_superposition.site import FigureRecord, ImageRecord, Page, Section, TableRecord, write_site
from mi_superposition.site.folder import LIST
from mi_superposition.site.write import near

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    '"quotes" & \u202eright to left',
    "\ud83d lone surrogate",
    "new\nline",
]


def hostile_section():
    figure = styled(go.Figure(go.Bar(x=HOSTILE, y=[1, 2, 3, 4, 5], text=HOSTILE)), height=300)
    text = " ".join(HOSTILE)
    items = [
        FigureRecord("bars", text, text, text, text, figure),
        TableRecord("numbers", text, text, HOSTILE, [HOSTILE]),
        ImageRecord("picture", text, text, text, "pixel.gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"),
    ]
    page = Page("hostile", text, text, items)
    return Section("hostile", text, text, text, text, text, page, more=[Page("second", text, text, [])])


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_site([hostile_section()], tmp_path / name, title="Title", lead="Lead")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    write_site([hostile_section()], tmp_path / "one", title="Title", lead="Lead")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_site_cut_off_anywhere_is_made_whole(tmp_path, monkeypatch):
    import mi_superposition.site.folder as folder

    write_site([hostile_section()], tmp_path / "whole", title="Title", lead="Lead")
    real = folder.write_file
    for stop_at in range(8):
        written = []

        def cut_off(path, content, written=written, stop_at=stop_at):
            if len(written) == stop_at:
                raise KeyboardInterrupt
            written.append(path)
            real(path, content)

        monkeypatch.setattr(folder, "write_file", cut_off)
        site = tmp_path / f"cut-{stop_at}"
        with contextlib.suppress(KeyboardInterrupt):
            write_site([hostile_section()], site, title="Title", lead="Lead")
        assert not (site / "index.html").exists()
        monkeypatch.setattr(folder, "write_file", real)
        write_site([hostile_section()], site, title="Title", lead="Lead")
        assert files(site) == files(tmp_path / "whole")


def test_nothing_refers_to_the_network(tmp_path):
    write_site([hostile_section()], tmp_path / "site", title="Title", lead="Lead")
    for path in (tmp_path / "site").rglob("*"):
        if path.suffix in (".html", ".css") or path.name == "figures.js":
            text = path.read_text()
            assert "http:" not in text.replace("http://www.w3.org", "")
            assert "https:" not in text


def test_other_peoples_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RequestError, match=r"thesis\.tex"):
        write_site([], tmp_path, title="Title", lead="Lead")
    with pytest.raises(RequestError, match="is a file"):
        write_site([], tmp_path / "thesis.tex", title="Title", lead="Lead")


@pytest.mark.browser
def test_hostile_text_is_shown_as_text(tmp_path, visit):
    write_site([hostile_section()], tmp_path / "site", title=HOSTILE[0], lead=HOSTILE[1])
    for name in ("index", "hostile", "second"):
        page, problems, requests = visit(tmp_path / "site" / f"{name}.html", width=1440)
        assert page.evaluate("window.broken") is None
        assert requests == []
        # The picture of one pixel is cut short on purpose; nothing else may complain.
        assert [text for text in problems if "pixel.gif" not in text] == []
        assert HOSTILE[0] in page.inner_text("body")


@pytest.mark.browser
def test_sliders_move_the_figures(report_site, visit):
    page, _, _ = visit(report_site / "addition.html", width=1440)
    shown = "document.querySelector('[data-figure=ablation-maps-data]').data[0].z[3][4]"
    before = page.evaluate(shown)
    slider = page.locator("#ablation-maps input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    deadline = time.monotonic() + 5
    while page.evaluate(shown) == before:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)
    assert page.inner_text("#ablation-maps output") == "heads kept: none"
    assert slider.get_attribute("aria-valuetext") == "none"


def test_a_site_cut_off_at_its_first_file_is_written_over(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / f"{LIST}{PARTIAL}").write_text("{")
    write_site([hostile_section()], site, title="Title", lead="Lead")
    assert (site / "index.html").exists()
    assert not list(site.rglob(f"*{PARTIAL}"))


@pytest.fixture(params=["from disk", "from a server"])
def opened_site(request, tmp_path):
    """A site, and where it is opened."""
    write_site([hostile_section()], tmp_path / "site", title="Title", lead="Lead")
    if request.param == "from disk":
        yield tmp_path / "site", (tmp_path / "site").as_uri()
        return
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "site"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def elsewhere():
    """Another machine: its address, and what it was asked."""
    asked = []

    class Asked(QuietHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.browser
def test_what_gets_into_a_page_all_the_same_does_not_run(opened_site, elsewhere, browser):
    """As if something had not been escaped: scripts and handlers within the page, and pictures from elsewhere."""
    (folder, address), (other, asked) = opened_site, elsewhere
    page = folder / "hostile.html"
    put_in = (
        "<script>window.broken = 1</script><b id=b onclick='window.broken = 2'>b</b>"
        f"<img src=x onerror='window.broken = 3'><script src='{other}/evil.js'></script>"
        f"<img src='{other}/evil.png'><a id=a href='javascript:window.broken=4'>a</a>"
    )
    page.write_text(page.read_text().replace("</main>", put_in + "</main>"))
    window = browser.new_page()
    refused = []
    window.on("console", lambda message: refused.append(message.text))
    window.goto(f"{address}/hostile.html")
    window.locator("#b").click()
    window.locator("#a").click()
    # Its own figures are drawn.
    window.locator(".figure").first.scroll_into_view_if_needed()
    window.locator(".figure .main-svg").first.wait_for(state="attached")
    assert window.evaluate("window.broken") is None
    assert asked == []
    assert len([text for text in refused if "Content Security Policy" in text]) >= 5
    window.close()


@pytest.mark.parametrize(
    ("n", "here", "wanted"),
    [(12, 5, range(12)), (13, None, range(13)), (13, 5, range(3, 8)), (30, 0, range(3)), (30, 29, range(27, 30))],
)
def test_the_page_of_one_of_many_layers_leads_to_those_beside_it(n, here, wanted):
    assert near(range(n), here) == wanted
