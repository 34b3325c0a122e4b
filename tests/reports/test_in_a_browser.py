"""The page in a real browser, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser import BROWSER, Browser, check

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_seen_and_nothing_is_asked_or_complained_of(width, browser, page):
    assert len(check(browser, page, width)) == 6


def test_the_browser_would_tell_of_what_a_page_asks(browser, tmp_path):
    """The check above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text('<script>console.error("no")</script><img src="http://127.0.0.1:9/x.png">')
    found = browser.open(bad, 800)
    assert len(found["asked"]) == 2 and found["complaints"]
