"""How to cite the package, and the papers of the methods that a fit has used."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

from cellflow.__about__ import __version__
from cellflow.fits import Ensemble, Fit
from cellflow.methods import METHODS

#: The bibliography that docstrings cite and the documentation prints.
BIBLIOGRAPHY = Path(__file__).parents[1] / "references.bib"
_SOFTWARE = f"""@software{{cellflow,
  title = {{cellflow: flow matching and {{Schrödinger}} bridges for single-cell time courses}},
  author = {{{{The cellflow developers}}}},
  version = {{{__version__}}}
}}"""


def cite(fit: Fit | Ensemble | None = None) -> str:
    """Return BibTeX of the package and of the papers that the parts of a `fit` implement.

    Those are the papers that the docstrings of its method, coupling, cost, path and networks name
    before they explain their settings; without a fit, the package alone.

    Examples
    --------
    >>> import cellflow as cf
    >>> cf.cite().splitlines()[0]
    '@software{cellflow,'
    """
    keys: dict[str, None] = {}  # in order
    for text in [] if fit is None else _docstrings(fit.method):
        for role in re.findall(r":cite(?::\w+)?:`([^`]+)`", text.partition("Parameters\n")[0]):
            keys |= dict.fromkeys(key.strip() for key in role.split(","))
    known = _entries()  # a part of the user's own may name a paper that is not there
    return "\n\n".join([_SOFTWARE, *(known[key] for key in keys if key in known)])


def _docstrings(part: object) -> Iterator[str]:
    """Yield the docstrings of a method, of its recipe and of its parts."""
    recipe = METHODS.get(getattr(part, "name", ""))
    for made in (getattr(recipe, "func", recipe), type(part)):
        yield made.__doc__ or ""
    for field in fields(part) if is_dataclass(part) else ():
        value = getattr(part, field.name)
        if is_dataclass(value):
            yield from _docstrings(value)


@cache
def _entries() -> dict[str, str]:
    """Return the entries of the bibliography by their keys."""
    text = BIBLIOGRAPHY.read_text(encoding="utf-8")
    return {m[1]: m[0] for m in re.finditer(r"^@\w+\{([^,]+),.*?^\}", text, re.M | re.S)}
