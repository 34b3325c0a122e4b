"""What to cite is the package, and the papers of what a fit has used; each entry is whole."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import cellflow as cf
import known_fits
from cellflow.couplings import Exact
from cellflow.methods import METHODS
from cellflow.networks import NETWORKS


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{([^,]+),", text, re.M)


def entries(method) -> str:
    """What to cite for a fit of `method`, of which nothing else matters."""
    return cf.cite(replace(known_fits.fit(None), method=method))


def cited(method) -> list[str]:
    return keys(entries(method))


def test_without_a_fit_it_is_the_package():
    text = cf.cite()
    assert keys(text) == ["cellflow"] and cf.__version__ in text


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_papers_and_whole_entries(name):
    text = entries(METHODS[name]())
    assert len(keys(text)) == len(set(keys(text))) >= 2
    for entry in text.split("\n\n"):
        assert entry.startswith("@") and entry.endswith("\n}")
        assert entry.count("{") == entry.count("}")
        assert "title = {" in entry and "author = {" in entry


def test_papers_are_those_of_what_is_used(fit):
    assert cited(cf.OTCFM()) == ["cellflow", "tong2024improving"]
    assert "tong2024simulation" in cited(cf.SF2M())
    assert "peebles2023" in cited(cf.OTCFM(net=NETWORKS["dit"]()))
    assert "peebles2023" not in cited(cf.OTCFM())
    spectral = cf.OTCFM().by_cost("spectral")
    assert "lovasz1993" in cited(spectral) and isinstance(spectral.coupling, Exact)
    assert keys(cf.cite(fit)) == cited(fit.method)
