"""What tests of pages share; ``site`` is a fixture of each file."""

import pytest


@pytest.fixture
def visit(browser, site):
    """Opens a page from disk, as wide as a phone; at the end there must have been no error, and no request outside the folder."""
    context = browser.new_context(bypass_csp=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: requests.append(request.url))

    def go(address):
        page.goto((site / address).as_uri())
        return page

    yield go
    assert problems == []
    assert [url for url in requests if not url.startswith(site.as_uri())] == []
    assert page.evaluate("window.broken") is None
    context.close()
