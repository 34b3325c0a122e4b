"""A page in a real browser, driven by the DevTools protocol over a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
REQUEST = "Network.requestWillBeSent"
#: Boxes of the figures and of the page, in pixels.
MEASURE = """JSON.stringify({
  figures: [...document.querySelectorAll("figure")].map(f => {
    const svg = f.querySelector("svg").getBoundingClientRect(), at = f.closest(".wide");
    const box = at.getBoundingClientRect();
    return {width: svg.width, height: svg.height, left: box.left, right: box.right,
      inside: svg.right <= box.right + 1 || getComputedStyle(at).overflowX === "auto"};
  }),
  page: document.documentElement.scrollWidth,
  links: [...document.querySelectorAll("a")].every(a => document.querySelector(a.hash)),
})"""


class Browser:
    """A browser that is asked by messages on a pipe, and what it has told of by itself."""

    def __init__(self, folder) -> None:
        (asked, self.ask), (self.answers, answered) = os.pipe(), os.pipe()
        # Below, 3 and 4 are those of the browser.
        asked, answered = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (asked, answered))
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        options += ["--disable-dev-shm-usage", f"--user-data-dir={folder}", "about:blank"]
        script = f'exec "$0" "$@" 3<&{asked} 4>&{answered}'
        self.process = subprocess.Popen(
            ["bash", "-c", script, BROWSER, *options],
            pass_fds=(asked, answered),
            stderr=subprocess.DEVNULL,
        )
        os.close(asked)
        os.close(answered)
        self.number, self.session, self.events, self.rest = 0, {}, [], b""
        (page,) = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        found = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.session = {"sessionId": found["sessionId"]}

    def __call__(self, method: str, **given):
        self.number += 1
        message = {"id": self.number, "method": method, "params": given, **self.session}
        os.write(self.ask, json.dumps(message).encode() + b"\0")
        return self.wait(lambda told: told.get("id") == self.number)["result"]

    def wait(self, wanted):
        while True:
            while b"\0" not in self.rest:
                if not select.select([self.answers], [], [], 60)[0]:
                    pytest.fail("the browser does not answer")
                self.rest += os.read(self.answers, 2**16) or pytest.fail("the browser has ended")
            line, self.rest = self.rest.split(b"\0", 1)
            told = json.loads(line)
            self.events.append(told)
            if wanted(told):
                return told

    def close(self) -> None:
        self("Browser.close")
        self.process.wait(20)
        os.close(self.ask)
        os.close(self.answers)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser"))
    for domain in ("Page", "Runtime", "Log", "Network"):
        opened(f"{domain}.enable")
    yield opened
    opened.close()


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_seen_and_nothing_is_asked_or_complained_of(width, browser, page):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser("Emulation.setDeviceMetricsOverride", **size)
    browser.events.clear()
    browser("Page.navigate", url=page.as_uri())
    browser.wait(lambda told: told.get("method") == "Page.loadEventFired")
    found = json.loads(browser("Runtime.evaluate", expression=MEASURE)["result"]["value"])
    assert len(found["figures"]) == 6
    for figure in found["figures"]:
        assert figure["width"] > 200 and figure["height"] > 80 and figure["inside"]
        assert figure["left"] >= 0 and figure["right"] <= width
    assert found["page"] <= width and found["links"]
    told = [e for e in browser.events if "method" in e]
    asked = [e["params"]["request"]["url"] for e in told if e["method"] == REQUEST]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [e for e in told if e["method"] in loud] == []


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_the_browser_would_tell_of_what_a_page_asks(browser, tmp_path):
    """The check above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text('<script>console.error("no")</script><img src="http://127.0.0.1:9/x.png">')
    browser.events.clear()
    browser("Page.navigate", url=bad.as_uri())
    browser.wait(lambda told: told.get("method") == "Page.loadEventFired")
    methods = [told.get("method") for told in browser.events]
    assert methods.count(REQUEST) == 2
    assert "Runtime.consoleAPICalled" in methods
