"""The way of a newcomer: a file of cells, the tutorial, CellRank, a stream, and a page to hand on.

`.ci/run stranger` walks it in a fresh environment, into which the wheel was installed.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import cellflow as cf
from browser import BROWSER, Browser, check

TUTORIAL = Path(__file__).parents[2] / "tutorials" / "2_counts_to_fates.md"
CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n(?::tags:[^\n]*\n)?(.*?)^```$", re.MULTILINE | re.DOTALL
)

pytest.importorskip("cellrank")
scvelo = pytest.importorskip("scvelo")
pytestmark = pytest.mark.filterwarnings("default")  # neighbours warn for reasons of their own


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> dict:
    """What the names of the tutorial hold once its cells have run, those that check it too."""
    import matplotlib

    matplotlib.use("agg")
    names: dict = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("newcomer"))
        for code in CELL.findall(TUTORIAL.read_text(encoding="utf8")):
            exec(compile(code, str(TUTORIAL), "exec"), names)
    return names


def test_the_tutorial_leaves_fates_with_intervals_drivers_and_files(walked):
    adata = walked["adata"]
    fates, error = adata.obsm["fates"], adata.obsm["fates_member_error"]
    known = fates.notna().all(axis=1)
    assert known.any()
    np.testing.assert_allclose(fates[known].sum(1), 1, atol=1e-6)
    before = (adata.obs["timepoint"] != "D11").to_numpy()  # the fates of the last day are seen
    assert error[before].stack().between(0, 1).all() and error[before].notna().all(axis=None)
    drivers = adata.uns["drivers_Epithelial"].dropna()  # a gene that does not vary has none
    assert len(drivers) > 800
    assert (drivers["low"] <= drivers["correlation"]).all()
    assert (drivers["correlation"] <= drivers["high"]).all()


def test_cellrank_takes_the_fit(walked):
    adata, fit = walked["adata"].copy(), walked["fit"]
    for kernel in ("velocity", "precomputed"):
        options = {"show_progress_bar": False} if kernel == "velocity" else None
        made = cf.tl.to_cellrank(adata, fit, kernel=kernel, options=options)
        rows = np.asarray(made.transition_matrix.sum(1)).ravel()
        np.testing.assert_allclose(rows, 1, atol=1e-5)


def test_scvelo_draws_the_stream(walked):
    adata = walked["adata"].copy()
    cf.tl.velocity(adata, walked["fit"], basis="umap")
    ax = scvelo.pl.velocity_embedding_stream(adata, basis="umap", color="cell_type", show=False)
    assert ax.patches or ax.collections


@pytest.mark.skipif(BROWSER is None, reason="no chromium")
def test_the_page_opens(walked, tmp_path):
    browser = Browser(tmp_path)
    try:
        assert len(check(browser, Path(walked["page"]), 1280)) >= 5
    finally:
        browser.close()
