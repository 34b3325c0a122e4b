"""Whether every relative link of a built site leads to a file, and every #place to one in it.

python .ci/links.py docs/_build
"""

from __future__ import annotations

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
        self.feed(file.read_text(encoding="utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember what a tag leads to, or is called."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.places.add(value)


def broken(site: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    page = cache(Page)
    found = []
    for file in sorted(site.rglob("*.html")):
        for link in sorted(page(file).links):
            scheme, host, path, _, place = urlsplit(link)
            if scheme or host:
                continue  # another site
            target = (file.parent / unquote(path)).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            lost = not target.is_file()
            if not lost and place and target.suffix == ".html":
                lost = unquote(place) not in page(target).places
            if lost:
                found.append(f"{file.relative_to(site)}: {link}")
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    lost = broken(site)
    sys.exit("\n".join(["Links that lead nowhere:", *lost]) if lost else 0)
