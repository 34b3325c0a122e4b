"""The pages of docs/neighbours: their blocks run, in order, and what they find is true.

A page names the packages that it needs in its first lines, and is left out where one is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement

PAGES = Path(__file__).parents[2] / "docs" / "neighbours"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FATES = {"Ery", "Mk", "Mo", "Neu"}

# What the names of a page hold once it has run. The fate of each simulated cell is that of its
# run: chance is 1/4, and day 2 has parted.


def scanpy(page: dict[str, Any]) -> None:
    assert {"velocity_pca", "fates"} <= set(page["cells"].obsm)
    assert {"velocity", "Ms"} <= set(page["cells"].layers)
    assert page["right"][0] > 0.25 and page["right"][2] > 0.9


def ingest(page: dict[str, Any]) -> None:
    assert sum(page["shares"][kind] for kind in FATES) > 0.9
    assert all(abs(page["shares"][kind] - 0.25) < 0.08 for kind in FATES)


def cellrank(page: dict[str, Any]) -> None:
    assert all(right[0] > 0.25 and right[2] > 0.9 for right in page["right"].values())
    assert len(page["right"]) == 4


def scvelo(page: dict[str, Any]) -> None:
    for cells in (page["cells"], page["latent"]):
        ends = cells.obs.groupby("day")["end_points"].mean()
        assert ends.idxmax() == 3 and ends[3] > 2 * ends[0]
    roots = page["cells"].obs.groupby("day")["root_cells"].mean()
    assert roots.idxmax() == 0


def moscot(page: dict[str, Any]) -> None:
    shares = page["fates"].mean()
    assert set(shares.index) == FATES and all(abs(shares - 0.25) < 0.1)
    assert page["same"] < 1e-4


def squidpy(page: dict[str, Any]) -> None:
    np.testing.assert_allclose([page["middle"][kind] for kind in "AB"], [50, 125], atol=8)
    assert page["z"][0, 0] > 3 and page["z"][1, 1] > 3


def mudata(page: dict[str, Any]) -> None:
    np.testing.assert_allclose(page["found"]["rna"], [1, 0, 0], atol=0.2)
    np.testing.assert_allclose(page["found"]["protein"], [0, 2], atol=0.3)


def scvi(page: dict[str, Any]) -> None:
    predicted = page["new"].to_df().mean()
    assert np.corrcoef(predicted, page["truth"])[0, 1] > 0.9


def pertpy(page: dict[str, Any]) -> None:
    for name in ("edistance", "mmd"):
        flow, *others = page["found"][name].values()
        assert flow < min(others)
    assert page["table"].loc[0, 3] > page["table"].loc[2, 3]


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    check.__name__: check
    for check in (scanpy, ingest, cellrank, scvelo, moscot, squidpy, mudata, scvi, pertpy)
}


def missing(text: str) -> list[str]:
    """What a page needs, and is not installed."""
    named = re.search(r"\A---\nrequires: (.*)\n---$", text, re.MULTILINE)
    found = []
    for need in map(Requirement, named[1].split(", ") if named else ()):
        try:
            known = need.specifier.contains(version(need.name), prereleases=True)
        except PackageNotFoundError:
            known = False
        found += [] if known else [str(need)]
    return found


@pytest.mark.filterwarnings("ignore")  # those of the neighbours
@pytest.mark.parametrize("name", CHECKS)
def test_page_runs_and_is_true(name, tmp_path, monkeypatch):
    path = PAGES / f"{name}.md"
    text = path.read_text(encoding="utf8")
    if absent := missing(text):
        pytest.skip(f"needs {', '.join(absent)}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    page: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        source = "\n" * (text.count("\n", 0, block.start(1))) + block[1]
        exec(compile(source, str(path), "exec"), page)
    CHECKS[name](page)


def test_every_page_that_has_code_is_run():
    found = {path.stem for path in PAGES.glob("*.md") if BLOCK.search(path.read_text("utf8"))}
    assert found == set(CHECKS)


def test_what_a_page_needs_is_read():
    assert missing("---\nrequires: pytest, no-such-thing, pytest<1\n---\n") == [
        "no-such-thing",
        "pytest<1",
    ]
    assert missing("# A page\n") == []
