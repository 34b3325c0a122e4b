"""Whether every relative link of a built site leads to a file, and every #place to one in it.

python .ci/links.py docs/_build
"""

from __future__ import annotations

import os
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Links, and places to link to, of one page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        if file.suffix == ".html":
            self.feed(file.read_text(encoding="utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what a tag leads to, or is called."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


@cache
def page(file: str) -> Page | None:
    """Return what is in a file, nothing of one that is no page, or None where there is no file."""
    if os.path.isdir(file):
        file = os.path.join(file, "index.html")
    return Page(Path(file)) if os.path.isfile(file) else None


def broken(site: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    found = []
    for file in sorted(site.rglob("*.html")):
        if "_modules" in file.parts:
            continue  # where a file has names of two rooms, Sphinx takes all to be of one
        for link in sorted(page(str(file)).links):
            scheme, host, path, _, place = urlsplit(link)
            if scheme or host:
                continue  # another site
            target = page(os.path.normpath(file.parent / unquote(path)) if path else str(file))
            if target is None or (place and unquote(place) not in target.places):
                found.append(f"{file.relative_to(site)}: {link}")
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    lost = broken(site)
    sys.exit("\n".join(["Links that lead nowhere:", *lost]) if lost else 0)
