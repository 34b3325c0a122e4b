"""A real browser, driven by the DevTools protocol over a pipe, and what it finds on a page."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
REQUEST = "Network.requestWillBeSent"
LOUD = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
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
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

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

    def open(self, page: Path, width: int) -> dict:
        """Load `page` at so many pixels, and return figures, requests and complaints."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self("Emulation.setDeviceMetricsOverride", **size)
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        self.wait(lambda told: told.get("method") == "Page.loadEventFired")
        told = [event for event in self.events if "method" in event]
        asked = [e["params"]["request"]["url"] for e in told if e["method"] == REQUEST]
        found = json.loads(self("Runtime.evaluate", expression=MEASURE)["result"]["value"])
        return found | {
            "asked": [url for url in asked if not url.startswith("data:")],
            "complaints": [event for event in told if event["method"] in LOUD],
        }

    def close(self) -> None:
        self("Browser.close")
        self.process.wait(20)
        os.close(self.ask)
        os.close(self.answers)


def check(browser: Browser, page: Path, width: int) -> list[dict]:
    """Assert that each figure of `page` is seen, and nothing asked or complained of."""
    found = browser.open(page, width)
    for figure in found["figures"]:
        assert figure["width"] > 200 and figure["height"] > 80 and figure["inside"]
        assert figure["left"] >= 0 and figure["right"] <= width
    assert found["page"] <= width and found["links"]
    assert found["asked"] == [page.as_uri()]
    assert found["complaints"] == []
    return found["figures"]
