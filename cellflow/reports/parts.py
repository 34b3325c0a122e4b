"""Parts of a report: sections, and figures that are vector graphics inside of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

#: Figures are enlarged, so that their text is nearly as large as that of the page; below this share
#: of their width, on a narrow screen, they are scrolled.
_SCALE, _LEAST = 1.25, 0.55


@dataclass(frozen=True)
class Section:
    """A `title`, sentences that it `says`, `points` to heed, and `parts`: tables and figures.

    The `text` is shown as it is written.
    """

    title: str
    says: Sequence[str] = ()
    points: Sequence[str] = ()
    parts: Sequence[str] = ()
    text: str = ""


def figure(name: str, draw: Callable[[], Axes | np.ndarray], *, caption: str, alt: str = "") -> str:
    """Return what `draw` draws, with its `caption` and, for those who do not see it, also `alt`.

    What is drawn is closed. The `name` tells its identifiers from those of other figures.
    """
    before, out = set(plt.get_fignums()), StringIO()
    with plt.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        try:
            drawn = np.ravel(np.asarray(draw(), dtype=object))[0].get_figure()
            drawn.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", out.getvalue(), flags=re.S)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head, rest = text[text.index("<svg") :].split(">", 1)
    wide = _SCALE * float(re.findall(r'width="([\d.]+)pt"', head)[0])
    head = re.sub(r' (width|height)="[\d.]+pt"', "", head)
    words, size = f"{caption} {alt}".strip(), f"width:{wide:.0f}pt;min-width:{_LEAST * wide:.0f}pt"
    svg = f'{head} role="img" aria-label="{escape(words)}" style="{size}">{rest}'
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
